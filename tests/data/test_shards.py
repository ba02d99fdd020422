"""Shards: TFDS opens them, equal records give equal bytes, damage is named."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from panoptic_jax.data import shards
from panoptic_jax.data.records import Records

LENGTHS = {'train': [3, 2], 'validation': [1]}


def image_record(number: int) -> dict:
    rng = np.random.default_rng(number)
    return {
        'latents': rng.normal(size=(4, 4, 3)).astype(np.float16),
        'category': rng.integers(0, 256, (8, 8), np.uint8),
        'instance': rng.integers(0, 256, (8, 8), np.uint8),
        'image_id': 10**12 + number,
        'first_caption': 2 * number,
        'num_captions': 2,
    }


def write(data_dir: Path) -> None:
    features = shards.image_features((4, 4, 3), has_variance=False, map_size=8)
    number = 0
    for split, lengths in LENGTHS.items():
        for index, length in enumerate(lengths):
            records = [image_record(number + i) for i in range(length)]
            path = shards.shard_path(data_dir, 'images', split, index, len(lengths))
            shards.write_shard(path, features, records)
            number += length
    shards.write_metadata(data_dir, 'images', features, LENGTHS, 'Random numbers.')


def records(data_dir: Path) -> Records:
    features = shards.image_features((4, 4, 3), has_variance=False, map_size=8)
    return Records(data_dir, 'images', 'train', LENGTHS['train'], features)


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert np.asarray(found[name]).dtype == np.asarray(value).dtype


def test_records_come_back_across_shards(tmp_path):
    write(tmp_path)
    found = records(tmp_path)
    assert len(found) == 5
    for number in (4, 0, 2, 3):
        assert_equal(found[number], image_record(number))
    with pytest.raises(IndexError):
        found[5]


def test_rows_are_the_records(tmp_path):
    """Numbers of one to five bytes move what stands behind them."""
    features = shards.image_features((4, 4, 3), has_variance=False, map_size=8)
    written = [image_record(i) | {'first_caption': 7**i, 'image_id': 9**i} for i in range(11)]
    for index, part in enumerate((written[:6], written[6:])):
        path = shards.shard_path(tmp_path, 'images', 'train', index, 2)
        shards.write_shard(path, features, part)
    found = Records(tmp_path, 'images', 'train', [6, 5], features)
    order = [10, 0, 3, 3, 8, 1, 9]
    rows = found.rows(order, found.names)
    assert set(rows) == set(written[0])
    for row, number in enumerate(order):
        assert_equal(
            {name: value[row] for name, value in rows.items()}, image_arrays(written[number])
        )


def image_arrays(record: dict) -> dict:
    """With numbers of the types that they are stored as."""
    types = {'image_id': np.int64, 'first_caption': np.int32, 'num_captions': np.int32}
    return {name: types.get(name, lambda value: value)(value) for name, value in record.items()}


def test_tfds_opens_the_data_set(tmp_path):
    write(tmp_path)
    builder = tfds.builder_from_directory(tmp_path / 'images')
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {
        'train': 5,
        'validation': 1,
    }
    source = builder.as_data_source('train')
    for number in (0, 4):
        assert_equal(dict(source[number]), image_record(number))
    assert 'tensorflow' not in sys.modules


def test_captions_hold_text_and_features(tmp_path):
    features = shards.caption_features(3, 5)
    record = {
        'text': np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16),
        'caption': 'Ein rotes „Haus“.',
        'image_id': 3,
    }
    path = shards.shard_path(tmp_path, 'captions', 'train', 0, 1)
    shards.write_shard(path, features, [record])
    found = Records(tmp_path, 'captions', 'train', [1], features)[0]
    assert found.pop('caption').decode() == record.pop('caption')
    assert_equal(found, record)


def test_moments_take_the_place_of_latents():
    features = shards.image_features((4, 4, 3), has_variance=True, map_size=8)
    assert features['moments'].shape == (4, 4, 6)
    assert 'latents' not in features


def test_bytes_do_not_depend_on_the_process(tmp_path):
    """TFDS alone orders a record's fields differently in each process."""
    code = f'import test_shards; test_shards.write(test_shards.Path({str(tmp_path / "there")!r}))'
    root = Path(__file__).parents[2]
    environment = {'PYTHONPATH': f'{root}:{root / "tests"}', 'PYTHONHASHSEED': '77'}
    subprocess.run([sys.executable, '-c', code], check=True, env=environment, cwd=root)
    write(tmp_path / 'here')
    files = sorted((tmp_path / 'here' / 'images').glob('*.array_record*'))
    assert len(files) == 3
    for file in files:
        assert file.read_bytes() == (tmp_path / 'there' / 'images' / file.name).read_bytes()


def test_interrupted_shard_has_no_final_name(tmp_path):
    def broken():
        yield image_record(0)
        raise RuntimeError('stop')

    path = shards.shard_path(tmp_path, 'images', 'train', 0, 1)
    features = shards.image_features((4, 4, 3), has_variance=False, map_size=8)
    with pytest.raises(RuntimeError, match='stop'):
        shards.write_shard(path, features, broken())
    assert not path.exists()


def test_missing_and_damaged_shards_are_named(tmp_path):
    write(tmp_path)
    path = shards.shard_path(tmp_path, 'images', 'train', 1, 2)
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match='00001-of-00002 is damaged'):
            records(tmp_path)
    flipped = bytearray(whole)
    flipped[whole.index(image_record(3)['category'].tobytes()) + 5] ^= 255
    path.write_bytes(flipped)
    found = records(tmp_path)
    with pytest.raises(ValueError, match='00001-of-00002 is damaged: record 3 of the split cannot'):
        found[3]
    with pytest.raises(ValueError, match='00001-of-00002 is damaged: record 3 of the split cannot'):
        found.rows([0, 3], ['latents'])
    path.unlink()
    with pytest.raises(FileNotFoundError, match='00001-of-00002 is missing; restore it'):
        records(tmp_path)
    path.write_bytes(shards.shard_path(tmp_path, 'images', 'train', 0, 2).read_bytes())
    with pytest.raises(ValueError, match='it holds 3 records where 2 were written'):
        records(tmp_path)
