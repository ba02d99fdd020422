"""Shards: TFDS opens them, equal records give equal bytes, and damage is named."""

import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
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


def features() -> tfds.features.FeaturesDict:
    return shards.image_features((4, 4, 3), has_variance=False, stored_map_side=8)


def shard_path(
    data_dir: Path, index: int, count: int, *, split: str = 'train', dataset: str = 'images'
) -> Path:
    return shards.shard_path(
        data_dir=data_dir, dataset=dataset, split=split, index=index, count=count
    )


def write(data_dir: Path) -> None:
    number = 0
    for split, lengths in LENGTHS.items():
        for index, length in enumerate(lengths):
            records = [image_record(number + i) for i in range(length)]
            path = shard_path(data_dir, index, len(lengths), split=split)
            shards.write_shard(path, features(), records)
            number += length
    shards.write_metadata(
        data_dir=data_dir,
        dataset='images',
        features=features(),
        shard_lengths=LENGTHS,
        description='Random numbers.',
    )


def open_records(data_dir: Path, shard_lengths: Sequence[int] = LENGTHS['train']) -> Records:
    return Records(
        data_dir=data_dir,
        dataset='images',
        split='train',
        shard_lengths=shard_lengths,
        features=features(),
    )


def assert_equal(record: dict, expected: dict) -> None:
    assert record.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(record[name], value, err_msg=name)
        assert np.asarray(record[name]).dtype == np.asarray(value).dtype


def test_records_come_back_across_shards(tmp_path):
    write(tmp_path)
    records = open_records(tmp_path)
    assert len(records) == 5
    for number in (4, 0, 2, 3):
        assert_equal(records[number], image_record(number))
    with pytest.raises(IndexError):
        records[5]


def test_rows_are_the_records(tmp_path):
    """Numbers take one to five bytes and move the values behind them."""
    written = [image_record(i) | {'first_caption': 7**i, 'image_id': 9**i} for i in range(11)]
    for index, part in enumerate((written[:6], written[6:])):
        shards.write_shard(shard_path(tmp_path, index, 2), features(), part)
    records = open_records(tmp_path, [6, 5])
    order = [10, 0, 3, 3, 8, 1, 9]
    rows = records.rows(order, records.names)
    assert set(rows) == set(written[0])
    for row, number in enumerate(order):
        assert_equal(
            {name: value[row] for name, value in rows.items()}, image_arrays(written[number])
        )


def image_arrays(record: dict) -> dict:
    """The record with its numbers in the types that shards store."""
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
    caption_features = shards.caption_features(3, 5)
    record = {
        'text': np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16),
        'caption': 'Ein rotes „Haus“.',
        'image_id': 3,
    }
    path = shard_path(tmp_path, 0, 1, dataset='captions')
    shards.write_shard(path, caption_features, [record])
    records = Records(
        data_dir=tmp_path,
        dataset='captions',
        split='train',
        shard_lengths=[1],
        features=caption_features,
    )
    read = records[0]
    assert read.pop('caption').decode() == record.pop('caption')
    assert_equal(read, record)


def test_moments_take_the_place_of_latents():
    with_variance = shards.image_features((4, 4, 3), has_variance=True, stored_map_side=8)
    assert with_variance['moments'].shape == (4, 4, 6)
    assert 'latents' not in with_variance


def test_bytes_do_not_depend_on_the_process(tmp_path):
    """TFDS alone orders a record's fields differently in each process."""
    code = f'import test_shards; test_shards.write(test_shards.Path({str(tmp_path / "there")!r}))'
    here = Path(__file__).parent
    root = here.parents[1]
    environment = {'PYTHONPATH': f'{root}:{here}', 'PYTHONHASHSEED': '77'}
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

    path = shard_path(tmp_path, 0, 1)
    with pytest.raises(RuntimeError, match='stop'):
        shards.write_shard(path, features(), broken())
    assert not [*path.parent.iterdir()]


@pytest.mark.parametrize(
    ('data_dir', 'place'), [('', 'images/images-train'), ('gs://bucket', 'panoptic_jax_shard_')]
)
def test_a_disk_that_refuses_a_shard_is_named(tmp_path, monkeypatch, data_dir, place):
    """A shard for a bucket is written to the folder for temporary files first."""
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    path = shard_path(data_dir or tmp_path, 0, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ValueError, match=f'{tmp_path}/{place}.*00000-of-00001 is larger than'):
            shards.write_shard(path, features(), (image_record(i) for i in range(3)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not [path for path in tmp_path.rglob('*') if path.is_file()]


@pytest.fixture
def last_shard(tmp_path):
    """The second shard of the training records, whole."""
    write(tmp_path)
    return shard_path(tmp_path, 1, 2)


def test_broken_off_shards_are_named(tmp_path, last_shard):
    whole = last_shard.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        last_shard.write_bytes(whole[:size])
        with pytest.raises(ValueError, match='00001-of-00002 is damaged'):
            open_records(tmp_path)


def test_damaged_records_are_named(tmp_path, last_shard):
    content = bytearray(last_shard.read_bytes())
    content[content.index(image_record(3)['category'].tobytes()) + 5] ^= 255
    last_shard.write_bytes(content)
    records = open_records(tmp_path)
    with pytest.raises(ValueError, match='00001-of-00002 is damaged: record 3 of the split cannot'):
        records[3]
    with pytest.raises(ValueError, match='00001-of-00002 is damaged: record 3 of the split cannot'):
        records.rows([0, 3], ['latents'])


def test_missing_shards_are_named(tmp_path, last_shard):
    last_shard.unlink()
    with pytest.raises(FileNotFoundError, match='00001-of-00002 is missing; restore it'):
        open_records(tmp_path)


def test_shards_of_another_length_are_named(tmp_path, last_shard):
    last_shard.write_bytes(shard_path(tmp_path, 0, 2).read_bytes())
    with pytest.raises(ValueError, match='it holds 3 records where 2 were written'):
        open_records(tmp_path)
