"""Prepared records on disk: two TFDS data sets of ArrayRecord shards, described and written here.

`{data_dir}/images` and `{data_dir}/captions` each open with `tfds.builder_from_directory`. Captions
lie apart and uncompressed, because training reads one of an image's five: ten times faster than one
fat record. What the records mean is `prepare.py`'s, reading them back `records.py`'s business.
ArrayRecord files are local ones: in a bucket, shards are written by way of the disk.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from panoptic_jax.machine import files

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
