"""Evaluation: scores of own samples and of others' folders, with networks of random weights."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import safetensors.numpy
from conftest import once
from flax.traverse_util import flatten_dict
from PIL import Image

from panoptic_jax import evaluate
from panoptic_jax.data import geometry, loader, manifest, scenes
from panoptic_jax.encoders import clip, clip_tokens, inception
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.metrics import clip_score, cmmd, fid, mcd
from panoptic_jax.scoring import images as image_scores
from panoptic_jax.scoring import maps as map_scores

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture
def run(trained, sampled, tmp_path):
    """(workdir, config) of the trained run with its samples, in a folder of this test's own."""
    workdir = tmp_path / 'run'
    shutil.copytree(sampled, workdir / 'samples')
    (workdir / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
    shutil.copy(trained[0] / 'metrics.jsonl', workdir)
    return workdir, ml_collections.ConfigDict(trained[1].to_dict())


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
        letters = [chr(i) for i in range(33, 127)]
        words = [*letters, *(letter + '</w>' for letter in letters)]
        words += ['ab', *(f'filler{i}' for i in range(clip_tokens.VOCABULARY - len(words) - 3))]
        words += ['<|startoftext|>', '<|endoftext|>']
        vocabulary = {word: number for number, word in enumerate(words)}
        (folder / 'clip' / 'vocab.json').write_text(json.dumps(vocabulary))
        (folder / 'clip' / 'merges.txt').write_text('#version: 0.2\na b\n')

    return once(tmp_path_factory, 'towers', make)


def with_towers(config, towers):
    config.evaluate.inception = str(towers / 'inception.safetensors')
    config.evaluate.clip = str(towers / 'clip')
    return config


def test_reproduction_of_training_pictures_is_scored(config):
    split = loader.Split(config.data.dir, 'train')
    opened = manifest.open_manifest(config.data.dir)
    indices = [5, 0, 3]
    records = [split[i] for i in indices]
    latents = np.stack([geometry.true_latents(record) for record in records])
    images = load_autoencoder('pixels').decode(latents)
    maps = np.stack([geometry.true_ids(record, 64, False) for record in records])

    def measured(images, maps):
        pairs = SimpleNamespace(image=images.__getitem__, ids=maps.__getitem__)
        found = map_scores.score_reproduction(pairs, indices, split, opened, config)
        return [score.metric for score in found]

    agreement, correlation = measured(images, maps)
    assert agreement.value == 1 > agreement.yardsticks['floor']
    assert correlation.value == pytest.approx(correlation.yardsticks['ceiling'], abs=1e-6)
    assert correlation.value > 0.98
    assert correlation.yardsticks['floor'] < 0.9
    maps[0, :32] = 133  # no scene has it: half of one map of three is wrong
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    agreement, correlation = measured([noise, *images[1:]], maps)
    assert agreement.value == pytest.approx(5 / 6)
    assert 0.6 < correlation.value < 0.7  # two of three


def test_evaluation_writes_metrics_and_page(run, capsys):
    workdir, config = run
    evaluate.evaluate(config, str(workdir))
    table = capsys.readouterr().out
    metrics = json.loads((workdir / 'metrics.json').read_text())
    expected = {
        'MCD', 'MCD/chance', 'MCD/best fixed map', 'thing_recall_map', 'colour_recall_image',
        'stuff_recall_map', 'stuff_recall_image', 'image_map_agreement',
        'image_map_agreement/ceiling', 'image_map_agreement/floor',
    }  # fmt: skip
    assert expected <= metrics.keys()
    for name, entry in metrics.items():
        assert entry.keys() == {'value', 'n', 'nfe', 'guidance', 'ema', 'weights', 'label'}
        assert (entry['nfe'], entry['guidance'], entry['ema']) == (3, 1.0, True)
        assert entry['weights'] == 'step 12'
        assert entry['n'] == (8 if '/' in name else 6)
        assert entry['label'].endswith(f'/{entry["n"]}/nfe3/guidance1.0/ema')
        line = rf'^{re.escape(entry["label"])} +{entry["value"]:.4f}$'
        assert re.search(line, table, re.MULTILINE)
    split = loader.Split(config.data.dir, 'validation')
    truth = np.stack([geometry.true_ids(split[i], 64, False) for i in range(6)])
    found = Pairs(workdir / 'samples', map_size=64)
    maps = np.stack([found.ids(i) for i in range(6)])
    assert metrics['MCD']['value'] == pytest.approx(mcd.mcd(maps, truth).mean())
    assert metrics['image_map_agreement/ceiling']['value'] > 0.9

    page = (workdir / 'samples' / 'report.html').read_text()
    assert page.count('<figure') == 6
    assert 'best fixed map' in page
    assert 'MCD 1.' in page  # the note beside a caption
    assert '<svg class="curve"' in page
    assert json.loads((workdir / 'samples' / 'captions.json').read_text())[0]['caption'] in page
    links = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert links
    assert all(link.startswith('data:') for link in links)
    assert 'http://' not in page.replace('http://www.w3.org/2000/svg', '')
    assert 'https://' not in page


def test_images_are_scored_by_networks_and_a_restart_repeats_little(
    run, towers, monkeypatch, capsys
):
    workdir, config = run
    with_towers(config, towers)
    monkeypatch.setattr(image_scores, '_CHUNK', 4)
    monkeypatch.setattr(inception, '_IMAGES_PER_DEVICE', 2)
    compute, computed = image_scores.Features._compute, []

    def until_the_third(features, start):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(start)
        compute(features, start)

    monkeypatch.setattr(image_scores.Features, '_compute', until_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(config, str(workdir))
    assert not (workdir / 'metrics.json').exists()
    monkeypatch.setattr(
        image_scores.Features,
        '_compute',
        lambda features, start: (computed.append(start), compute(features, start)),
    )
    evaluate.evaluate(config, str(workdir))
    assert sorted(computed) == [0, 0, 4, 4]  # 8 real pictures and 6 samples, each chunk once
    metrics = json.loads((workdir / 'metrics.json').read_text())
    assert {'MCD', 'FID', 'CLIP score', 'CMMD'} <= metrics.keys()
    assert metrics['FID']['label'] == 'FID/6/nfe3/guidance1.0/ema'

    # The same numbers from the metrics' own functions on all pictures at once.
    networks = image_scores.load_networks(config.evaluate.inception, config.evaluate.clip)
    samples = Pairs(workdir / 'samples')
    images = np.stack([samples.image(i) for i in range(6)])
    source = scenes.Scenes(config.data.scene_seed, 8, 'validation')
    real = np.stack([source[i].image for i in range(8)])
    if real.shape[1:] != (256, 256, 3):
        real = np.stack([image_scores._square(picture) for picture in real])
    one, other = (fid.statistics([networks.inception(batch)]) for batch in (images, real))
    assert metrics['FID']['value'] == pytest.approx(fid.frechet_distance(one, other), rel=1e-4)
    fitted = [np.stack([clip.fit(p) for p in batch]) for batch in (images, real)]
    embedded = [networks.clip_images(batch) for batch in fitted]
    assert metrics['CMMD']['value'] == pytest.approx(cmmd.cmmd(*embedded), rel=1e-4)
    split = loader.Split(config.data.dir, 'validation')
    texts = [networks.clip_captions(split[i]['captions']) for i in range(6)]
    expected = clip_score.clip_scores(embedded[0], texts).mean()
    assert metrics['CLIP score']['value'] == pytest.approx(expected, rel=1e-4)

    # The statistics lie with the data, say what they are of, and serve the next run.
    (path,) = (Path(config.data.dir) / 'reference').glob('*.npz')
    statistics, provenance = fid.read(path)
    assert statistics.count == 8
    assert provenance['pictures']['split'] == 'validation'
    config.evaluate.reference = str(path)
    config.evaluate.clip = ''
    computed.clear()
    value = metrics['FID']['value']
    evaluate.evaluate(config, str(workdir))
    metrics = json.loads((workdir / 'metrics.json').read_text())
    assert metrics['FID']['value'] == pytest.approx(value, rel=1e-6)
    assert 'CMMD' not in metrics
    shutil.rmtree(Path(config.data.dir) / 'reference')


def others_folder(path, split, maps=True):
    """Two pictures of sizes of their own, with captions by image_id, and maps of half the sample's
    categories."""
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
        content = {'annotations': annotations, 'categories': [{'id': 2}]}
        (path / 'panoptic.json').write_text(json.dumps(content))
    return path


def test_folders_of_others_are_scored(config, towers, tmp_path):
    split = loader.Split(config.data.dir, 'validation')
    config.evaluate.folder = str(others_folder(tmp_path / 'theirs', split))
    config.evaluate.clip = str(towers / 'clip')
    evaluate.evaluate(config, str(tmp_path / 'run'))
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert metrics['CLIP score']['label'] == 'CLIP_score/2'
    assert metrics['CLIP score']['weights'] == 'theirs'
    truth = [mcd.histograms(geometry.true_ids(split[i], 128, False)[None])[0] for i in range(2)]
    share = np.zeros(256)
    share[[0, 2]] = 0.5
    expected = np.mean([np.abs(share - own).sum() for own in truth])
    assert metrics['MCD']['value'] == pytest.approx(expected)
    shutil.rmtree(Path(config.data.dir) / 'reference')


def test_folders_that_cannot_be_scored_say_why(config, towers, tmp_path):
    split = loader.Split(config.data.dir, 'validation')
    folder = others_folder(tmp_path / 'theirs', split, maps=False)
    config.evaluate.folder = str(folder)
    with pytest.raises(ValueError, match=r'Name networks .* --config\.evaluate\.inception'):
        evaluate.evaluate(config, str(tmp_path))
    config.evaluate.inception = str(tmp_path / 'nowhere')
    with pytest.raises(
        FileNotFoundError, match=r'evaluate\.inception is .*; give the path of Incep'
    ):
        evaluate.evaluate(config, str(tmp_path))
    config.evaluate.inception = str(towers / 'inception.safetensors')
    config.evaluate.reference = str(tmp_path / 'nowhere.npz')
    with pytest.raises(FileNotFoundError, match='no file of reference statistics'):
        evaluate.evaluate(config, str(tmp_path))
    (folder / 'images' / 'picture1.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'lacks 1 of the 2 pictures .* picture1\.jpg'):
        Pairs(folder)
