"""The files of a preparation: which there are, which are whole, and how much room they take.

`data/shards.py` writes shards, `preparation/shard_records.py` makes their records.
"""

import contextlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import shards
from panoptic_jax.data.loader import EMPTY_TEXT, empty_text
from panoptic_jax.data.manifest import DATASETS, Manifest
from panoptic_jax.data.records import check_shard
from panoptic_jax.machine import files

Shard = tuple[str, int]  # split and number
_FLOAT16, _UINT8 = 2, 1  # bytes


def all_shards(manifest: Manifest) -> list[Shard]:
    """All shards of a preparation, in order."""
    return [
        (split, index)
        for split, sizes in manifest.splits.items()
        for index in range(len(sizes.image_shards))
    ]


def path_of(data_dir: str, manifest: Manifest, shard: Shard, dataset: str) -> epath.Path:
    """The file of a shard in one of the two data sets, 'images' or 'captions'."""
    split, index = shard
    return shards.shard_path(
        data_dir=data_dir,
        dataset=manifest.folder_of(dataset),
        split=split,
        index=index,
        count=len(manifest.splits[split].image_shards),
    )


def _records(manifest: Manifest, shard: Shard) -> dict[str, int]:
    """{data set: the shard's records}."""
    split, index = shard
    sizes = manifest.splits[split]
    return {'images': sizes.image_shards[index], 'captions': sizes.caption_shards[index]}


def sizes_on_disk(data_dir: str, manifest: Manifest) -> dict[str, int]:
    """{name: bytes} of the files of both data sets."""
    sizes = {}
    for dataset in DATASETS:
        folder = epath.Path(data_dir) / manifest.folder_of(dataset)
        found = files.sizes_and_times(folder).items()
        sizes |= {name: size for name, (size, _) in found if name.startswith(dataset)}
    return sizes


def present(data_dir: str, manifest: Manifest) -> set[Shard]:
    """The shards whose files are there, by name: a file has its name only when it is whole."""
    names = sizes_on_disk(data_dir, manifest)
    return {
        shard
        for shard in all_shards(manifest)
        if all(path_of(data_dir, manifest, shard, each).name in names for each in DATASETS)
    }


def damaged(data_dir: str, manifest: Manifest, sizes: Mapping[str, int]) -> list[epath.Path]:
    """The files that are there and not whole: broken off, or of another size than was noted.

    Args:
      data_dir: The folder.
      manifest: What it is to hold.
      sizes: {name: bytes} as a finished preparation noted them; {} where there are no notes.
    """
    found = sizes_on_disk(data_dir, manifest)
    wrong = []
    for shard in all_shards(manifest):
        for dataset, records in _records(manifest, shard).items():
            path = path_of(data_dir, manifest, shard, dataset)
            if path.name not in found:
                continue
            if found[path.name] != sizes.get(path.name, found[path.name]):
                wrong.append(path)
            # A bucket shows whole objects only, and ArrayRecord reads local files.
            elif not files.is_remote(path):
                try:
                    check_shard(path, path, records)
                except (ValueError, FileNotFoundError):
                    wrong.append(path)
    return wrong


def remove(paths: Collection[epath.Path]) -> None:
    """Removes damaged files, which are then made again."""
    for path in paths:
        logging.warning('Shard %s is damaged; it is made again.', path)
        with files.explaining(path):
            path.unlink(missing_ok=True)


def has_rest(data_dir: str, manifest: Manifest) -> bool:
    """Whether all but the shards is there: TFDS's descriptions and the empty caption's features."""
    for dataset in DATASETS:
        for name in shards.METADATA:
            path = epath.Path(data_dir) / manifest.folder_of(dataset) / name
            try:
                json.loads(path.read_text())
            except (FileNotFoundError, ValueError):
                return False
    with contextlib.suppress(FileNotFoundError, ValueError):
        return empty_text(data_dir).shape == (manifest.text.tokens, manifest.text.features)
    return False


def write_rest(data_dir: str, manifest: Manifest, empty: bytes) -> None:
    """Writes all but the shards, which must be there.

    Args:
      data_dir: The folder.
      manifest: What it holds.
      empty: The content of `empty_text.npy`.
    """
    for dataset, features in shards.features_of(manifest).items():
        lengths = {
            split: getattr(sizes, f'{dataset[:-1]}_shards')
            for split, sizes in manifest.splits.items()
        }
        shards.write_metadata(
            data_dir=data_dir,
            dataset=manifest.folder_of(dataset),
            features=features,
            shard_lengths=lengths,
            description=f'{dataset.capitalize()} prepared by panoptic_jax; see manifest.json.',
        )
    files.write_whole(epath.Path(data_dir) / EMPTY_TEXT, empty)


def bytes_of(manifest: Manifest, work: Sequence[Shard]) -> int:
    """About how many bytes some shards take, in both data sets."""
    autoencoder = manifest.autoencoder
    moments = 2 if autoencoder.has_variance else 1
    image = _FLOAT16 * moments * int(np.prod(autoencoder.latent_shape))
    if manifest.stored_map_side:
        image += 2 * _UINT8 * manifest.stored_map_side**2  # category and instance
    each = {'images': image, 'captions': _FLOAT16 * manifest.text.tokens * manifest.text.features}
    return sum(
        shards.shard_bytes(records * each[dataset], records)
        for shard in work
        for dataset, records in _records(manifest, shard).items()
    )


def check_room(data_dir: str, manifest: Manifest, work: Sequence[Shard]) -> None:
    """Says how much of the disk the shards `work` of all processes take.

    Raises:
      ValueError: so much is not free.
    """
    needed = bytes_of(manifest, work)
    if not files.is_remote(data_dir) and needed > (free := shutil.disk_usage(data_dir).free):
        raise ValueError(
            f'data.dir {str(data_dir)!r} has {free / 1e9:,.3f} GB free, and about '
            f'{needed / 1e9:,.3f} GB are needed; choose another data.dir.'
        )
    logging.info('%s takes %.1f GB more of disk.', data_dir, needed / 1e9)
