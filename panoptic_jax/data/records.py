"""Prepared records read back: at random, one by one or as the rows of a batch.

Writing them is `shards.py`'s, the order of training and its batches `loader.py`'s business. In a
bucket, shards are read from local copies, which are `shard_copies.py`'s.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from panoptic_jax.data.shard_copies import local_copies, missing_shard
from panoptic_jax.data.shards import shard_path

_SHIFT = 64  # bytes; more than all numbers of a record can take

_Feature = type(tf_example_pb2.Example().features.feature['any'])


class Records:
    """Random access to one split of one data set; survives pickling into loader processes.

    `cache`: folder for the local copies of shards in a bucket, see `shard_copies.local_copies`.

    Raises:
      FileNotFoundError: a shard is missing.
      ValueError: a shard is damaged; also on access.
    """

    def __init__(
        self,
        data_dir: str,
        dataset: str,
        split: str,
        shard_lengths: Sequence[int],
        features: tfds.features.FeaturesDict,
        cache: str = '',
    ) -> None:
        count = len(shard_lengths)
        originals = [shard_path(data_dir, dataset, split, i, count) for i in range(count)]
        paths = local_copies(originals, cache)
        for path, original, length in zip(paths, originals, shard_lengths, strict=True):
            _check_shard(path, original, length)
        # The suffix spares the source from opening every file once more to count its records.
        instructions = [
            f'{path}[0:{length}]' for path, length in zip(paths, shard_lengths, strict=True)
        ]
        self._source = array_record_data_source.ArrayRecordDataSource(instructions)
        self._features = features
        self._paths = [*zip(paths, originals, strict=True)]
        self._ends = np.cumsum(shard_lengths)
        self._marks = {name: _mark(name, feature) for name, feature in features.items()}
        self._places = dict.fromkeys(features, 0)

    @property
    def names(self) -> list[str]:
        """Of what a record holds."""
        return [*self._features]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The record as a dict; arrays are read-only views of its bytes."""
        if not 0 <= index < len(self):  # an IndexError, so that iteration ends
            raise IndexError(f'record {index} of {len(self)}')
        try:
            return _parse(self._features, self._source[index])
        except Exception as error:
            raise self._unreadable(index) from error

    def rows(self, indices: Sequence[int], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Arrays and numbers of several records, {name: (n, ...)}.

        A record is dropped as soon as its values have been copied, before the next one is read:
        memory that the processor still has in its cache serves them all. Two threads take nearly
        half the time of one, since reading happens outside Python's lock.
        """
        count = len(indices)
        kinds = {name: self._features[name] for name in names}
        found = {name: np.empty((count, *f.shape), f.np_dtype) for name, f in kinds.items()}
        arrays = {
            name: found[name].reshape(count, -1).view(np.uint8)
            for name, feature in kinds.items()
            if not isinstance(feature, tfds.features.Scalar)
        }
        for row, index in enumerate(indices):
            try:
                record = self._source[index]
                for name in names:
                    start = self._start(record, name)
                    if name in arrays:
                        size = arrays[name].shape[1]
                        arrays[name][row] = np.frombuffer(record, np.uint8, size, start)
                    else:
                        feature = _Feature.FromString(record[start + 1 : start + 1 + record[start]])
                        found[name][row] = feature.int64_list.value[0]
            except Exception as error:
                raise self._unreadable(index) from error
        return found

    def _start(self, record: bytes, name: str) -> int:
        """Where a value starts. Parsing all of a record would copy it twice.

        That is about where it started in the record before: numbers have lengths of their own.
        """
        mark, guess = self._marks[name], self._places[name]
        place = record.find(mark, max(0, guess - _SHIFT), guess + len(mark) + _SHIFT)
        if place < 0:
            place = record.index(mark)
        self._places[name] = place
        return place + len(mark)

    def _unreadable(self, index: int) -> ValueError:
        paths = self._paths[int(np.searchsorted(self._ends, index, side='right'))]
        return ValueError(_damaged(*paths, f'record {index} of the split cannot be read'))


def _mark(name: str, feature: Any) -> bytes:
    """What stands before a value in a record: its name, and lengths, which are the same in all.

    Of an array everything up to its bytes; of a number everything up to the length of its message.
    """
    features = tf_example_pb2.Example().features
    if isinstance(feature, tfds.features.Scalar | tfds.features.Text):
        return b'\n' + bytes([len(name)]) + name.encode() + b'\x12'
    size = int(np.prod(feature.shape)) * np.dtype(feature.np_dtype).itemsize
    features.feature[name].bytes_list.value.append(bytes(size))
    return features.SerializeToString()[:-size]


def _parse(features: tfds.features.FeaturesDict, record: bytes) -> dict[str, Any]:
    """`features.deserialize_example_np(record)` for the features above, in a third of its time."""
    fields = tf_example_pb2.Example.FromString(record).features.feature
    example = {}
    for name, feature in features.items():
        if isinstance(feature, tfds.features.Scalar):
            example[name] = fields[name].int64_list.value[0]
        elif isinstance(feature, tfds.features.Text):
            example[name] = fields[name].bytes_list.value[0]
        else:
            values = np.frombuffer(fields[name].bytes_list.value[0], feature.np_dtype)
            example[name] = values.reshape(feature.shape)
    return example


def _check_shard(path: epath.Path, original: epath.Path, length: int) -> None:
    if not path.exists():
        raise FileNotFoundError(missing_shard(path))
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    except Exception as error:
        raise ValueError(_damaged(path, original, 'it cannot be opened')) from error
    if found != length:
        finding = f'it holds {found} records where {length} were written'
        raise ValueError(_damaged(path, original, finding))


def _damaged(path: epath.Path, original: epath.Path, finding: str) -> str:
    if path != original:
        return (
            f'Shard {path}, a copy of {original}, is damaged: {finding}; delete the copy, and '
            'restore the original where that does not help.'
        )
    return (
        f'Shard {path} is damaged: {finding}; restore the file, or delete the folder and run '
        '--mode=prepare again.'
    )
