"""Writing prepared records to disk: two TFDS data sets of ArrayRecord shards.

`tfds.data_source('images', data_dir=data_dir)` opens one of them, and so does 'captions'. Captions
lie apart from images and uncompressed, because training reads one of an image's five captions: this
is ten times faster than one fat record. ArrayRecord writes local files only, so a shard that goes
to a bucket is written to the disk first. `preparation/shard_records.py` makes the records, and
`data/records.py` reads them.
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

from panoptic_jax.data.manifest import VERSION, Manifest
from panoptic_jax.machine import files

METADATA = ('dataset_info.json', 'features.json')  # TFDS's files in the folder of a data set
_FILE_TYPE = 'array_record'
_WRITER_OPTIONS = 'group_size:1,uncompressed'
_BLOCK, _BLOCK_HEADER = 65536, 24  # bytes
_AROUND_RECORD = 180  # bytes, measured


def features_of(manifest: Manifest) -> dict[str, tfds.features.FeaturesDict]:
    """What the records of both data sets of a prepared folder hold, images first."""
    autoencoder, text = manifest.autoencoder, manifest.text
    return {
        'images': image_features(
            autoencoder.latent_shape, autoencoder.has_variance, manifest.stored_map_side
        ),
        'captions': caption_features(text.tokens, text.features),
    }


def image_features(
    latent_shape: Sequence[int], has_variance: bool, stored_map_side: int | None
) -> tfds.features.FeaturesDict:
    """What an image record holds.

    Args:
      latent_shape: (h, w, c) of an image's latents.
      has_variance: Whether the autoencoder gives a mean and a log variance.
      stored_map_side: Side of the map in pixels; None for data without maps.

    Returns:
      latents: (h, w, c) float16, unscaled; with a variance `moments`, (h, w, 2c), instead.
      category, instance: (side, side) uint8, if there are maps.
      image_id: The source's number of the image.
      first_caption, num_captions: The image's captions are the caption records `first_caption` ..
        `first_caption + num_captions - 1` of the split.
    """
    height, width, channels = latent_shape
    features = {}
    if has_variance:
        features['moments'] = _tensor((height, width, 2 * channels), np.float16)
    else:
        features['latents'] = _tensor((height, width, channels), np.float16)
    if stored_map_side:
        for name in ('category', 'instance'):
            features[name] = _tensor((stored_map_side, stored_map_side), np.uint8)
    features['image_id'] = tfds.features.Scalar(np.int64)
    features['first_caption'] = tfds.features.Scalar(np.int32)
    features['num_captions'] = tfds.features.Scalar(np.int32)
    return tfds.features.FeaturesDict(features)


def caption_features(tokens: int, features: int) -> tfds.features.FeaturesDict:
    """What a caption record holds.

    Args:
      tokens: L, tokens per caption.
      features: D, numbers per token.

    Returns:
      text: (L, D) float16, the text encoder's features.
      caption: The caption itself.
      image_id: The source's number of the image.
    """
    return tfds.features.FeaturesDict(
        {
            'text': _tensor((tokens, features), np.float16),
            'caption': tfds.features.Text(),
            'image_id': tfds.features.Scalar(np.int64),
        }
    )


def _tensor(shape: tuple[int, ...], dtype: type) -> tfds.features.Tensor:
    # Other encodings store float16 as lists of float32, which take 15 times as long to write and 5
    # times as long to read.
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding='bytes')


def shard_path(*, data_dir: str, dataset: str, split: str, index: int, count: int) -> epath.Path:
    """The final path of a shard, with the name that TFDS expects.

    Args:
      data_dir: Folder of both data sets.
      dataset: Folder of one of them, see `Manifest.folder_of`: 'images/1.0.0', or 'images'.
      split: 'train' or 'validation'.
      index: Which shard of the split.
      count: How many shards the split has.
    """
    name = f'{_name(dataset)}-{split}.{_FILE_TYPE}-{index:05d}-of-{count:05d}'
    return epath.Path(data_dir) / dataset / name


def _name(dataset: str) -> str:
    """The name of a data set, given its folder."""
    return dataset.partition('/')[0]


def shard_bytes(record_bytes: int, records: int) -> int:
    """About how many bytes a shard takes, within one block of 64 kB.

    Args:
      record_bytes: Bytes of all its records together, as far as arrays go.
      records: Their number.
    """
    # ArrayRecord begins with a block of its own and fills the last one. Each record has a header
    # and the names of its fields around its arrays.
    return (2 + (record_bytes + records * _AROUND_RECORD) // (_BLOCK - _BLOCK_HEADER)) * _BLOCK


def write_shard(
    path: epath.Path,
    features: tfds.features.FeaturesDict,
    examples: Iterable[Mapping[str, Any]],
) -> None:
    """Writes one shard, which gets its final name once it is whole.

    Equal examples give equal bytes.

    Args:
      path: From `shard_path`.
      features: What a record holds.
      examples: The records, {name: value} each.
    """
    with _appearing(path) as unfinished:
        # A shard for a bucket fills the disk of this machine first.
        place = unfinished if files.is_remote(path) else path
        with files.explaining(place):
            writer = array_record_module.ArrayRecordWriter(unfinished, _WRITER_OPTIONS)
        size = 0
        try:
            for example in examples:
                # TFDS leaves the order of a record's keys to chance, which differs between
                # processes. A restart must give the same bytes, so the record is serialized once
                # more, in order.
                record = tf_example_pb2.Example.FromString(features.serialize_example(example))
                content = record.SerializeToString(deterministic=True)
                size += len(content)
                writer.write(content)
                # The writer keeps its error to itself until it is closed.
                if not writer.ok():
                    break
        except BaseException:
            with contextlib.suppress(RuntimeError):
                writer.close()
            raise
        with files.explaining(place, size):
            writer.close()


@contextlib.contextmanager
def _appearing(path: epath.Path) -> Iterator[str]:
    """The name of a local file to write, which becomes `path` unless there is an exception."""
    if not files.is_remote(path):
        with files.appearing(path) as unfinished:
            yield unfinished
        return
    # A bucket shows an object only once all of it has arrived, so no temporary name is needed.
    with tempfile.TemporaryDirectory(prefix='panoptic_jax_shard_') as folder:
        unfinished = os.path.join(folder, path.name)
        yield unfinished
        files.upload(unfinished, path)


def write_metadata(
    *,
    data_dir: str,
    dataset: str,
    features: tfds.features.FeaturesDict,
    shard_lengths: Mapping[str, Sequence[int]],
    description: str,
) -> None:
    """Adds TFDS's own description, so that TFDS opens the data set.

    Args:
      data_dir: Folder of both data sets.
      dataset: Folder of one of them, see `shard_path`.
      features: The features that the shards were written with.
      shard_lengths: {split: records per shard}; every shard must exist.
      description: A sentence for `dataset_info.json`.
    """
    directory = epath.Path(data_dir) / dataset
    # One listing for all shards: in a bucket each question for a size would be a request.
    sizes = {name: size for name, (size, _) in files.sizes_and_times(directory).items()}
    split_infos = []
    for split, lengths in shard_lengths.items():
        count = len(lengths)
        num_bytes = 0
        for index in range(count):
            path = shard_path(
                data_dir=data_dir, dataset=dataset, split=split, index=index, count=count
            )
            num_bytes += sizes[path.name]
        template = tfds.core.ShardedFileTemplate(
            data_dir=directory, dataset_name=_name(dataset), split=split, filetype_suffix=_FILE_TYPE
        )
        info = tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(lengths),
            num_bytes=num_bytes,
            filename_template=template,
        )
        split_infos.append(info)
    with files.explaining(directory):
        tfds.folder_dataset.write_metadata(
            data_dir=directory,
            features=features,
            split_infos=split_infos,
            version=VERSION,
            description=description,
            check_data=False,  # the check would read through TensorFlow
        )
