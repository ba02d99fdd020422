"""Prepared records on disk: two TFDS data sets of ArrayRecord shards, written here and read back.

`{data_dir}/images` and `{data_dir}/captions` each open with `tfds.builder_from_directory`. Captions
lie apart and uncompressed, because training reads one of an image's five: ten times faster than one
fat record. What the records mean is `prepare.py`'s, how they become batches `loader.py`'s business.
ArrayRecord files are local ones: in a bucket, shards are written by way of the disk and read from
copies, which are `shard_copies.py`'s.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from panoptic_jax import files
from panoptic_jax.data.shard_copies import local_copies, missing_shard

_FILE_TYPE = 'array_record'


def image_features(
    latent_shape: Sequence[int], has_variance: bool, map_size: int | None
) -> tfds.features.FeaturesDict:
    """What an image record holds.

    'latents' float16 (h, w, c), unscaled, or 'moments' (h, w, 2c) if the autoencoder has a
    variance; 'category' and 'instance' uint8 (map_size, map_size), unless `map_size` is None;
    'image_id' of the source; its captions are records `first_caption` .. `first_caption +
    num_captions - 1` of the split.
    """
    height, width, channels = latent_shape
    name, channels = ('moments', 2 * channels) if has_variance else ('latents', channels)
    map_ = _tensor((map_size, map_size), np.uint8) if map_size else None
    maps = {'category': map_, 'instance': map_} if map_size else {}
    return tfds.features.FeaturesDict(
        {
            name: _tensor((height, width, channels), np.float16),
            **maps,
            'image_id': tfds.features.Scalar(np.int64),
            'first_caption': tfds.features.Scalar(np.int32),
            'num_captions': tfds.features.Scalar(np.int32),
        }
    )


def caption_features(tokens: int, features: int) -> tfds.features.FeaturesDict:
    """What a caption record holds: 'text' float16 (L, D), the 'caption' itself, its 'image_id'."""
    return tfds.features.FeaturesDict(
        {
            'text': _tensor((tokens, features), np.float16),
            'caption': tfds.features.Text(),
            'image_id': tfds.features.Scalar(np.int64),
        }
    )


def _tensor(shape: tuple[int, ...], dtype: type) -> tfds.features.Tensor:
    # Other encodings store float16 as float32 lists: 15 times slower to write, 5 times to read.
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding='bytes')


def shard_path(data_dir: str, dataset: str, split: str, index: int, count: int) -> epath.Path:
    """Final name of a shard, as TFDS expects it; `dataset` is 'images' or 'captions'."""
    name = f'{dataset}-{split}.{_FILE_TYPE}-{index:05d}-of-{count:05d}'
    return epath.Path(data_dir) / dataset / name


def write_shard(
    path: epath.Path,
    features: tfds.features.FeaturesDict,
    examples: Iterable[Mapping[str, Any]],
) -> None:
    """Writes one shard elsewhere and gives it its final name then, which means a whole file.

    Equal examples give equal bytes.
    """
    with _appearing(path) as unfinished:
        writer = array_record_module.ArrayRecordWriter(unfinished, 'group_size:1,uncompressed')
        for example in examples:
            # TFDS leaves the order of a record's keys to chance, which differs between processes.
            record = tf_example_pb2.Example.FromString(features.serialize_example(example))
            writer.write(record.SerializeToString(deterministic=True))
        writer.close()


@contextlib.contextmanager
def _appearing(path: epath.Path) -> Iterator[str]:
    """A local file to write, which becomes `path` unless there is an exception."""
    if files.is_remote(path):
        with tempfile.TemporaryDirectory(prefix='panoptic_jax_shard_') as folder:
            unfinished = os.path.join(folder, path.name)
            yield unfinished
            files.upload(unfinished, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + '.tmp')
    yield os.fspath(unfinished)
    unfinished.replace(path)


def write_metadata(
    data_dir: str,
    dataset: str,
    features: tfds.features.FeaturesDict,
    shard_lengths: Mapping[str, Sequence[int]],
    description: str,
) -> None:
    """Adds TFDS's own description, after which `tfds.builder_from_directory` opens the data set.

    Args:
      data_dir: Folder of both data sets.
      dataset: 'images' or 'captions'.
      features: As the shards were written with.
      shard_lengths: {split: records per shard}; every shard must exist.
      description: A sentence for `dataset_info.json`.
    """
    directory = epath.Path(data_dir) / dataset
    sizes = {name: size for name, (size, _) in files.listed(directory).items()}
    split_infos = []
    for split, lengths in shard_lengths.items():
        paths = [shard_path(data_dir, dataset, split, i, len(lengths)) for i in range(len(lengths))]
        template = tfds.core.ShardedFileTemplate(
            data_dir=directory, dataset_name=dataset, split=split, filetype_suffix=_FILE_TYPE
        )
        split_infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=list(lengths),
                num_bytes=sum(sizes[path.name] for path in paths),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        split_infos=split_infos,
        version='1.0.0',
        description=description,
        check_data=False,  # it reads through TensorFlow
    )


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

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The record as a dict; arrays are read-only views of its bytes."""
        if not 0 <= index < len(self):  # an IndexError, so that iteration ends
            raise IndexError(f'record {index} of {len(self)}')
        try:
            return _parse(self._features, self._source[index])
        except Exception as error:
            paths = self._paths[int(np.searchsorted(self._ends, index, side='right'))]
            raise ValueError(
                _damaged(*paths, f'record {index} of the split cannot be read')
            ) from error


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
