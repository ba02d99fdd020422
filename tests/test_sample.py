"""Sampling jobs and their evaluation: restarts, what a pair depends on, formats, refusals."""

import dataclasses
import hashlib
import json
import shutil

import ml_collections
import numpy as np
import one_device
import pytest
from conftest import described, random_parameters
from PIL import Image

from panoptic_jax import config as settings
from panoptic_jax import export_weights, pipeline, sample
from panoptic_jax.data import geometry, loader
from panoptic_jax.encoders import pixels
from panoptic_jax.export import sample_claim, samples
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.machine import sharding
from panoptic_jax.machine.interruption import Interrupted, Interruption
from panoptic_jax.machine.writer_lock import writing
from panoptic_jax.programs import drawing
from panoptic_jax.programs.sampler import Sampling
from panoptic_jax.scoring import preview
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import trained as trained_weights

PICTURES = ('generated', 'annotations/panoptic_generated', 'semantic_generated')


@pytest.fixture
def run(trained, tmp_path):
    """(workdir, config) of the trained run's checkpoints, in a folder of this test's own."""
    workdir = tmp_path / 'run'
    workdir.mkdir()
    (workdir / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
    shutil.copy(trained[0] / 'metrics.jsonl', workdir)
    return workdir, ml_collections.ConfigDict(trained[1].to_dict())


def contents(folder):
    """{path below the folder: bytes} of all files but the lock, which says who wrote last."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and path.name != 'writer.lock'
    }


def read_maps(folder):
    found = Pairs(folder, map_side=64)
    return np.stack([found.ids(i) for i in range(len(found))])


def picture(path):
    return np.asarray(Image.open(path)).astype(int)


def test_job_goes_on_after_a_kill_and_gives_the_same_bytes(run, sampled, monkeypatch):
    workdir, config = run
    folder = workdir / 'samples'
    expected = contents(sampled)
    numbers = [f'{i:08d}.png' for i in range(6)]
    lists = ('captions', 'instances', 'panoptic')
    assert sorted(expected) == sorted(
        [f'{place}/{name}' for name in numbers for place in PICTURES]
        + [f'annotations/{name}_generated.json' for name in lists]
        + ['pairs_generated.jsonl', 'report.html', 'settings.json']
    )

    with monkeypatch.context() as patch:
        # The second batch's pictures are there, its marker not.
        patch.setattr(samples.files, 'write_whole', failing('00000004.jsonl', KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            one_device.sample(config, workdir)
    assert (folder / 'generated' / '00000005.png').exists()
    assert not (folder / 'pairs_generated.jsonl').exists()
    (folder / 'generated' / '00000005.png').write_bytes(b'half')
    first = (folder / 'generated' / '00000000.png').stat().st_mtime_ns
    one_device.sample(config, workdir)
    found = contents(folder)
    found.pop('report.html'), expected.pop('report.html')  # has this workdir's loss curve
    assert found == expected
    assert (folder / 'generated' / '00000000.png').stat().st_mtime_ns == first

    times = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    one_device.sample(config, workdir)  # finished: nothing is done again
    config.sample.count = 5  # and so with fewer pairs
    one_device.sample(config, workdir)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == times
    config.sample.guidance = 2.0
    with pytest.raises(
        ValueError, match=r'samples of other settings \(sample\.guidance: 1\.0 there, 2\.0 now\)'
    ):
        one_device.sample(config, workdir)


@pytest.fixture
def finished(run, sampled):
    """(workdir, config) with the samples of the session in its folder 'samples'."""
    workdir, config = run
    shutil.copytree(sampled, workdir / 'samples')
    return workdir, config


def failing(name, error):
    """The function `write_whole`, but it fails at files of this name."""
    write_whole = samples.files.write_whole

    def write(path, content):
        if path.name == name:
            raise error
        write_whole(path, content)

    return write


def test_a_larger_count_extends_a_finished_folder(finished, sampled, monkeypatch):
    workdir, config = finished
    folder, before = workdir / 'samples', contents(sampled)
    config.sample.count = 9
    with monkeypatch.context() as patch:
        # The disk is full when pictures of the second batch are written.
        error = ValueError('The disk is full.')
        patch.setattr(samples.files, 'write_whole', failing('00000008.png', error))
        with pytest.raises(ValueError, match='The disk is full'):
            one_device.sample(config, workdir)
    # What was finished is as it was, and the rest is not taken for finished.
    assert {name: contents(folder)[name] for name in before} == before
    assert len(Pairs(folder)) == 6
    assert not list(folder.rglob('*.tmp'))
    (folder / 'generated' / '00000001.png').unlink()
    (folder / 'semantic_generated' / '00000003.png').write_bytes(b'')
    one_device.sample(config, workdir)  # what lacks is found and made again

    found = contents(folder)
    lists = {name for name in before if not name.endswith('.png')} - {'settings.json'}
    assert {name: found[name] for name in before.keys() - lists} == {
        name: before[name] for name in before.keys() - lists
    }
    config.sample.folder = 'in one go'
    one_device.sample(config, workdir)
    assert found == contents(workdir / 'in one go')
    assert len(Pairs(folder)) == 9


def as_before(folder, asked_of):
    """Turns a samples folder into what earlier versions wrote: settings and entries."""
    (folder / 'generated').rename(folder / 'images')
    (folder / 'annotations' / 'panoptic_generated').rename(folder / 'panoptic')
    (folder / 'annotations' / 'panoptic_generated.json').rename(folder / 'panoptic.json')
    shutil.rmtree(folder / 'annotations')
    shutil.rmtree(folder / 'semantic_generated')
    lines = [json.loads(line) for line in (folder / 'pairs_generated.jsonl').open()]
    (folder / 'pairs_generated.jsonl').unlink()
    entries = [{n: line[n] for n in ('id', 'file_name')} | line['request'] for line in lines]
    (folder / 'captions.json').write_text(json.dumps(entries))
    path = folder / 'settings.json'
    content = json.loads(path.read_text())
    for name in ('name', 'format', 'image_format', 'refine'):
        del content['sample'][name]
    path.write_text(json.dumps(content))
    return path, [{name: entry[name] for name in asked_of} for entry in entries]


def test_folders_of_older_versions_are_scored_and_not_added_to(finished):
    workdir, config = finished
    folder = workdir / 'samples'
    path, asked = as_before(folder, ('caption', 'image_id', 'record'))
    before = contents(folder)
    one_device.sample(config, workdir)
    assert contents(folder) == before
    assert len(Pairs(folder)) == 6
    config.sample.count = 7
    with pytest.raises(ValueError, match='earlier version, which can be scored, but not added to'):
        one_device.sample(config, workdir)
    config.sample.count = 6
    # The oldest have the number of pairs, and one hash of all requests.
    settings_json = json.loads(path.read_text())
    hashed = hashlib.sha256(json.dumps([asked, settings_json['data']]).encode()).hexdigest()
    settings_json['requests'] = hashed
    settings_json['sample'] |= {'count': 6, 'prompts': '', 'weights': ''}
    path.write_text(json.dumps(settings_json))
    one_device.sample(config, workdir)
    settings_json['requests'] = hashed[::-1]
    path.write_text(json.dumps(settings_json))
    with pytest.raises(ValueError, match='prompts, or captions of the split'):
        one_device.sample(config, workdir)


class When(Interruption):
    """Asks for the end as soon as a file is there."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def asked(self):
        return self._path.exists()


def test_an_interruption_ends_the_job_after_the_batch_at_hand(config, tmp_path):
    save_fresh(config, tmp_path / 'weights.safetensors', name='uvit')
    workdir = tmp_path / 'run [1] *'  # nothing takes it for a pattern
    parts = workdir / 'samples' / 'parts'
    config.sample.count = 18  # more batches than are drawn before the first is written
    interruption = When(parts / '00000000.jsonl')
    with pytest.raises(Interrupted):
        sample.sample(config, workdir, interruption=interruption, devices=one_device.devices())
    # What was drawn already is written as well.
    done = sorted(path.name for path in parts.iterdir())
    assert done[0] == '00000000.jsonl'
    assert '00000016.jsonl' not in done
    beside = writing(workdir / 'samples', 'sampling job')
    with beside, pytest.raises(ValueError, match='sampling job'):
        one_device.sample(config, workdir)
    one_device.sample(config, workdir)
    assert len(Pairs(workdir / 'samples')) == 18
    config.sample.guidance = 1e30
    config.sample.folder = 'overflow'
    with pytest.raises(FloatingPointError, match=r'18 of 18 .*for pair 0 and 3 more.* is 1e\+30'):
        one_device.sample(config, workdir)
    assert not list((workdir / 'overflow').rglob('*.png'))


def test_an_autoencoder_of_nan_writes_no_pair(config, tmp_path, monkeypatch):
    save_fresh(config, tmp_path / 'run' / 'weights.safetensors', name='uvit')
    enlarge = pixels.decode
    monkeypatch.setattr(pixels, 'decode', lambda latents: np.inf * enlarge(latents))
    with pytest.raises(FloatingPointError, match='for 4 of 4 images, whose latents are finite'):
        one_device.sample(config, tmp_path / 'run')
    assert not list((tmp_path / 'run').rglob('*.png'))
    draw = pipeline.load(str(tmp_path / 'run' / 'weights.safetensors'), evaluations=3)
    with pytest.raises(FloatingPointError, match='for 1 of 1 images, whose latents are finite'):
        draw(['a cup'])


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('a file', 'is a file, and samples need a folder'),
        ({'captions.json': '[]', 'images': ''}, "holds no samples of ours, but 'captions.json'"),
        ({'settings.json': '{"a": '}, r'settings\.json is damaged'),
        ({'settings.json': '[]'}, 'holds samples of other settings'),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path, content, message):
    folder = tmp_path / 'samples'
    if isinstance(content, str):
        folder.write_text(content)
    else:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    facts = {'weights': 'step 8', 'sample': {'name': 'generated'}}
    with pytest.raises(ValueError, match=message):
        sample_claim.check(folder, facts, {0: {'caption': 'a'}}, has_maps=True)


def test_pairs_do_not_depend_on_their_batch(run, sampled):
    workdir, config = run
    config.sample.batch_size = 6
    one_device.sample(config, workdir)
    one, two = sampled, workdir / 'samples'
    name = 'annotations/captions_generated.json'
    assert (one / name).read_text() == (two / name).read_text()
    pictures = [picture(one / 'generated' / f'{i:08d}.png') for i in range(6)]
    for i in range(6):
        same = picture(two / 'generated' / f'{i:08d}.png')
        assert np.abs(pictures[i] - same).max() <= 1  # another batch size sums in another order
        assert np.abs(pictures[i] - pictures[i - 1]).max() > 10
    maps = [read_maps(folder) for folder in (one, two)]
    assert np.mean(maps[0] != maps[1]) < 1e-3


def test_folder_has_the_promised_format(sampled, config):
    folder = sampled
    pairs = [json.loads(line) for line in (folder / 'pairs_generated.jsonl').open()]
    split = loader.Split(config.data.dir, 'validation')
    assert [entry['id'] for entry in pairs] == list(range(6))
    for i, entry in enumerate(pairs):
        assert entry['request']['record'] == i
        assert entry['request']['image_id'] == split[i]['image_id']
        assert entry['request']['caption'] in split[i]['captions']
        assert {entry[name] for name in ('weights', 'ema', 'guidance')} == {'step 12', True}
        assert (entry['seed'], entry['evaluations']) == (0, config.sample.evaluations)
    panoptic = json.loads((folder / 'annotations' / 'panoptic_generated.json').read_text())
    assert panoptic.keys() == {'images', 'annotations', 'categories'}
    valid = {category['id'] for category in panoptic['categories']}
    found = Pairs(folder, map_side=64)
    maps = [found.ids(i) for i in range(6)]
    assert {ids.shape for ids in maps} == {(64, 64)}
    assert {found.image(i).shape for i in range(6)} == {(256, 256, 3)}
    places = {entry['id']: place for place, entry in enumerate(panoptic['categories'])} | {0: 255}
    for annotation, ids in zip(panoptic['annotations'], maps, strict=True):
        found = {segment['category_id'] for segment in annotation['segments_info']}
        assert found <= valid
        assert found == set(np.unique(ids)) - {0}
        areas = sum(segment['area'] for segment in annotation['segments_info'])
        assert areas == 16 * (ids > 0).sum()
        semantic = Image.open(folder / 'semantic_generated' / annotation['file_name'])
        expected = np.vectorize(places.get)(ids).repeat(4, axis=0).repeat(4, axis=1)
        np.testing.assert_array_equal(np.asarray(semantic), expected)


def test_exported_weights_sample_as_the_checkpoint(run, sampled, tmp_path):
    workdir, config = run
    export_weights.export_weights(config, str(workdir))
    config.sample.weights = str(workdir / 'weights.safetensors')
    other = tmp_path / 'other'
    one_device.sample(config, other)
    for name in PICTURES:
        assert contents(sampled / name) == contents(other / 'samples' / name)
    # With prompts a weights file needs nothing else: no data, no checkpoint.
    config.sample.prompt = 'a red ball on sand'
    config.data.dir = str(tmp_path / 'nowhere')
    third = tmp_path / 'third'
    one_device.sample(config, third)
    entries = Pairs(third / 'samples').entries
    assert entries[5] == {'id': 5, 'file_name': '00000005.png', 'caption': 'a red ball on sand'}
    pictures = [picture(third / 'samples' / 'generated' / f'{i:08d}.png') for i in range(6)]
    assert np.abs(pictures[0] - pictures[1]).max() > 10  # the same prompt, other noise


def test_a_single_prompt_is_answered_by_a_single_pair(run, monkeypatch, caplog):
    workdir, config = run
    config.sample.update(prompt='a red ball on sand', count=1, folder='one')
    drawn = []
    decoded = drawing.decoded

    def seen(means, requested, batch, arrays):
        drawn.append(arrays.latents.shape[0])
        return decoded(means, requested, batch, arrays)

    monkeypatch.setattr(drawing, 'decoded', seen)
    with caplog.at_level('INFO', logger='absl'):
        one_device.sample(config, workdir)
    folder = workdir / 'one'
    image = folder / 'generated' / '00000000.png'
    drawn_map = folder / 'annotations' / 'panoptic_generated' / '00000000.png'
    assert caplog.messages[-1] == f'The pair is {image}, its map {drawn_map}.'
    config.sample.update(count=2, folder='two')
    one_device.sample(config, workdir)
    # The batch is another one, and the noise is the same.
    assert drawn == [1, config.sample.batch_size]
    other = picture(workdir / 'two' / 'generated' / '00000000.png')
    assert np.abs(picture(image) - other).max() <= 1


def name_of_weights(config, workdir):
    """The name of what a job in `workdir` would sample with."""
    _, name = trained_weights.for_sampling(
        str(workdir),
        weights_path=config.sample.weights,
        ema=config.sample.ema,
        data_dir=config.data.dir,
        fallback=config.sample.fallback,
    )
    return name


def test_fallback_serves_a_workdir_without_weights_alone(run, tmp_path, caplog):
    workdir, config = run
    config.sample.fallback = 'scenes/joint'
    assert name_of_weights(config, workdir) == 'step 12'
    with caplog.at_level('INFO', logger='absl'):
        assert name_of_weights(config, tmp_path).startswith('joint ')
    assert f'{tmp_path} holds no weights yet, so those of scenes/joint are taken.' in caplog.text
    export_weights.export_weights(config, str(workdir))
    (workdir / 'weights.safetensors').rename(tmp_path / 'weights.safetensors')
    assert name_of_weights(config, tmp_path).startswith('weights.safetensors ')
    config.sample.fallback = ''
    with pytest.raises(FileNotFoundError, match='holds no checkpoint'):
        name_of_weights(config, tmp_path / 'empty')


def test_a_checkpoint_comes_before_a_weights_file_beside_it(run):
    workdir, config = run
    export_weights.export_weights(config, str(workdir))
    assert name_of_weights(config, workdir) == 'step 12'
    (workdir / 'checkpoints').unlink()
    (workdir / 'checkpoints' / '00000004.orbax-checkpoint-tmp').mkdir(parents=True)
    assert name_of_weights(config, workdir).startswith('weights.safetensors ')


def save_fresh(config, path, **model):
    """Writes random weights of a model."""
    config.model.update(model)
    description = described(config)
    weights = weights_file.Weights(
        random_parameters(description), loader.empty_text(config.data.dir), description
    )
    weights_file.save(str(path), weights)
    config.sample.weights = str(path)


def test_given_maps_are_the_pictures_own(config, tmp_path):
    save_fresh(config, tmp_path / 'weights.safetensors', name='two_stream', given_map=True)
    one_device.sample(config, tmp_path)
    maps = read_maps(tmp_path / 'samples')
    split = loader.Split(config.data.dir, 'validation')
    for i in range(6):
        np.testing.assert_array_equal(maps[i], geometry.true_ids(split[i], 64, void_wins=False))


def test_own_maps_and_seeds_are_drawn(config, tmp_path):
    save_fresh(config, tmp_path / 'weights.safetensors', name='two_stream', given_map=True)
    rng = np.random.default_rng(0)
    description = weights_file.load(config.sample.weights).description
    codes = description.valid_codes()
    ids = rng.choice(codes, (3, 64, 64))
    (tmp_path / 'maps').mkdir()
    lines = []
    for number, name in enumerate(('a.png', 'b.png', 'c.png')):
        Image.fromarray(ids[number]).save(tmp_path / 'maps' / name)
        lines.append({'caption': f'ball {number}', 'map': f'maps/{name}', 'seed': 7})
    del lines[2]['seed']
    prompts = tmp_path / 'list.jsonl'
    prompts.write_text('\n'.join(map(json.dumps, lines)))
    config.sample.prompts, config.sample.count = str(prompts), 0
    config.data.dir = str(tmp_path / 'nowhere')
    one_device.sample(config, tmp_path)
    np.testing.assert_array_equal(read_maps(tmp_path / 'samples'), ids)
    entries = Pairs(tmp_path / 'samples').entries
    assert [entry['map'] for entry in entries] == [line['map'] for line in lines]
    assert [entry.get('seed') for entry in entries] == [7, 7, None]

    # The same pairs come of the function; a seeded one wherever it stands.
    images = [picture(tmp_path / 'samples' / 'generated' / f'{i:08d}.png') for i in range(3)]
    draw = pipeline.load(config.sample.weights, evaluations=3)
    drawn, maps = draw(['ball 1'], seed=7, maps=[tmp_path / 'maps' / 'b.png'])
    assert np.abs(drawn[0].astype(int) - images[1]).max() <= 1
    np.testing.assert_array_equal(maps[0], ids[1])
    others, _ = draw(['ball 1'], seed=8, maps=[ids[1]])
    assert np.abs(others[0].astype(int) - images[1]).max() > 10
    for arguments, message in (
        ((['ball 1'], 7), 'needs a map for each of the 1 captions, and got none'),
        ((['ball 1'], 7, [ids[0], ids[1]]), 'and got 2'),
        ((['ball 1'], 7, [np.full((8, 8), 199)]), '199 is no category id of the model'),
        ((['ball 1'], 7, [np.zeros((8, 8))]), 'array of float64'),
        (('ball 1', 7, [ids[0]]), "captions is 'ball 1'; it must be a list of texts"),
        (([], 7, []), 'it must be a list of texts'),
        ((['ball 1', None], 7, ids[:2]), 'it must be a list of texts'),
        ((['ball 1'], -1, [ids[0]]), 'seed is -1; it must be a whole number from 0'),
        ((['ball 1'], 2**32, [ids[0]]), 'seed is 4294967296'),
        ((['ball 1'], 1.5, [ids[0]]), r'seed is 1\.5'),
    ):
        with pytest.raises(ValueError, match=message):
            draw(*arguments)

    # Another map is another pair, and the finished one is not taken for it.
    Image.fromarray(ids[0]).save(tmp_path / 'maps' / 'b.png')
    with pytest.raises(ValueError, match='map_sha256 of pair 1'):
        one_device.sample(config, tmp_path)


def test_model_without_maps_gives_images_alone(config, tmp_path):
    save_fresh(config, tmp_path / 'weights.safetensors', name='uvit')
    one_device.sample(config, tmp_path)
    found = {path.name for path in (tmp_path / 'samples').iterdir()}
    assert found == {
        'generated', 'annotations', 'pairs_generated.jsonl', 'settings.json', 'writer.lock'
    }  # fmt: skip
    params, _, description = weights_file.load(config.sample.weights)
    shown = preview.open_data(
        description, data_dir=config.data.dir, cache='', autoencoder_weights='', count=4
    )
    draw = preview.make_preview(
        description,
        Sampling(**settings.sampling(config)),
        data=shown,
        mesh=sharding.make_mesh(),
        fused_attention=True,
    )
    pictures, scores = draw(params)
    assert pictures['preview'].shape == (4, 256, 256, 3)
    assert scores == {}


def test_encoders_other_than_the_models_are_refused(config, tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_fresh(config, path)
    params, empty_text, description = weights_file.load(str(path))
    text = dataclasses.replace(description.text, sha256='e' * 64)
    other = dataclasses.replace(description, text=text)
    weights_file.save(str(path), weights_file.Weights(params, empty_text, other))
    with pytest.raises(ValueError, match=r"text encoder 'words' at hand has hash \w{12}"):
        one_device.sample(config, tmp_path)
    assert not (tmp_path / 'samples').exists()
