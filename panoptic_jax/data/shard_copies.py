"""Local copies of shards that lie in a bucket: ArrayRecord reads local files only.

A copy exists whole or not at all. It is made anew when its original has another size or another
time of change. `data/records.py` reads the copies, and `machine/files.py` downloads.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

from etils import epath

from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import files

_THREADS = 4  # each asks for several parts of its shard at a time
_MEGABYTE = 10**6


class _Version(NamedTuple):
    """What tells whether a copy is one of its original: size in bytes and time of change in s."""

    size: int
    changed: int


def local_copies(paths: Sequence[epath.Path], cache: str = '') -> list[epath.Path]:
    """Copies the shards that have no current copy yet, and logs the progress.

    Args:
      paths: Shards of one folder, local or in a bucket. Local shards need no copy.
      cache: Folder for the copies; '' takes a folder in the system's folder for temporary files.

    Returns:
      Local paths of all shards, in the same order.

    Raises:
      FileNotFoundError: a shard is missing.
      ValueError: the disk is too small, the folder cannot be written, or a shard changed while it
        was copied.
    """
    # A local shard is read where it lies.
    if not paths or not files.is_remote(paths[0]):
        return [*paths]
    originals = _versions(paths[0].parent)
    missing = [path for path in paths if path.name not in originals]
    if missing:
        raise FileNotFoundError(missing_shard(missing[0]))
    folder = _folder(paths[0].parent, cache)
    lock_path = folder.with_name(f'{folder.name}.lock')
    with files.explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(lock_path, 'w')  # noqa: SIM115 - closed below
    # Several processes of one machine share the copies: one process copies while the others wait.
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files.remove_unfinished(folder)
        copies = _versions(folder)
        outdated = {}
        for path in paths:
            version = originals[path.name]
            if copies.get(path.name) != version:
                outdated[path] = version
        if outdated:
            _copy_all(outdated, folder)
    return [epath.Path(folder / path.name) for path in paths]


def _versions(folder: epath.PathLike) -> dict[str, _Version]:
    """{name: version} of a folder's files."""
    entries = files.sizes_and_times(folder).items()
    return {name: _Version(size=size, changed=changed) for name, (size, changed) in entries}


def _copy_all(originals: Mapping[epath.Path, _Version], folder: Path) -> None:
    """Copies the originals, {path: version}, into a folder, and logs the progress."""
    _check_disk(folder, sum(version.size for version in originals.values()))

    def copy(path: epath.Path) -> int:
        _copy(path, originals[path], folder)
        return _megabytes(originals[path])

    total = sum(_megabytes(version) for version in originals.values())
    progress = Progress(f'copy shards to {folder}', 'MB', total)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        for megabytes in pool.map(copy, originals):
            progress.add(megabytes)


def _copy(path: epath.Path, version: _Version, folder: Path) -> None:
    """Copies one original, so that its copy gets the final name only when it is whole."""
    copy = folder / path.name
    with files.explaining(copy, version.size), files.appearing(copy) as unfinished:
        files.download(path, unfinished)
        if os.path.getsize(unfinished) != version.size:
            raise ValueError(f'Shard {path} changed while it was copied; start again.')
        # The original's time is what the next run compares.
        os.utime(unfinished, (version.changed, version.changed))


def _megabytes(version: _Version) -> int:
    """A shard's size, rounded up, so that a small shard counts too."""
    return -(-version.size // _MEGABYTE)


def missing_shard(path: epath.Path) -> str:
    """The sentence for a shard that is missing."""
    return (
        f'Shard {path} is missing; restore it, or run --mode=prepare again, which makes what lacks.'
    )


def _folder(original: epath.Path, cache: str) -> Path:
    """The folder for the copies of one folder of a bucket, named so that data sets stay apart."""
    # With the user's number in the name, users of one machine do not get into each other's way.
    shared = Path(tempfile.gettempdir()) / f'panoptic_jax_{os.getuid()}'
    root = Path(cache) if cache else shared
    return root / os.fspath(original).replace('://', '/')


def _check_disk(folder: Path, needed: int) -> None:
    # Checked before the first download: a full disk would end a run after minutes of waiting.
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f'{folder} has {free / 1e9:.1f} GB free, and copies of shards take {needed / 1e9:.1f} '
            'GB; name a folder with more space with --config.data.cache.'
        )
