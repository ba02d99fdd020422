"""Reading prepared records: single records at random, or many as the rows of a batch.

`data/shards.py` writes the records. `data/loader.py` decides the order of training and builds its
batches. `data/shard_copies.py` copies the shards of a bucket to the disk, where they are read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from panoptic_jax.data.shard_copies import local_copies, missing_shard
from panoptic_jax.data.shards import shard_path

_SHIFT = 64  # bytes; all numbers of a record take less, so no value lies further off

_Feature = type(tf_example_pb2.Example().features.feature['any'])


class _Stretch(NamedTuple):
    """A part of a file, as ArrayRecord's source takes it.

    It spares the source from opening every file again to count its records. A path alone would do
    so, and be searched for brackets.
    """

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Records:
    """Random access to one split of one data set; survives pickling into loader processes."""

    def __init__(
        self,
        *,
        data_dir: str,
        dataset: str,
        split: str,
        shard_lengths: Sequence[int],
        features: tfds.features.FeaturesDict,
        cache: str = '',
    ) -> None:
        """Opens a split, after a check of every shard.

        Args:
          data_dir: A prepared folder.
          dataset: Folder of a data set there, see `shards.shard_path`.
          split: 'train' or 'validation'.
          shard_lengths: How many records each shard holds.
          features: What a record holds, see `shards.image_features`.
          cache: Folder for the local copies of shards in a bucket, see `shard_copies.local_copies`.

        Raises:
          FileNotFoundError: a shard is missing.
          ValueError: a shard is damaged. Reading a damaged record raises it as well.
        """
        count = len(shard_lengths)
        originals = [
            shard_path(data_dir=data_dir, dataset=dataset, split=split, index=index, count=count)
            for index in range(count)
        ]
        paths = local_copies(originals, cache)
        instructions = []
        for path, original, length in zip(paths, originals, shard_lengths, strict=True):
            check_shard(path, original, length)
            instructions.append(_Stretch(str(path), skip=0, take=length, examples_in_shard=length))
        self._source = array_record_data_source.ArrayRecordDataSource(instructions)
        self._features = features
        self._paths = list(zip(paths, originals, strict=True))
        self._ends = np.cumsum(shard_lengths)
        self._marks = {name: _mark(name, feature) for name, feature in features.items()}
        self._last_starts = dict.fromkeys(features, 0)

    @property
    def names(self) -> list[str]:
        """The names of a record's fields."""
        return list(self._features)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The record as a dict; its arrays are read-only views of the record's bytes."""
        if not 0 <= index < len(self):  # an IndexError, so that iteration ends
            raise IndexError(f'record {index} of {len(self)}')
        try:
            return _parse(self._features, self._source[index])
        except Exception as error:
            raise self._unreadable(index) from error

    def rows(self, indices: Sequence[int], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Arrays and numbers of n records, {name: (n, ...)}.

        Args:
          indices: Which records.
          names: Which fields of a record; texts are left to single records.

        Raises:
          ValueError: a record is damaged.
        """
        count = len(indices)
        values = {}
        bytes_of = {}  # {name: (n, size) uint8}, views of the arrays in `values`
        for name in names:
            feature = self._features[name]
            values[name] = np.empty((count, *feature.shape), feature.np_dtype)
            if not isinstance(feature, tfds.features.Scalar):
                bytes_of[name] = values[name].reshape(count, -1).view(np.uint8)
        # Each record is dropped once its values are copied, before the next one is read: so all
        # records share memory that stays in the processor's cache. Two threads take nearly half the
        # time of one, since reading happens outside Python's lock.
        for row, index in enumerate(indices):
            try:
                record = self._source[index]
                for name in names:
                    start = self._start(record, name)
                    if name in bytes_of:
                        size = bytes_of[name].shape[1]
                        bytes_of[name][row] = np.frombuffer(record, np.uint8, size, start)
                    else:
                        values[name][row] = _number(record, start)
            except Exception as error:
                raise self._unreadable(index) from error
        return values

    def _start(self, record: bytes, name: str) -> int:
        """The position of a field's value in a record."""
        # Parsing the whole record would copy it twice, so the bytes before the value are searched.
        # A value starts near its place in the record before: only numbers differ in length.
        mark = self._marks[name]
        guess = self._last_starts[name]
        place = record.find(mark, max(0, guess - _SHIFT), guess + len(mark) + _SHIFT)
        if place < 0:
            place = record.index(mark)
        self._last_starts[name] = place
        return place + len(mark)

    def _unreadable(self, index: int) -> ValueError:
        shard = int(np.searchsorted(self._ends, index, side='right'))
        path, original = self._paths[shard]
        return ValueError(_damaged(path, original, f'record {index} of the split cannot be read'))


def _mark(name: str, feature: Any) -> bytes:
    """The bytes before a field's value: the field's name and lengths, equal in all records.

    For an array these are all bytes up to the array's own. For a number they end before the length
    of the number's message.
    """
    if isinstance(feature, tfds.features.Scalar | tfds.features.Text):
        # Protocol buffers' tag of a map entry's key, the key, and the tag of the value.
        return b'\n' + bytes([len(name)]) + name.encode() + b'\x12'
    size = int(np.prod(feature.shape)) * np.dtype(feature.np_dtype).itemsize
    features = tf_example_pb2.Example().features
    features.feature[name].bytes_list.value.append(bytes(size))
    return features.SerializeToString()[:-size]


def _number(record: bytes, start: int) -> int:
    """The number whose message, with its length in the first byte, starts at a position."""
    length = record[start]
    message = record[start + 1 : start + 1 + length]
    return _Feature.FromString(message).int64_list.value[0]


def _parse(features: tfds.features.FeaturesDict, record: bytes) -> dict[str, Any]:
    """{name: value} of a record's bytes; TFDS's own parser takes three times as long."""
    fields = tf_example_pb2.Example.FromString(record).features.feature
    values = {}
    for name, feature in features.items():
        if isinstance(feature, tfds.features.Scalar):
            values[name] = fields[name].int64_list.value[0]
        elif isinstance(feature, tfds.features.Text):
            values[name] = fields[name].bytes_list.value[0]
        else:
            content = fields[name].bytes_list.value[0]
            values[name] = np.frombuffer(content, feature.np_dtype).reshape(feature.shape)
    return values


def check_shard(path: epath.Path, original: epath.Path, length: int) -> None:
    """Opens a shard, without a look at its records.

    Args:
      path: A local file.
      original: What the file is a copy of; the same path where it is no copy.
      length: Number of records that it must hold.

    Raises:
      FileNotFoundError: it is missing.
      ValueError: it is broken off, or holds another number of records.
    """
    if not path.exists():
        raise FileNotFoundError(missing_shard(path))
    try:
        # Opening reads the end of the file, which a broken-off copy lacks.
        reader = array_record_module.ArrayRecordReader(str(path))
        records = reader.num_records()
        reader.close()
    except Exception as error:
        raise ValueError(_damaged(path, original, 'it cannot be opened')) from error
    if records != length:
        finding = f'it holds {records} records where {length} were written'
        raise ValueError(_damaged(path, original, finding))


def _damaged(path: epath.Path, original: epath.Path, finding: str) -> str:
    """The sentence for a damaged shard, which may be a copy of an original in a bucket."""
    if path != original:
        return (
            f'Shard {path}, a copy of {original}, is damaged: {finding}; delete the copy, and '
            'restore the original where that does not help.'
        )
    return (
        f'Shard {path} is damaged: {finding}; restore the file, or delete the folder and run '
        '--mode=prepare again.'
    )
