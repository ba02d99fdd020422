"""Local copies of shards that lie in a bucket: ArrayRecord reads local files only.

A copy is there whole or not at all, and is taken again once its original has another size or time.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path

from etils import epath

from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import files

_THREADS = 4  # each of which asks for several parts of its shard at a time
_MEGABYTE = 10**6


def local_copies(paths: Sequence[epath.Path], cache: str = '') -> list[epath.Path]:
    """Copies shards that are not there yet; says how far it is.

    Args:
      paths: Of one folder, local or of a bucket. Local ones are returned as they are.
      cache: Folder for the copies; '': one in the system's folder for temporary files.

    Returns:
      Local paths in the same order.

    Raises:
      FileNotFoundError: a shard is missing.
      ValueError: the disk is too small, or a shard changed while it was copied.
    """
    if not paths or not files.is_remote(paths[0]):
        return [*paths]
    originals = files.listed(paths[0].parent)
    missing = [path for path in paths if path.name not in originals]
    if missing:
        raise FileNotFoundError(missing_shard(missing[0]))
    folder = _folder(paths[0].parent, cache)
    folder.mkdir(parents=True, exist_ok=True)
    # Of several processes of a machine one copies, and the others find the copies.
    with open(folder.with_name(f'{folder.name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copies = files.listed(folder)
        wanted = {path: originals[path.name] for path in paths}
        wanted = {path: own for path, own in wanted.items() if copies.get(path.name) != own}
        if wanted:
            _copy(wanted, folder)
    return [epath.Path(folder / path.name) for path in paths]


def _copy(wanted: Mapping[epath.Path, tuple[int, int]], folder: Path) -> None:
    """Copies originals, whose sizes and times are given."""
    _check_disk(folder, sum(size for size, _ in wanted.values()))

    def copy(path):
        size, changed = wanted[path]
        unfinished = folder / f'{path.name}.tmp'
        files.download(path, unfinished)
        if unfinished.stat().st_size != size:
            unfinished.unlink()
            raise ValueError(f'Shard {path} changed while it was copied; start again.')
        os.utime(unfinished, (changed, changed))
        unfinished.replace(folder / path.name)
        return size

    total = sum(-(-size // _MEGABYTE) for size, _ in wanted.values())
    progress = Progress(f'copy shards to {folder}', 'MB', total)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        for size in pool.map(copy, wanted):
            progress.add(-(-size // _MEGABYTE))


def missing_shard(path: epath.Path) -> str:
    """The sentence for a shard that is not there."""
    return (
        f'Shard {path} is missing; restore it, or delete the folder and run --mode=prepare again.'
    )


def _folder(original: epath.Path, cache: str) -> Path:
    """Named after the bucket's folder, so that data sets do not meet."""
    root = Path(cache or Path(tempfile.gettempdir()) / f'panoptic_jax_{os.getuid()}')
    return root / os.fspath(original).replace('://', '/')


def _check_disk(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        raise ValueError(
            f'{folder} has {free / 1e9:.1f} GB free, and copies of shards take {needed / 1e9:.1f} '
            'GB; name a folder with more space with --config.data.cache.'
        )
