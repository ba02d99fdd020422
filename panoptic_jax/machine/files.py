"""Files that are there whole or not at all, at local paths and in buckets (`gs://`).

A bucket knows neither rename nor append, but it shows an object only once all of it has arrived.
Paths are those of `etils.epath`; this module adds what they lack in buckets. `data/shards.py`
writes shards, `weights/checkpoint.py` checkpoints, and `logs/json_lines.py` logs that grow.
`explained`, from `machine/disk.py`, says what disks refuse. Credentials come from the environment.
"""

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

# Handed on: who works with files needs this module alone.
from panoptic_jax.machine.disk import explained as explained
from panoptic_jax.machine.disk import explaining, first_line

_OF_PATTERNS = frozenset('*?[]')
UNFINISHED = '.tmp'  # ends the names of files that are being written


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path has a scheme, as `gs://` paths do."""
    return '://' in os.fspath(path)


def connect(*paths: epath.PathLike) -> None:
    """Makes sure that buckets can be worked with; call it before anything else touches the paths.

    Args:
      *paths: Any paths. Local paths, empty ones and those of the Hub (hf://) need nothing.

    Raises:
      ValueError: a path has another scheme than gs://, gcsfs is missing, a bucket cannot be
        reached, or its tools would take the path for a pattern.
    """
    remote = [path for path in map(os.fspath, paths) if is_remote(path)]
    remote = [path for path in remote if not path.startswith('hf://')]
    for path in remote:
        if not path.startswith('gs://'):
            raise ValueError(f'{path} is neither a local path nor one of a bucket, gs://NAME/PATH.')
        # gcsfs and Google's tools take such a path for a pattern.
        if set(path) & _OF_PATTERNS:
            raise ValueError(f'{path} has one of *?[] in its name; choose a folder without.')
    if remote:
        # With a cache of listings gcsfs would not see what other processes write and delete, nor
        # what TensorStore does in this process.
        fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
    buckets = ['/'.join(path.split('/')[:3]) for path in remote]
    for bucket in dict.fromkeys(buckets):
        _require_bucket(bucket)


def _require_bucket(bucket: str) -> None:
    """Raises ValueError if a bucket, such as 'gs://name', cannot be reached."""
    try:
        storage, name = storage_of(bucket)
        storage.info(name)
    except ImportError as error:
        raise ValueError(f'{bucket} is a bucket, which needs gcsfs; pip install gcsfs.') from error
    # The transport, HTTP and the credentials raise errors of many kinds.
    except Exception as error:
        raise ValueError(
            f'The bucket {bucket} cannot be used ({first_line(error)}); check its name and the '
            'credentials: gcloud auth application-default login.'
        ) from error


def read_whole(path: epath.PathLike, *, missing: str, folder: str, unreadable: str) -> bytes:
    """The content of a file that people name, or one sentence why there is none.

    Args:
      path: The file.
      missing: What to do about a missing file, as the end of the sentence.
      folder: What a folder is in its place, and what to do.
      unreadable: What to do about a file that cannot be read.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder or cannot be read.
    """
    path = epath.Path(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is missing; {missing}.') from None
    except IsADirectoryError:
        raise ValueError(f'{path} is {folder}.') from None
    # `ValueError` is what a NUL character in a name raises.
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} cannot be read ({error}); {unreadable}.') from error


def write_whole(path: epath.PathLike, content: bytes | str) -> None:
    """Writes a file; a kill at any time leaves either the old file or the new one.

    Raises:
      ValueError: the disk is full or refuses the file, see `explained`; nothing is left.
    """
    content = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        # Not through `open`, which would complete the object when an exception passes through it.
        storage, name = storage_of(path)
        with explaining(path):
            storage.pipe_file(name, content)
        return
    with (
        explaining(path, len(content)),
        appearing(path) as unfinished,
        open(unfinished, 'wb') as file,
    ):
        file.write(content)


@contextlib.contextmanager
def appearing(path: epath.PathLike) -> Iterator[str]:
    """Gives the name of a file to write, which becomes `path` at the end, unless something fails.

    Nobody else has the name, so that several processes may write the same file. It ends in
    `UNFINISHED`. A kill leaves the unfinished file; `remove_unfinished` clears up after it.
    Whoever writes explains its own errors, see `explaining`.

    Args:
      path: A local path. Its folder is made if it is missing.

    Raises:
      ValueError: the folder cannot be made or used.
    """
    path = os.fspath(path)
    unfinished = f'{path}.{secrets.token_hex(4)}{UNFINISHED}'
    with explaining(path):
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    try:
        yield unfinished
        with explaining(path):
            # A rename within one folder either happens or does not.
            os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise


@contextlib.contextmanager
def assembling(path: epath.PathLike) -> Iterator[str]:
    """The same as `appearing` for a path in a bucket, too: there it is uploaded at the end.

    Raises:
      ValueError: the disk is full or refuses the file, see `explained`; nothing is left.
    """
    if not is_remote(path):
        with explaining(path), appearing(path) as unfinished:
            yield unfinished
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, 'content')
        with explaining(local):
            yield local
        upload(local, path)


def remove_unfinished(folder: epath.PathLike) -> None:
    """Removes what killed processes left unfinished in a local folder, but not below it.

    Only who is the only writer there may call it, see `machine/writer_lock.py`.
    """
    if is_remote(folder) or not os.path.isdir(folder):
        return
    with explaining(folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(UNFINISHED) and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)


def write_new(path: epath.PathLike, content: str) -> bool:
    """Writes a file of a bucket unless there is one; returns whether it did."""
    storage, name = storage_of(path)
    with explaining(path):
        try:
            storage.pipe_file(name, content.encode(), mode='create')
        except FileExistsError:
            return False
    return True


def write_json(path: epath.PathLike, content: Any) -> None:
    """Writes JSON-able content as a whole file, indented for the reader."""
    write_whole(path, json.dumps(content, indent=1) + '\n')


def upload(local: epath.PathLike, path: epath.PathLike) -> None:
    """Copies a local file into a bucket, as one object that appears when all of it is there."""
    storage, name = storage_of(path)
    with explaining(path):
        storage.put_file(os.fspath(local), name)


def download(path: epath.PathLike, local: epath.PathLike) -> None:
    """Copies an object to a local file; a kill leaves that file unfinished."""
    storage, name = storage_of(path)
    storage.get_file(name, os.fspath(local))


def move_up(local: epath.PathLike, folder: epath.PathLike) -> None:
    """Moves all files below a local folder to the same places below a folder of a bucket."""
    for parent, _, names in os.walk(local):
        for name in names:
            path = os.path.join(parent, name)
            target = epath.Path(folder) / os.path.relpath(path, local)
            upload(path, target)
    shutil.rmtree(local)


def sizes_and_times(folder: epath.PathLike) -> dict[str, tuple[int, int]]:
    """{name: (bytes, time of the last change, s)} of a folder's files; {} where there is none."""
    if not is_remote(folder):
        if not os.path.isdir(folder):
            return {}
        with os.scandir(folder) as entries:
            status = {entry.name: entry.stat() for entry in entries if entry.is_file()}
        return {name: (each.st_size, int(each.st_mtime)) for name, each in status.items()}
    storage, name = storage_of(folder)
    try:
        # One request tells about a thousand objects. To ask each object takes a request apiece.
        entries = storage.ls(name, detail=True)
    except FileNotFoundError:
        return {}
    files = [entry for entry in entries if entry['type'] == 'file']
    return {
        os.path.basename(entry['name']): (entry['size'], int(entry['mtime'].timestamp()))
        for entry in files
    }


def storage_of(path: epath.PathLike) -> tuple[Any, str]:
    """The file system of a bucket, and the path's name there."""
    # epath gives this option, too. With the same options fsspec hands out the same file system.
    return fsspec.core.url_to_fs(os.fspath(path), finalize_on_close=True)
