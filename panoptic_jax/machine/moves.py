"""Moving a file from one folder to another, on a disk or in a bucket.

`machine/files.py` writes files.
"""

import os

from etils import epath

from panoptic_jax.machine import files


def move(source: epath.PathLike, target: epath.PathLike) -> None:
    """Moves a file within a disk or a bucket; its folder is made. A kill may leave both there.

    Raises:
      ValueError: the disk is full or refuses it, see `files.explained`.
    """
    if not files.is_remote(source):
        with files.explaining(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(source, target)
        return
    storage, name = files.storage_of(source)
    _, other = files.storage_of(target)
    storage.copy(name, other)
    storage.rm_file(name)
