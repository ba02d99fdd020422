"""Evaluation: scores of own samples and of others' folders, with networks of random weights."""

import contextlib
import io
import itertools
import json
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import one_device
import pytest
import safetensors.numpy
from conftest import once, tiny_config
from etils import epath
from flax.traverse_util import flatten_dict
from PIL import Image

from panoptic_jax.data import geometry, loader, scene_oracle
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.data.scenes import Scenes
from panoptic_jax.encoders import clip, clip_tokens, inception
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.export import sample_claim
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.machine import writer_lock
from panoptic_jax.machine.interruption import Interrupted, Interruption
from panoptic_jax.metrics import clip_score, cmmd, fid, mcd
from panoptic_jax.scoring import maps as map_scores
from panoptic_jax.scoring.features import Features, square
from panoptic_jax.scoring.networks import load_networks


def copy_of_run(folder, trained, sampled):
    """The config of the trained run, whose workdir, samples and data are copied to a folder."""
    workdir, config = folder / 'run', ml_collections.ConfigDict(trained[1].to_dict())
    shutil.copytree(sampled, workdir / 'samples')
    (workdir / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
    shutil.copy(trained[0] / 'metrics.jsonl', workdir)
    shutil.copytree(config.data.dir, folder / 'data')
    config.data.dir = str(folder / 'data')
    return config


def metrics_of(workdir, name='metrics.json'):
    return json.loads((workdir / name).read_text())


def save_tower(path, shapes, seed=0):
    """Random weights of linen shapes under torch's names and in its layout."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, leaf in flatten_dict(shapes, sep='.').items():
        name = re.sub(r'\.(kernel|scale|embedding)$', '.weight', name)
        value = rng.normal(0, 1 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape)
        if leaf.ndim == 1:
            value = rng.uniform(0.5, 1.5, leaf.shape)
        if name.endswith('.weight') and leaf.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif name.endswith('.weight') and leaf.ndim == 2 and 'embedding.' not in name:
            value = value.T
        tensors[name] = np.ascontiguousarray(value, np.float32)
    safetensors.numpy.save_file(tensors, path)


@pytest.fixture(scope='session')
def towers(tmp_path_factory):
    """A folder: inception.safetensors at full size, clip/ with a tiny CLIP and a vocabulary."""

    def make(folder):
        (folder / 'clip').mkdir(parents=True)
        key = jax.random.key(0)
        image = jnp.zeros((1, 299, 299, 3))
        shapes = jax.eval_shape(inception.Inception().init, key, image)['params']
        # Its classes are not used, but they tell FID's Inception from others.
        shapes['fc'] = {'kernel': jax.ShapeDtypeStruct((2048, 1008), jnp.float32)}
        save_tower(folder / 'inception.safetensors', shapes)
        text, vision = clip.Text(clip_tokens.VOCABULARY, 64, 1), clip.Vision(32, 64, 1)
        projection = {'kernel': jax.ShapeDtypeStruct((64, 48), jnp.float32)}
        shapes = {
            'text_model': jax.eval_shape(text.init, key, jnp.zeros((1, 77), int))['params'],
            'vision_model': jax.eval_shape(vision.init, key, image[:, :224, :224])['params'],
            'text_projection': projection,
            'visual_projection': projection,
        }
        save_tower(folder / 'clip' / 'model.safetensors', shapes)
        letters = [chr(i) for i in [*range(33, 127), *range(300, 462)]]
        pairs = [*itertools.product(letters, letters)][: clip_tokens.MERGES]
        words = [*letters, *(letter + '</w>' for letter in letters), *map(''.join, pairs)]
        words += ['<|startoftext|>', '<|endoftext|>']
        vocabulary = {word: number for number, word in enumerate(words)}
        (folder / 'clip' / 'vocab.json').write_text(json.dumps(vocabulary))
        lines = ['#version: 0.2', *map(' '.join, pairs)]
        (folder / 'clip' / 'merges.txt').write_text('\n'.join(lines))

    return once(tmp_path_factory, 'towers', make)


def with_towers(config, towers):
    config.evaluate.inception = str(towers / 'inception.safetensors')
    config.evaluate.clip = str(towers / 'clip')
    return config


# --- Scores of maps.


@pytest.fixture
def repeated(config):
    """Three training images as if they were drawn, and a function that scores images and maps."""
    split, manifest = loader.Split(config.data.dir, 'train'), open_manifest(config.data.dir)
    autoencoder, indices = load_autoencoder('pixels'), [5, 0, 3]
    records = [split[i] for i in indices]
    latents = np.stack([geometry.true_latents(record) for record in records])
    images = autoencoder.decode(latents)
    maps = np.stack([geometry.true_ids(record, 64, void_wins=False) for record in records])

    def measure(images, maps):
        pairs = SimpleNamespace(image=images.__getitem__, ids=maps.__getitem__)
        scores = map_scores.score_reproduction(
            pairs, indices, split, manifest=manifest, autoencoder=autoencoder
        )
        return [score.metric for score in scores]

    return images, maps, measure


def test_repeated_training_pictures_reach_the_ceiling(repeated):
    images, maps, measure = repeated
    agreement, correlation = measure(images, maps)
    assert agreement.value == 1 > agreement.yardsticks['floor']
    assert correlation.value == pytest.approx(correlation.yardsticks['ceiling'], abs=1e-6)
    assert correlation.value > 0.98
    assert correlation.yardsticks['floor'] < 0.9


def test_maps_that_are_half_wrong_agree_less(repeated):
    images, maps, measure = repeated
    maps[0, :32] = 133  # no scene has it: half of one map of three is wrong
    agreement, _ = measure(images, maps)
    assert agreement.value == pytest.approx(5 / 6)


def test_a_picture_of_one_colour_is_like_no_training_picture(repeated):
    """Its latents are constant, and a correlation would be NaN."""
    images, maps, measure = repeated
    black = np.zeros((256, 256, 3), np.uint8)
    _, correlation = measure([black, *images[1:]], maps)
    assert 0.6 < correlation.value < 0.7  # two of three


def test_noise_is_not_like_a_training_picture(repeated):
    images, maps, measure = repeated
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    _, correlation = measure([noise, *images[1:]], maps)
    assert 0.6 < correlation.value < 0.7  # two of three


# --- Own samples.


@pytest.fixture(scope='session')
def evaluated(tmp_path_factory, trained, sampled):
    """A folder: the workdir `run` of evaluated samples, `data`, and what was printed."""

    def make(folder):
        config, printed = copy_of_run(folder, trained, sampled), io.StringIO()
        with contextlib.redirect_stdout(printed):
            one_device.evaluate(config, folder / 'run')
        (folder / 'printed.txt').write_text(printed.getvalue())

    return once(tmp_path_factory, 'evaluated', make)


def test_scores_of_maps_and_scenes_are_written(evaluated):
    assert metrics_of(evaluated / 'run').keys() >= {
        'MCD', 'MCD/chance', 'MCD/best fixed map', 'thing_recall_map', 'colour_recall_image',
        'shape_recall_image', 'stuff_recall_map', 'stuff_recall_image', 'image_map_agreement',
        'image_map_agreement/ceiling', 'image_map_agreement/floor', 'pair_PQ', 'pair_SQ_things',
        'pair_RQ_stuff', 'pair_PQ_things/ceiling', 'pair_PQ/floor', 'void_share', 'crumb_share',
        'crumb_share/true maps', 'captioned_share', 'things_per_image', 'category_distance',
    }  # fmt: skip


def test_every_pair_is_scored_and_its_nearest_training_image_found(evaluated, trained, tmp_path):
    """Of the samples as a folder of others, so that nothing is drawn."""
    lines = (evaluated / 'run' / 'scores.jsonl').read_text().splitlines()
    config = ml_collections.ConfigDict(trained[1].to_dict())
    config.data.dir = str(evaluated / 'data')
    config.evaluate.folder = str(evaluated / 'run' / 'samples')
    config.evaluate.nearest = True
    one_device.evaluate(config, tmp_path)
    again = [json.loads(line) for line in (tmp_path / 'scores_run_samples.jsonl').open()]
    nearest = [line.pop('nearest') for line in again]
    assert again == [json.loads(line) for line in lines]
    known = loader.Split(config.data.dir, 'train').image_ids()
    assert all(each['image'] in known and 0 < each['distance'] < 2 for each in nearest)
    content = json.loads((tmp_path / 'quality_run_samples.json').read_text())
    assert content['nearest']['pairs'] == len(again) == content['pairs'] == 6
    assert 'near_copies' in metrics_of(tmp_path, 'metrics_run_samples.json')
    assert (evaluated / 'data' / 'reference' / 'looks-train.npz').exists()
    config.evaluate.synonyms = str(tmp_path / 'none.json')
    with pytest.raises(FileNotFoundError, match=r'evaluate\.synonyms names it'):
        one_device.evaluate(config, tmp_path)


def test_every_score_says_how_it_was_measured(evaluated):
    for name, entry in metrics_of(evaluated / 'run').items():
        assert entry.keys() == {'value', 'n', 'nfe', 'guidance', 'ema', 'weights', 'label'}
        assert (entry['nfe'], entry['guidance'], entry['ema']) == (3, 1.0, True)
        assert entry['weights'] == 'step 12'
        assert entry['n'] == (8 if '/' in name else 6)
        assert entry['label'].endswith(f'/{entry["n"]}/nfe3/guidance1.0/ema')


def test_every_score_is_printed(evaluated):
    table = (evaluated / 'printed.txt').read_text()
    for entry in metrics_of(evaluated / 'run').values():
        line = rf'^{re.escape(entry["label"])} +{entry["value"]:.4f}$'
        assert re.search(line, table, re.MULTILINE)


def test_mcd_is_that_of_the_captions_own_maps(evaluated):
    split = loader.Split(str(evaluated / 'data'), 'validation')
    truth = np.stack([geometry.true_ids(split[i], 64, void_wins=False) for i in range(6)])
    pairs = Pairs(evaluated / 'run' / 'samples', map_side=64)
    maps = np.stack([pairs.ids(i) for i in range(6)])
    metrics = metrics_of(evaluated / 'run')
    assert metrics['MCD']['value'] == pytest.approx(mcd.mcd(maps, truth).mean())


def test_true_scenes_agree_with_their_maps(evaluated):
    metrics = metrics_of(evaluated / 'run')
    assert metrics['image_map_agreement/ceiling']['value'] > 0.9
    assert metrics['pair_PQ/floor']['value'] < 0.3 < 0.8 < metrics['pair_PQ/ceiling']['value']


def test_a_finished_folder_is_not_extended_to_the_whole_split(trained, sampled, tmp_path, caplog):
    """Six of the split's eight images are drawn; count 0 used to draw the others before scoring."""
    workdir, config = tmp_path / 'run', copy_of_run(tmp_path, trained, sampled)
    config.sample.count = 0
    folder = workdir / 'samples'
    before = {path: path.read_bytes() for path in folder.rglob('*.*') if path.name != 'report.html'}
    with caplog.at_level(logging.INFO, logger='absl'):
        one_device.evaluate(config, workdir)
    assert metrics_of(workdir)['MCD']['n'] == 6
    assert {path: path.read_bytes() for path in before} == before
    assert len([*folder.rglob('*.png')]) == 18
    (line,) = [line for line in caplog.messages if 'is finished with 6 pairs' in line]
    assert "--config.sample.count=8 draws one for each image of the split 'validation'" in line
    assert config.sample.count == 0

    # A job that was killed is finished first, with all that was asked for.
    (folder / 'unfinished.json').write_text('{}')
    one_device.evaluate(config, workdir)
    assert metrics_of(workdir)['MCD']['n'] == 8
    assert {path: path.read_bytes() for path in before if path.suffix == '.png'} == {
        path: content for path, content in before.items() if path.suffix == '.png'
    }
    config.sample.count = 9
    one_device.evaluate(config, workdir)
    assert metrics_of(workdir)['MCD']['n'] == 9


def test_only_a_finished_folder_has_finished_pairs(sampled, tmp_path):
    assert sample_claim.finished_pairs(epath.Path(tmp_path / 'nowhere')) == 0
    folder = epath.Path(shutil.copytree(sampled, tmp_path / 'samples'))
    assert sample_claim.finished_pairs(folder) == 6
    (folder / 'unfinished.json').write_text('{}')
    assert sample_claim.finished_pairs(folder) == 0


@pytest.fixture
def page(evaluated):
    """The text of the evaluated samples' page."""
    return (evaluated / 'run' / 'samples' / 'report.html').read_text()


def test_the_page_shows_pairs_and_scores(evaluated, page):
    captions = Pairs(evaluated / 'run' / 'samples').entries
    (text,) = re.findall(r'id="rows">(.*?)</script>', page)
    rows = json.loads(text)
    assert [caption for _, caption, *_ in rows] == [entry['caption'] for entry in captions]
    # The page sorts by the MCD of each pair, its first score, and by others.
    distances = [scores[0] for _, _, scores, *_ in rows]
    mean = metrics_of(evaluated / 'run')['MCD']['value']
    assert np.mean(distances) == pytest.approx(mean, rel=1e-4)
    assert 'best fixed map' in page
    assert 'id="mean-image"' in page  # the curve


def test_the_page_needs_no_other_file(page):
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert page.count('data:image/png') == 6
    assert not re.findall(r'https?://(?!www\.w3\.org/)', page)


# --- Scores of images by networks.


@pytest.fixture(scope='session')
def scored(tmp_path_factory, trained, sampled, towers):
    """A folder like `evaluated`, scored after an interruption; it lists the computed chunks."""

    def make(folder):
        config = with_towers(copy_of_run(folder, trained, sampled), towers)
        compute, chunks, limit = Features.compute, [], 2

        def counted(features, start):
            if len(chunks) == limit:
                raise KeyboardInterrupt
            chunks.append(start)
            compute(features, start)

        with pytest.MonkeyPatch.context() as patch:
            # The interruption comes between two chunks.
            patch.setattr(Features, 'compute', counted)
            with pytest.raises(KeyboardInterrupt):
                one_device.evaluate(config, folder / 'run', chunk=4)
            assert not (folder / 'run' / 'metrics.json').exists()
            limit = None
            one_device.evaluate(config, folder / 'run', chunk=4)
        (folder / 'chunks.json').write_text(json.dumps(chunks))

    return once(tmp_path_factory, 'scored', make)


@pytest.fixture
def scored_config(scored, trained, towers):
    """The config of that evaluation."""
    config = with_towers(ml_collections.ConfigDict(trained[1].to_dict()), towers)
    config.data.dir = str(scored / 'data')
    return config


def test_a_restart_computes_each_chunk_once(scored):
    """Chunks of 4 of 8 real pictures and 6 samples."""
    assert sorted(json.loads((scored / 'chunks.json').read_text())) == [0, 0, 4, 4]


def test_scores_of_images_stand_beside_those_of_maps(scored):
    metrics = metrics_of(scored / 'run')
    assert {'MCD', 'FID', 'CLIP score', 'CMMD'} <= metrics.keys()
    assert metrics['FID']['label'] == 'FID/6/nfe3/guidance1.0/ema'


@pytest.fixture
def networks(scored_config):
    evaluate = scored_config.evaluate
    return load_networks(evaluate.inception, evaluate.clip, devices=one_device.devices(), chunk=2)


@pytest.fixture
def images(scored, scored_config):
    """The six samples and the eight real images (n, 256, 256, 3), each all at once."""
    pairs, source = Pairs(scored / 'run' / 'samples'), Scenes(0, 8, 'validation')
    assert scored_config.data.scene_seed == 0
    real = [square(source[i].image) for i in range(8)]
    return np.stack([pairs.image(i) for i in range(6)]), np.stack(real)


def embedded(networks, images):
    return networks.clip_images(np.stack([clip.fit(image) for image in images]))


def test_fid_is_that_of_all_images_at_once(scored, networks, images):
    one, other = (fid.statistics([networks.inception(batch)]) for batch in images)
    expected = fid.frechet_distance(one, other)
    assert metrics_of(scored / 'run')['FID']['value'] == pytest.approx(expected, rel=1e-4)


def test_cmmd_is_that_of_all_images_at_once(scored, networks, images):
    expected = cmmd.cmmd(*(embedded(networks, batch) for batch in images))
    assert metrics_of(scored / 'run')['CMMD']['value'] == pytest.approx(expected, rel=1e-4)


def test_clip_score_is_that_of_all_images_at_once(scored, networks, images):
    split = loader.Split(str(scored / 'data'), 'validation')
    texts = [networks.clip_captions(split[i]['captions']) for i in range(6)]
    expected = clip_score.clip_scores(embedded(networks, images[0]), texts).mean()
    assert metrics_of(scored / 'run')['CLIP score']['value'] == pytest.approx(expected, rel=1e-4)


def statistics_of(folder):
    """The file of statistics beside the data."""
    (path,) = (folder / 'data' / 'reference').glob('*.npz')
    return path


def test_statistics_lie_with_the_data_and_say_what_they_are_of(scored):
    statistics, provenance = fid.read(statistics_of(scored))
    assert statistics.count == 8
    assert provenance['pictures']['split'] == 'validation'


def test_statistics_serve_the_next_run(scored, scored_config, tmp_path):
    shutil.copytree(scored / 'run', tmp_path / 'run', symlinks=True)
    scored_config.evaluate.reference = str(statistics_of(scored))
    scored_config.evaluate.clip = ''
    one_device.evaluate(scored_config, tmp_path / 'run', chunk=4)
    metrics, before = metrics_of(tmp_path / 'run'), metrics_of(scored / 'run')
    assert metrics['FID']['value'] == pytest.approx(before['FID']['value'], rel=1e-6)
    assert 'CMMD' not in metrics


# --- Folders of others.


# Category 2 of scenes.
CATEGORY = Scenes(0, 1, 'train').categories[1].name


def others_folder(path, split, maps=True):
    """Makes a folder of two pictures of odd sizes, with captions by image_id and half-void maps."""
    (path / 'images').mkdir(parents=True)
    rng = np.random.default_rng(0)
    captions, annotations = [], []
    (path / 'panoptic').mkdir()
    for i in range(2):
        name = f'picture{i}'
        picture = rng.integers(0, 256, (300, 280 + i, 3), np.uint8)
        Image.fromarray(picture).save(path / 'images' / f'{name}.jpg')
        captions.append({'file_name': f'{name}.jpg', 'image_id': int(split[i]['image_id'])})
        ids = np.full((96, 96, 3), 0, np.uint8)
        ids[:48, :, 0] = 7  # segment 7, of category 2; the rest is void
        Image.fromarray(ids).save(path / 'panoptic' / f'{name}.png')
        segments = [{'id': 7, 'category_id': 2}]
        annotations.append({'file_name': f'{name}.png', 'segments_info': segments})
    (path / 'captions.json').write_text(json.dumps(captions))
    if maps:
        content = {'annotations': annotations, 'categories': [{'id': 2, 'name': CATEGORY}]}
        (path / 'panoptic.json').write_text(json.dumps(content))
    return path


@pytest.fixture(scope='session')
def theirs(tmp_path_factory, scenes, towers):
    """A folder: the workdir `run` of the scores of others' pairs in `theirs`, and `data`."""

    def make(folder):
        shutil.copytree(scenes, folder / 'data')
        config = tiny_config(folder / 'data')
        split = loader.Split(config.data.dir, 'validation')
        config.evaluate.folder = str(others_folder(folder / 'theirs', split))
        config.evaluate.clip = str(towers / 'clip')
        one_device.evaluate(config, folder / 'run')

    return once(tmp_path_factory, 'theirs', make)


def scores_of_theirs(theirs):
    return metrics_of(theirs / 'run', 'metrics_theirs_theirs.json')


def test_images_of_others_are_scored(theirs):
    metrics = scores_of_theirs(theirs)
    assert metrics['CLIP score']['label'] == 'CLIP_score/2'
    assert metrics['CLIP score']['weights'] == 'theirs'


def test_maps_of_others_are_scored_in_the_stored_size(theirs):
    split = loader.Split(str(theirs / 'data'), 'validation')
    maps = [geometry.true_ids(split[i], 128, void_wins=False) for i in range(2)]
    truth = [mcd.histograms(ids[None])[0] for ids in maps]
    share = np.zeros(256)
    share[[0, 2]] = 0.5
    expected = np.mean([np.abs(share - own).sum() for own in truth])
    assert scores_of_theirs(theirs)['MCD']['value'] == pytest.approx(expected)


def test_scores_of_others_leave_those_of_the_run_alone(theirs):
    names = {path.name for path in (theirs / 'run').iterdir()}
    assert {'metrics_theirs_theirs.json', 'tensorboard'} <= names
    assert 'metrics.json' not in names


def with_maps(config):
    """The config of `unmapped`, whose folder gets back its maps."""
    folder = Path(config.evaluate.folder)
    shutil.rmtree(folder)
    others_folder(folder, loader.Split(config.data.dir, 'validation'))
    return config


@pytest.fixture
def unmapped(config, tmp_path):
    """A config that names a folder of others without maps."""
    split = loader.Split(config.data.dir, 'validation')
    config.evaluate.folder = str(others_folder(tmp_path / 'theirs', split, maps=False))
    return config


def test_a_folder_without_maps_and_networks_cannot_be_scored(unmapped, tmp_path):
    expected = (
        r'theirs can be scored\. Left out: FID \(--config\.evaluate\.inception=FILE .*; MCD \('
    )
    with pytest.raises(ValueError, match=expected):
        one_device.evaluate(unmapped, tmp_path)


def test_images_of_scenes_are_read_without_maps(unmapped, tmp_path):
    """What a model of the image alone draws, say: its images had no score at all."""
    folder = Path(unmapped.evaluate.folder)
    examples = [Scenes(1, 4, 'validation')[number] for number in range(4)]
    shutil.rmtree(folder / 'images')
    (folder / 'images').mkdir()
    captions = []
    for number, example in enumerate(examples):
        Image.fromarray(example.image).save(folder / 'images' / f'{number}.png')
        caption = examples[number // 2 * 2].captions[0]  # that of another scene for every second
        captions.append({'file_name': f'{number}.png', 'caption': caption})
    (folder / 'captions.json').write_text(json.dumps(captions))
    one_device.evaluate(unmapped, tmp_path / 'run')
    (written,) = (tmp_path / 'run').glob('metrics_*.json')
    metrics = metrics_of(tmp_path / 'run', written.name)
    for name in ('colour_recall_image', 'shape_recall_image', 'stuff_recall_image'):
        own = [
            scene_oracle.score_image(example.image, caption['caption'])[name]
            for example, caption in zip(examples, captions, strict=True)
        ]
        assert 0 < np.mean(own) < 1
        assert metrics[name]['value'] == pytest.approx(np.mean(own))
        assert metrics[f'{name}/floor']['value'] < metrics[f'{name}/ceiling']['value']
    assert not {'thing_recall_map', 'image_map_agreement', 'pair_PQ', 'MCD'} & set(metrics)


def test_missing_networks_are_named(unmapped, tmp_path):
    unmapped.evaluate.inception = str(tmp_path / 'nowhere')
    with pytest.raises(
        ValueError, match=r'FID \(evaluate\.inception is .*; give the path of Incep'
    ):
        one_device.evaluate(unmapped, tmp_path)


def test_networks_that_are_not_there_leave_the_other_scores(evaluated):
    lines = (evaluated / 'printed.txt').read_text().splitlines()
    (line,) = [line for line in lines if line.startswith('Left out: ')]
    assert re.search(r'FID \(--config\.evaluate\.inception=FILE adds it, with the weights', line)
    assert re.search(r'CLIP score and CMMD \(--config\.evaluate\.clip=DIR adds them, with', line)
    assert 'MCD (' not in line


def test_an_interrupted_evaluation_writes_no_scores(scored_config, scored, tmp_path):
    shutil.copytree(scored / 'run', tmp_path / 'run', symlinks=True)
    (tmp_path / 'run' / 'metrics.json').unlink()
    asked = Interruption()
    asked.asked = lambda: True
    with pytest.raises(Interrupted):
        one_device.evaluate(scored_config, tmp_path / 'run', chunk=4, interruption=asked)
    assert not (tmp_path / 'run' / 'metrics.json').exists()


def test_a_second_evaluation_of_a_workdir_is_refused(unmapped, tmp_path):
    config = with_maps(unmapped)
    with (
        writer_lock.writing(tmp_path / 'features', 'evaluation'),
        pytest.raises(ValueError, match='evaluation'),
    ):
        one_device.evaluate(config, tmp_path)


def test_samples_of_scenes_are_not_scored_with_other_data(scored_config, scored, tmp_path):
    """The example of the issue: their MCD was printed."""
    data = tmp_path / 'data'
    shutil.copytree(scored_config.data.dir, data)
    content = json.loads((data / 'manifest.json').read_text())
    for entry in content['categories']:
        entry['name'] = f'COCO {entry["name"]}'
    (data / 'manifest.json').write_text(json.dumps(content))
    scored_config.data.dir = str(data)
    scored_config.evaluate.inception = scored_config.evaluate.clip = ''
    shutil.copytree(scored / 'run', tmp_path / 'run', symlinks=True)
    with pytest.raises(ValueError, match=r'The model, beside data\.dir .* has categories that'):
        one_device.evaluate(scored_config, tmp_path / 'run')
    scored_config.evaluate.folder = str(tmp_path / 'run' / 'samples')
    with pytest.raises(
        ValueError, match=r'panoptic_generated\.json has categories that the prepared'
    ):
        one_device.evaluate(scored_config, tmp_path / 'run')


def test_missing_statistics_are_named(unmapped, towers, tmp_path):
    unmapped.evaluate.inception = str(towers / 'inception.safetensors')
    unmapped.evaluate.reference = str(tmp_path / 'nowhere.npz')
    with pytest.raises(FileNotFoundError, match='no file of reference statistics'):
        one_device.evaluate(unmapped, tmp_path)


def test_missing_pictures_are_named(unmapped):
    folder = Path(unmapped.evaluate.folder)
    (folder / 'images' / 'picture1.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'lacks 1 of the 2 pictures .* picture1\.jpg'):
        Pairs(folder)
