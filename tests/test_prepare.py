"""Preparation end to end on scenes: geometry, records, restarts, refusals."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from panoptic_jax import prepare
from panoptic_jax.config import default
from panoptic_jax.data import geometry, loader, scenes, shards
from panoptic_jax.data.example import Example
from panoptic_jax.data.records import Records
from panoptic_jax.encoders import pixels, words
from panoptic_jax.logs.progress import duration, readable

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


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp('prepared') / 'data'
    prepare.prepare(make_config(directory))
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in sorted(directory.rglob('*')) if path.is_file()]
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in files
        if path.name != 'dataset_info.json'  # TFDS's, without records
    }


def test_records_are_the_encoded_scenes(prepared):
    for split, count in (('train', 11), ('validation', 2)):
        found = loader.Split(str(prepared), split)
        source = scenes.Scenes(0, count, split)
        assert len(found) == count
        for i in (0, count - 1):
            example, record = source[i], found[i]
            image, category, instance = geometry.fit(example)
            np.testing.assert_array_equal(image, example.image)  # scenes are 256 px already
            np.testing.assert_array_equal(record['category'], category)
            np.testing.assert_array_equal(record['instance'], instance)
            latents = pixels.encode(image.astype(np.float32)[None] / 127.5 - 1)[0]
            np.testing.assert_allclose(record['latents'], latents, atol=1e-3)
            assert record['captions'] == example.captions
            np.testing.assert_array_equal(
                record['texts'], words.encode(example.captions, tokens=16, features=8)
            )
    np.testing.assert_array_equal(
        loader.empty_text(str(prepared)), words.encode([''], tokens=16, features=8)[0]
    )


def test_both_data_sets_open_with_tfds(prepared):
    for dataset, train, validation in (('images', 11, 2), ('captions', 55, 10)):
        builder = tfds.builder_from_directory(prepared / dataset)
        assert builder.info.splits['train'].num_examples == train
        assert builder.info.splits['validation'].num_examples == validation
        assert len(builder.info.splits['train'].shard_lengths) == 4
        assert len(builder.as_data_source('train')) == train


def test_manifest_describes_the_data(prepared):
    manifest = loader.open_manifest(str(prepared))
    assert manifest['autoencoder']['latent_shape'] == [32, 32, 3]
    assert manifest['splits']['train']['images'] == 11
    assert manifest['map_size'] == 128
    assert manifest['splits']['train']['captions'] == 55
    assert manifest['categories'][0].keys() == {'id', 'name', 'is_thing', 'source_id'}
    assert not (prepared / 'prepare.json').exists()


def test_finished_folder_is_left_alone(prepared):
    times = {path: path.stat().st_mtime_ns for path in prepared.rglob('*')}
    prepare.prepare(make_config(prepared))
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob('*')} == times


def test_twice_killed_preparation_goes_on_and_gives_the_same_bytes(prepared, tmp_path):
    code = (
        'import time; from test_prepare import *; get = scenes.Scenes.__getitem__\n'
        'def slow(self, i): time.sleep(0.2); return get(self, i)\n'
        'scenes.Scenes.__getitem__ = slow; prepare._THREADS = 1\n'
        f'prepare.prepare(make_config(Path({str(tmp_path / "data")!r})))'
    )
    environment = {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}', 'JAX_PLATFORMS': 'cpu'}
    shard = str(tmp_path / 'data' / 'images' / 'images-train.array_record-{:05d}-of-00004')
    times = {}
    for number in (0, 2):
        process = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, env=environment)
        while not Path(shard.format(number)).exists():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.1)  # into the next shard
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / 'data' / 'prepare.json').exists()
        assert not Path(shard.format(number + 1)).exists()
        times[number] = Path(shard.format(number)).stat().st_mtime_ns
    with pytest.raises(ValueError, match=r'splits\.train\.images: 11 there, 12 in this config'):
        prepare.prepare(make_config(tmp_path / 'data', train_images=12))
    prepare.prepare(make_config(tmp_path / 'data'))
    for number, before in times.items():
        assert Path(shard.format(number)).stat().st_mtime_ns == before
    assert contents(tmp_path / 'data') == contents(prepared)


def test_other_data_are_refused(prepared, tmp_path):
    config = make_config(prepared)
    config.data.text_tokens = 12
    with pytest.raises(ValueError, match=r'text\.tokens: 16 there, 12 in this config'):
        prepare.prepare(config)
    config = make_config(prepared)
    config.data.void_wins = True
    with pytest.raises(ValueError, match='void_wins: False there, True in this config'):
        prepare.prepare(config)
    (tmp_path / 'thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match='is not empty and no preparation was started'):
        prepare.prepare(make_config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_unknown_sources_are_refused(tmp_path):
    config = make_config(tmp_path / 'data')
    config.data.source = 'imagenet'
    with pytest.raises(ValueError, match=r"data\.source is 'imagenet'; it must be 'coco'"):
        prepare.prepare(config)
    with pytest.raises(ValueError, match=r'data\.train_images is 0; with data\.source scenes'):
        prepare.prepare(make_config(tmp_path / 'data', train_images=0))
    assert not (tmp_path / 'data').exists()


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


def test_mirrored_images_share_their_captions(prepared, tmp_path):
    config = make_config(tmp_path / 'data')
    config.data.flips = True
    prepare.prepare(config)
    data_dir = str(tmp_path / 'data')
    splits = loader.open_manifest(data_dir)['splits']
    plain, originals = (loader.Split(str(folder), 'train') for folder in (prepared, data_dir))
    features = shards.image_features((32, 32, 3), False, 128)
    lengths = splits['train']['image_shards']
    stored = Records(data_dir, 'images', 'train', lengths, features)
    assert (lengths, len(stored)) == ([6, 6, 6, 4], 22)
    for i in (0, 4, 10):
        before, once, twice = plain[i], stored[2 * i], stored[2 * i + 1]
        mirrored = scenes.Scenes(0, 11, 'train')[i].image[None, :, ::-1].astype(np.float32)
        latents = pixels.encode(mirrored / 127.5 - 1)[0]
        np.testing.assert_allclose(twice['latents'], latents, atol=1e-3)
        assert np.abs(np.float32(once['latents']) - latents).max() > 0.1
        for name in ('latents', 'category', 'instance'):
            np.testing.assert_array_equal(once[name], before[name])
        for name in ('category', 'instance'):
            np.testing.assert_array_equal(twice[name], before[name][:, ::-1])
        for name in ('image_id', 'first_caption', 'num_captions'):
            assert once[name] == twice[name]
        assert originals[i]['captions'] == before['captions']
        np.testing.assert_array_equal(originals[i]['latents'], once['latents'])
    assert len(originals) == len(plain) == 11
    assert originals.image_ids() == plain.image_ids()
    assert 'copies' not in splits['validation']
    assert len(loader.Split(str(tmp_path / 'data'), 'validation')) == 2
    size = sum(path.stat().st_size for path in (prepared / 'captions').glob('*train*'))
    same = sum(path.stat().st_size for path in (tmp_path / 'data' / 'captions').glob('*train*'))
    assert size == same
    with pytest.raises(ValueError, match=r'splits\.train\.images: 22 there, 11 in this config'):
        prepare.prepare(make_config(tmp_path / 'data'))


def test_time_and_disk_are_estimated_before_the_work(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(prepare, '_WORTH_AN_ESTIMATE', 0)
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr(prepare.shutil, 'disk_usage', lambda path: usage)
    config = make_config(tmp_path / 'data')
    config.data.images_per_shard, config.data.text_features = 13, 512  # little of it is padding
    # 13 images of 32x32x3 halves and two maps, five captions of 16x512 halves each.
    needed = 13 * (32 * 32 * 3 * 2 + 2 * 128**2 + 5 * 16 * 512 * 2)
    usage.free = needed - 1
    with pytest.raises(ValueError, match=r'has 0\.0 GB free, and about 0\.0 GB are needed'):
        prepare.prepare(config)
    usage.free = needed
    with caplog.at_level('INFO', logger='absl'):
        prepare.prepare(config)
    assert re.search(
        r'13 images: about \d+ s .*; [\d.]+ images/s measured on 11 images', caplog.text
    )
    size = sum(path.stat().st_size for path in (tmp_path / 'data').rglob('*array_record*'))
    assert needed < size < 1.3 * needed


def test_rates_and_durations_are_readable():
    assert [readable(rate) for rate in (0.01234, 4.531, 99.4, 1234.4)] == [
        '0.0123', '4.53', '99.4', '1234',
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (41.6, 11_225)] == ['42 s', '3:07:05']
