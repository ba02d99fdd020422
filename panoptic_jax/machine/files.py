"""Files that are there whole or not at all, at local paths and in buckets (`gs://`).

A bucket knows neither rename nor append, but shows an object only once all of it has arrived. Paths
are `etils.epath`'s; what those lack in buckets is here. Shards are `data/shards.py`'s, checkpoints
Orbax's, growing logs `json_lines.py`'s. Credentials are the environment's.
"""

import json
import os
import shutil
from typing import Any

import fsspec
from etils import epath


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path has a scheme, as `gs://` paths do."""
    return '://' in os.fspath(path)


def connect(*paths: epath.PathLike) -> None:
    """Makes sure that buckets can be worked with; call it before anything else touches the paths.

    Args:
      *paths: Of which local ones, empty ones and the Hub's (hf://) need nothing.

    Raises:
      ValueError: another scheme than gs://, gcsfs is missing, or a bucket cannot be reached.
    """
    remote = [path for path in map(os.fspath, paths) if is_remote(path)]
    remote = [path for path in remote if not path.startswith('hf://')]
    for path in remote:
        if not path.startswith('gs://'):
            raise ValueError(f'{path} is neither a local path nor one of a bucket, gs://NAME/PATH.')
    if remote:
        # gcsfs would not see what other processes, and TensorStore in this one, write and delete.
        fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
    for bucket in dict.fromkeys('/'.join(path.split('/')[:3]) for path in remote):
        try:
            storage, name = _storage(bucket)
            storage.info(name)
        except ImportError as error:
            raise ValueError(f'{bucket} is a bucket, which needs gcsfs; pip install gcsfs.') from (
                error
            )
        except Exception as error:  # of the transport, of HTTP or of the credentials
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f'The bucket {bucket} cannot be used ({reason}); check its name and the '
                'credentials: gcloud auth application-default login.'
            ) from error


def write_whole(path: epath.PathLike, content: bytes | str) -> None:
    """Writes a file that a kill leaves as the old one or as the new one."""
    path = epath.Path(path)
    content = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        # Not through `open`, which would complete the object when an exception passes through it.
        storage, name = _storage(path)
        storage.pipe_file(name, content)
        return
    unfinished = path.with_name(path.name + '.tmp')
    unfinished.write_bytes(content)
    unfinished.replace(path)


def write_json(path: epath.PathLike, content: Any) -> None:
    """The same for anything JSON-able, indented for the reader."""
    write_whole(path, json.dumps(content, indent=1) + '\n')


def upload(local: epath.PathLike, path: epath.PathLike) -> None:
    """Copies a local file into a bucket, as one object that appears when all of it is there."""
    storage, name = _storage(path)
    storage.put_file(os.fspath(local), name)


def download(path: epath.PathLike, local: epath.PathLike) -> None:
    """Copies an object to a local file, which a kill leaves unfinished."""
    storage, name = _storage(path)
    storage.get_file(name, os.fspath(local))


def move_up(local: epath.PathLike, folder: epath.PathLike) -> None:
    """Moves all files below a local folder to the same places below one of a bucket."""
    for parent, _, names in os.walk(local):
        for name in names:
            path = os.path.join(parent, name)
            upload(path, epath.Path(folder) / os.path.relpath(path, local))
    shutil.rmtree(local)


def listed(folder: epath.PathLike) -> dict[str, tuple[int, int]]:
    """{name: (bytes, time of the last change, s)} of a folder's files; {} where there is none.

    One request for about a thousand objects, where asking each for its size takes one apiece.
    """
    if not is_remote(folder):
        if not os.path.isdir(folder):
            return {}
        with os.scandir(folder) as entries:
            found = {entry.name: entry.stat() for entry in entries if entry.is_file()}
        return {name: (each.st_size, int(each.st_mtime)) for name, each in found.items()}
    storage, name = _storage(folder)
    try:
        entries = storage.ls(name, detail=True)
    except FileNotFoundError:
        return {}
    return {
        os.path.basename(entry['name']): (entry['size'], int(entry['mtime'].timestamp()))
        for entry in entries
        if entry['type'] == 'file'
    }


def _storage(path: epath.PathLike) -> tuple[Any, str]:
    """The file system of a bucket, made as epath makes it, and the path's name there."""
    return fsspec.core.url_to_fs(os.fspath(path), finalize_on_close=True)
