"""What disks and folders refuse, in one sentence each: full, read-only, a file in the way.

`machine/files.py` writes the files. Errors of buckets come from other libraries and reach this
module as OSErrors without a number.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator

# What the writers of C++ libraries say in words alone.
_TOLD_IN_WORDS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOENT,
)  # fmt: skip
_GO_ON = 'and run the same command again, which goes on'


@contextlib.contextmanager
def explaining(path: os.PathLike | str, size: int | None = None) -> Iterator[None]:
    """Turns the OSErrors of what writes to a path into sentences, see `explained`.

    Args:
      path: A file or folder, local or in a bucket.
      size: Bytes to write, if they are known.
    """
    try:
        yield
    except OSError as error:
        raise explained(error, path, size) from error
    except RuntimeError as error:
        # ArrayRecord's writer raises these, with the system's words in the middle.
        codes = [code for code in _TOLD_IN_WORDS if os.strerror(code) in str(error)]
        if not codes:
            raise
        told = OSError(codes[0], os.strerror(codes[0]), os.fspath(path))
        raise explained(told, path, size) from error


def explained(error: OSError, path: os.PathLike | str = '', size: int | None = None) -> ValueError:
    """The error that says in one sentence what a disk refused, and what to do.

    Args:
      error: What the system said.
      path: The file or folder that it was about; '' takes the error's own.
      size: Bytes to write, if they are known.

    Returns:
      A ValueError, to be raised.
    """
    path = os.fspath(path) or os.fsdecode(error.filename or '') or 'A file'
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ValueError(_full(path, size, quota=error.errno == errno.EDQUOT))
    if error.errno == errno.EFBIG:
        return ValueError(
            f'{path} is larger than its disk or the limit of this shell (ulimit -f) allows; '
            f'raise the limit or choose another folder, {_GO_ON}.'
        )
    if error.errno == errno.EROFS:
        return ValueError(f'{path} cannot be written: its disk is read-only; {_elsewhere()}.')
    if error.errno in (errno.EACCES, errno.EPERM):
        return ValueError(
            f'{path} cannot be read or written: this user has no permission; change that '
            f'(chmod, chown), or {_elsewhere()}.'
        )
    in_the_way = _in_the_way(path)
    if in_the_way and error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
        return ValueError(f'{path} cannot be used: {in_the_way}; {_elsewhere()}.')
    # The words of a bucket's library may take many lines.
    reason = error.strerror or first_line(error)
    return ValueError(f'{path} cannot be read or written: {reason}.')


def first_line(error: Exception) -> str:
    """The first line of an error's words, or its kind where it has none: part of a sentence."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _elsewhere() -> str:
    return 'choose another folder'


def _full(path: str, size: int | None, quota: bool) -> str:
    """The sentence for a full disk, with the folder and the bytes as far as they are known."""
    name, folder = os.path.basename(path), _nearest(path)
    free = shutil.disk_usage(folder).free
    room = 'its quota is used up' if quota else f'{free:,} bytes are free'
    needed = (
        f'{name} takes at least {size:,} bytes' if size is not None else f'{name} was not written'
    )
    return f'The disk of the folder {folder} is full: {needed}, and {room}; make room, {_GO_ON}.'


def _nearest(path: str) -> str:
    """The folder of a path, or the nearest one above it that exists."""
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _in_the_way(path: str) -> str:
    """What at a path or above it is no folder though it should be; '' if nothing is."""
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if os.path.islink(place) and not os.path.exists(place):
        return f'{place} is a link to {os.readlink(place)}, which does not exist'
    return '' if os.path.isdir(place) else f'{place} is a file where a folder should be'
