"""Preparation end to end on scenes: geometry, records, restarts, refusals."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import once
from PIL import Image

from panoptic_jax import prepare
from panoptic_jax.config import default
from panoptic_jax.data import geometry, loader, scenes, shards
from panoptic_jax.data.example import Example
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.data.records import Records
from panoptic_jax.encoders import pixels, words
from panoptic_jax.logs.progress import duration, readable
from panoptic_jax.preparation import shard_files

ROOT = Path(__file__).parents[1]


def make_config(data_dir: Path, train_images: int = 11):
    config = default()
    config.data.dir = str(data_dir)
    config.data.source = 'scenes'
    config.data.train_images = train_images
    config.data.validation_images = 2
    config.data.images_per_shard = 3
    config.data.autoencoder = 'pixels'
    config.data.text_tokens = 16
    config.data.text_features = 8
    return config


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
    """A prepared folder: 11 training and 2 validation scenes, three to a shard."""
    return once(tmp_path_factory, 'prepared', lambda path: prepare.prepare(make_config(path)))


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in sorted(directory.rglob('*')) if path.is_file()]
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in files
        # Not TFDS's, without records, nor what a job says of itself.
        if path.name not in ('dataset_info.json', 'writer.lock')
    }


@pytest.mark.parametrize(('split', 'count'), [('train', 11), ('validation', 2)])
def test_records_are_the_encoded_scenes(prepared, split, count):
    records, source = loader.Split(str(prepared), split), scenes.Scenes(0, count, split)
    assert len(records) == count
    for i in (0, count - 1):
        example, record = source[i], records[i]
        image, category, instance = geometry.fit(example)
        np.testing.assert_array_equal(image, example.image)  # scenes are 256 px already
        np.testing.assert_array_equal(record['category'], category)
        np.testing.assert_array_equal(record['instance'], instance)
        latents = pixels.encode(image.astype(np.float32)[None] / 127.5 - 1)[0]
        np.testing.assert_allclose(record['latents'], latents, atol=1e-3)
        assert record['captions'] == example.captions
        texts = words.encode(example.captions, tokens=16, features=8)
        np.testing.assert_array_equal(record['texts'], texts)


def test_empty_caption_is_encoded_too(prepared):
    expected = words.encode([''], tokens=16, features=8)[0]
    np.testing.assert_array_equal(loader.empty_text(str(prepared)), expected)


@pytest.mark.parametrize(
    ('dataset', 'train', 'validation'), [('images', 11, 2), ('captions', 55, 10)]
)
def test_data_sets_open_with_tfds(prepared, dataset, train, validation):
    builder = tfds.builder(dataset, data_dir=prepared)
    assert builder.info.splits['train'].num_examples == train
    assert builder.info.splits['validation'].num_examples == validation
    assert len(builder.info.splits['train'].shard_lengths) == 4
    assert len(builder.as_data_source('train')) == train
    assert len(tfds.data_source(dataset, data_dir=prepared)['train']) == train
    assert 'tensorflow' not in sys.modules


def test_manifest_describes_the_data(prepared):
    manifest = open_manifest(str(prepared))
    assert manifest.autoencoder.latent_shape == (32, 32, 3)
    assert manifest.splits['train'].images == 11
    assert manifest.stored_map_side == 128
    assert manifest.splits['train'].captions == 55
    assert not (prepared / 'prepare.json').exists()


def test_manifest_keeps_its_form_on_disk(prepared):
    content = json.loads((prepared / 'manifest.json').read_text())
    assert content['autoencoder']['latent_shape'] == [32, 32, 3]
    assert content['map_size'] == 128
    assert content['categories'][0].keys() == {'id', 'name', 'is_thing', 'source_id'}


def test_finished_folder_is_left_alone(prepared):
    times = {path: path.stat().st_mtime_ns for path in prepared.rglob('*')}
    prepare.prepare(make_config(prepared))
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob('*')} == times


@pytest.fixture(scope='session')
def killed(tmp_path_factory):
    """A folder: `data` of a twice killed preparation, and times of shards made before the kills."""
    return once(tmp_path_factory, 'killed preparation', prepare_and_kill)


def prepare_and_kill(path):
    folder = path / 'data'
    code = (
        'import time; from test_prepare import *; get = scenes.Scenes.__getitem__\n'
        'def slow(self, i): time.sleep(0.6); return get(self, i)\n'
        'scenes.Scenes.__getitem__ = slow\n'
        f'prepare.prepare(make_config(Path({str(folder)!r})))'
    )
    environment = {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}', 'JAX_PLATFORMS': 'cpu'}
    times = {}
    for number in (0, 2):
        process = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, env=environment)
        while not shard(folder, number).exists():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.1)  # into the next shard
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (folder / 'prepare.json').exists()
        assert not shard(folder, number + 1).exists()
        times[number] = shard(folder, number).stat().st_mtime_ns
    (path / 'times.json').write_text(json.dumps(times))


def shard(folder, number):
    return folder / 'images' / '1.0.0' / f'images-train.array_record-{number:05d}-of-00004'


@pytest.fixture(scope='session')
def resumed(killed, tmp_path_factory):
    """A copy of the killed preparation's data that was finished later."""

    def make(folder):
        shutil.copytree(killed / 'data', folder)
        prepare.prepare(make_config(folder))

    return once(tmp_path_factory, 'resumed preparation', make)


def test_a_killed_preparation_is_not_gone_on_with_for_other_data(killed):
    with pytest.raises(ValueError, match=r'splits\.train\.images: 11 there, 12 in this config'):
        prepare.prepare(make_config(killed / 'data', train_images=12))


def test_a_killed_preparation_keeps_its_finished_shards(killed, resumed):
    times = json.loads((killed / 'times.json').read_text())
    assert times.keys() == {'0', '2'}
    for number, before in times.items():
        assert shard(resumed, int(number)).stat().st_mtime_ns == before


def test_a_killed_preparation_gives_the_same_bytes(prepared, resumed):
    assert contents(resumed) == contents(prepared)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('text_tokens', 12, r'text\.tokens: 16 there, 12 in this config'),
        ('void_wins', True, 'void_wins: False there, True in this config'),
    ],
)
def test_data_of_other_settings_are_refused(prepared, field, value, message):
    config = make_config(prepared)
    config.data[field] = value
    with pytest.raises(ValueError, match=message):
        prepare.prepare(config)


def test_folders_of_others_are_refused_and_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match='is not empty and no preparation was started'):
        prepare.prepare(make_config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('source', 'imagenet', r"data\.source is 'imagenet'; it must be 'coco'"),
        ('train_images', 0, r'data\.train_images is 0; with data\.source scenes'),
    ],
)
def test_unknown_and_empty_sources_are_refused(tmp_path, field, value, message):
    config = make_config(tmp_path / 'data')
    config.data[field] = value
    with pytest.raises(ValueError, match=message):
        prepare.prepare(config)
    assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize('shape', [(256, 256), (256, 300), (300, 256)])
def test_images_of_the_right_size_keep_their_pixels(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    fitted, _, _ = geometry.fit(Example(image, None, None, ['x'], 0))
    np.testing.assert_array_equal(fitted, image[geometry.central_square(image)])
    # Lanczos resizing to the same size is the same.
    resized = Image.fromarray(fitted).resize((256, 256), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(fitted, np.asarray(resized))


def test_fit_keeps_pairs_and_numbers_things_by_size():
    """A wide picture whose largest thing is cropped to a sliver."""
    rng = np.random.default_rng(0)
    category = np.full((300, 500), 92, np.uint8)
    instance = np.zeros((300, 500), np.uint8)
    boxes = (
        (np.s_[:, :110], 1, 1),
        (np.s_[20:120, 150:250], 3, 2),
        (np.s_[150:250, 200:260], 1, 3),
    )
    for box, number, thing in boxes:
        category[box], instance[box] = number, thing
    image = rng.integers(0, 256, (300, 500, 3), np.uint8)
    fitted, pooled, things = geometry.fit(Example(image, category, instance, ['x'], 0))
    expected = Image.fromarray(image).crop((100, 0, 400, 300)).resize((256, 256), Image.LANCZOS)
    np.testing.assert_array_equal(fitted, np.asarray(expected))
    pairs, counts = np.unique(
        np.stack([pooled.ravel(), things.ravel()]), axis=1, return_counts=True
    )
    assert list(zip(*pairs.tolist(), strict=True)) == [(1, 2), (1, 3), (3, 1), (92, 0)]
    sizes = dict(zip(pairs[1].tolist(), counts.tolist(), strict=True))
    assert sizes[1] > sizes[2] > sizes[3] > 0


@pytest.fixture(scope='session')
def mirrored(tmp_path_factory):
    """The same data as `prepared`, with mirrored copies."""

    def make(folder):
        config = make_config(folder)
        config.data.flips = True
        prepare.prepare(config)

    return once(tmp_path_factory, 'mirrored', make)


@pytest.fixture
def stored(mirrored):
    """All image records of its training split, copies included."""
    return Records(
        data_dir=str(mirrored),
        dataset='images/1.0.0',
        split='train',
        shard_lengths=open_manifest(str(mirrored)).splits['train'].image_shards,
        features=shards.image_features((32, 32, 3), has_variance=False, stored_map_side=128),
    )


SOME = (0, 4, 10)  # of the eleven images


def test_shards_hold_each_image_twice(mirrored, stored):
    lengths = open_manifest(str(mirrored)).splits['train'].image_shards
    assert (lengths, len(stored)) == ((6, 6, 6, 4), 22)


@pytest.mark.parametrize('i', SOME)
def test_the_first_copy_is_the_original(prepared, stored, i):
    before, once = loader.Split(str(prepared), 'train')[i], stored[2 * i]
    for name in ('latents', 'category', 'instance'):
        np.testing.assert_array_equal(once[name], before[name])


@pytest.mark.parametrize('i', SOME)
def test_the_second_copy_is_the_encoded_mirror_image(prepared, stored, i):
    before, once, twice = loader.Split(str(prepared), 'train')[i], stored[2 * i], stored[2 * i + 1]
    image = scenes.Scenes(0, 11, 'train')[i].image[None, :, ::-1].astype(np.float32)
    latents = pixels.encode(image / 127.5 - 1)[0]
    np.testing.assert_allclose(twice['latents'], latents, atol=1e-3)
    assert np.abs(np.float32(once['latents']) - latents).max() > 0.1
    for name in ('category', 'instance'):
        np.testing.assert_array_equal(twice[name], before[name][:, ::-1])


@pytest.mark.parametrize('i', SOME)
def test_mirrored_images_share_their_captions(stored, i):
    once, twice = stored[2 * i], stored[2 * i + 1]
    for name in ('image_id', 'first_caption', 'num_captions'):
        assert once[name] == twice[name]


def test_mirrored_images_need_no_captions_of_their_own(prepared, mirrored):
    size, same = (
        sum(path.stat().st_size for path in (folder / 'captions').rglob('*train*'))
        for folder in (prepared, mirrored)
    )
    assert size == same


def test_a_split_shows_originals_only(prepared, mirrored, stored):
    plain, originals = (loader.Split(str(folder), 'train') for folder in (prepared, mirrored))
    assert len(originals) == len(plain) == 11
    assert originals.image_ids() == plain.image_ids()
    for i in SOME:
        assert originals[i]['captions'] == plain[i]['captions']
        np.testing.assert_array_equal(originals[i]['latents'], stored[2 * i]['latents'])


def test_held_out_images_are_not_mirrored(mirrored):
    content = json.loads((mirrored / 'manifest.json').read_text())
    assert 'copies' not in content['splits']['validation']
    assert len(loader.Split(str(mirrored), 'validation')) == 2


def test_data_with_copies_are_not_taken_for_data_without(mirrored):
    with pytest.raises(ValueError, match=r'splits\.train\.images: 22 there, 11 in this config'):
        prepare.prepare(make_config(mirrored))


@pytest.mark.parametrize('lacking', [1, 0])
def test_a_disk_that_is_too_small_is_refused_before_the_work(prepared, monkeypatch, lacking):
    manifest = open_manifest(str(prepared))
    work = shard_files.all_shards(manifest)[1:]
    free = shard_files.bytes_of(manifest, work) - lacking
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=free))
    if not lacking:
        shard_files.check_room(str(prepared), manifest, work)
        return
    with pytest.raises(ValueError, match=r'has 0\.001 GB free, and about 0\.001 GB are needed'):
        shard_files.check_room(str(prepared), manifest, work)


def test_time_is_estimated_before_the_work(tmp_path, caplog):
    with caplog.at_level('INFO', logger='absl'):
        prepare.prepare(make_config(tmp_path / 'data'), worth_an_estimate=0)
    assert re.search(
        r'13 images: about \d+ s .*; [\d.]+ images/s measured on 11 images', caplog.text
    )


def test_rates_are_readable():
    found = [readable(rate) for rate in (0.01234, 4.531, 99.4, 1234.4)]
    assert found == ['0.0123', '4.53', '99.4', '1234']


def test_durations_are_readable():
    assert [duration(seconds) for seconds in (41.6, 11_225)] == ['42 s', '3:07:05']
