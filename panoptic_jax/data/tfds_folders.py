"""Opening data sets that TFDS wrote, without TensorFlow and without the code that wrote them.

Whatever is wrong with such a folder is said in one sentence. `data/tfds_panoptic.py` makes examples
of the records. Our own prepared folders are opened by `data/records.py`.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from panoptic_jax.machine import files
from panoptic_jax.machine.disk import first_line

_ARRAY_RECORD = 'array_record'


class DataSet(NamedTuple):
    """Where a data set of TFDS lies.

    Attributes:
      root: TFDS's `data_dir`, the folder of all its data sets.
      name: Name and config, such as 'coco/2017_panoptic', or with the version:
        'coco/2017_panoptic:1.1.0'. Without it, the newest one counts.
    """

    root: str
    name: str


def open_builder(data_set: DataSet) -> tfds.core.DatasetBuilder:
    """Opens a data set.

    Raises:
      FileNotFoundError: there is no such data set.
      ValueError: it is in a bucket, is not in array_record form, or its metadata cannot be read.
    """
    folder = _find_version(data_set)
    try:
        builder = tfds.builder_from_directory(folder)
        forms = sorted(form.value for form in builder.info.available_file_formats())
    # TFDS raises errors of every kind for metadata that it did not write.
    except Exception as error:
        raise ValueError(
            f'{folder} cannot be opened as a data set of TFDS ({first_line(error)}); write it '
            'again with tfds build.'
        ) from error
    if _ARRAY_RECORD not in forms:
        raise ValueError(
            f'{folder} is in the form {" and ".join(forms) or "of an older TFDS"}, which needs '
            'TensorFlow; rewrite it: tfds convert_format '
            f'--dataset_version_dir={folder} --out_file_format={_ARRAY_RECORD}.'
        )
    return builder


def require_features(
    builder: tfds.core.DatasetBuilder, names: Mapping[str, Sequence[str]], like: str
) -> None:
    """Refuses a data set that lacks features.

    Args:
      builder: From `open_builder`.
      names: The features, and for a sequence the names of what its parts have.
      like: A data set that has them all, for the message.

    Raises:
      ValueError: features are missing; the message names them.
    """
    features = builder.info.features
    lacking = [name for name in names if name not in features]
    for name, inner in names.items():
        if name in features and inner:
            parts = getattr(features[name], 'feature', {})
            lacking += [f'{name}/{part}' for part in inner if part not in parts]
    if lacking:
        raise ValueError(
            f'{builder.data_path} lacks the features {", ".join(lacking)}; data.tfds_name must be '
            f'a data set with those of {like}.'
        )


def open_split(
    builder: tfds.core.DatasetBuilder, split: str, undecoded: Sequence[str] = ()
) -> Sequence[Any]:
    """The records of a split, after a check that all its files are there; random access.

    Args:
      builder: From `open_builder`.
      split: TFDS's name of the split, or a slice of it, such as 'train[:10%]'.
      undecoded: Names of features that come as the bytes which TFDS stored.

    Raises:
      FileNotFoundError: a shard is missing.
      ValueError: there is no such split.
    """
    _check_shards(builder, split)
    decoders = {name: tfds.decode.SkipDecoding() for name in undecoded}
    try:
        return builder.as_data_source(split, decoders=decoders, file_format=_ARRAY_RECORD)
    except Exception as error:
        raise ValueError(
            f'{builder.data_path}: the split {split!r} cannot be read ({first_line(error)}).'
        ) from error


def read_numbers(builder: tfds.core.DatasetBuilder, split: str, name: str) -> np.ndarray:
    """(n,) int64: one feature, a whole number, of every record of a split.

    The records must be read whole for that, which takes about as long as copying the files.

    Args:
      builder: From `open_builder`.
      split: TFDS's name of the split, or a slice of it.
      name: The feature's name.

    Raises:
      FileNotFoundError, ValueError: the errors of `open_split`; a record is damaged.
    """
    _check_shards(builder, split)
    feature = tfds.features.FeaturesDict({name: builder.info.features[name]})
    records = builder.as_data_source(
        split,
        deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        file_format=_ARRAY_RECORD,
    )
    logging.info('Reading %s of all %d records of the split %s.', name, len(records), split)

    def read(number):
        try:
            return int(feature.deserialize_example_np(records[number])[name])
        except Exception as error:
            raise ValueError(
                f'{builder.data_path}, split {split!r}, record {number} cannot be read ({error}); '
                'restore the file.'
            ) from error

    # Files are read outside Python's lock.
    with futures.ThreadPoolExecutor() as pool:
        return np.fromiter(pool.map(read, range(len(records))), np.int64, len(records))


def _find_version(data_set: DataSet) -> epath.Path:
    """The folder of the wanted version, or of the newest one."""
    root, name = data_set
    name, _, wanted = name.partition(':')
    if files.is_remote(root):
        raise ValueError(
            f'data.root is {root!r}; a data set of TFDS must be on a local disk, where its files '
            'can be read.'
        )
    folder = epath.Path(root) / name
    parts = re.split(r'[/\\]', name)
    if '..' in parts or not all(parts):
        raise ValueError(
            f"data.tfds_name is {data_set.name!r}; it must be a data set's name and config, such "
            "as 'coco/2017_panoptic'."
        )
    versions = {}
    if root and folder.is_dir():
        for path in folder.iterdir():
            if re.fullmatch(r'\d+\.\d+\.\d+', path.name) and path.is_dir():
                versions[tuple(map(int, path.name.split('.')))] = path
    if wanted:
        versions = {key: path for key, path in versions.items() if path.name == wanted}
    if not versions:
        version = f' of version {wanted}' if wanted else ''
        raise FileNotFoundError(
            f'data.root is {root!r}, which has no data set {name}{version}, that is, no folder '
            f'{name}/{wanted or "1.1.0"}; write it: tfds build {name} '
            f'--file_format={_ARRAY_RECORD} --data_dir={root or "DIR"}.'
        )
    return versions[max(versions)]


def _check_shards(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Checks the split's name, and that its files are there: readers open them only when asked."""
    name = re.split(r'[\[+]', split)[0]
    if name not in builder.info.splits:
        raise ValueError(
            f'{builder.data_path} has no split {name!r} but {", ".join(builder.info.splits)}; set '
            'data.train_split and data.validation_split to its names.'
        )
    present = files.sizes_and_times(builder.data_path)
    shards = [epath.Path(path) for path in builder.info.splits[name].filepaths]
    missing = [path.name for path in shards if path.name not in present]
    if missing:
        raise FileNotFoundError(
            f'{builder.data_path} lacks {len(missing)} of {len(shards)} files of the split '
            f'{name!r}, the first {missing[0]}; restore them or write the data set again.'
        )
