"""TensorBoard's event files, on disks that may be full and in buckets, which know no append.

tensorboardX can write to both by itself. But an error of the disk would end its thread and hang the
run, and in a bucket every flush would write all of a run's events, pictures included.
`logs/dashboards.py` says what the events are.
"""

import os

from absl import logging
from etils import epath

from panoptic_jax.machine import files

# A flush writes at most this again, and one event more. Larger parts make slower flushes, and
# smaller ones make more files for TensorBoard to list.
PART_BYTES = 8 * 2**20
_LOCAL = 'local:'  # stands before a local path that goes to tensorboardX


class BucketFiles:
    """The parts of one event file, `NAME`, `NAME.00001`, ..., as a file that tensorboardX writes.

    TensorBoard reads the files of a folder in the order of their names, as one run. A bucket that
    is out of reach for a while costs no event: what could not be written waits for the next flush.
    """

    def __init__(self, path: str, *, part_bytes: int = PART_BYTES):
        """Starts the file.

        Args:
          path: Path of the first part.
          part_bytes: A part that has more bytes after a flush is complete.
        """
        self._path = path
        self._part_bytes = part_bytes
        self._number = 0
        self._content = bytearray()
        self._written = 0

    def write(self, content: bytes) -> None:
        self._content += content

    def flush(self) -> None:
        if len(self._content) == self._written:
            return
        path = f'{self._path}.{self._number:05d}' if self._number else self._path
        # Raised, an error of any kind would end tensorboardX's thread and hang the run.
        try:
            files.write_whole(path, bytes(self._content))
        except Exception as error:
            logging.warning('%s is written later, since the bucket says: %s', path, error)
            return
        self._written = len(self._content)
        if self._written > self._part_bytes:
            self._number += 1
            self._content = bytearray()
            self._written = 0

    def close(self) -> None:
        self.flush()


class BucketFolders:
    """What tensorboardX asks of a scheme of paths, for its `register_writer_factory`."""

    def __init__(self, *, part_bytes: int = PART_BYTES):
        self._part_bytes = part_bytes

    def open(self, path: str) -> BucketFiles:
        return BucketFiles(path, part_bytes=self._part_bytes)

    def directory_check(self, path: str) -> None:
        """A bucket's folders need not be made."""


class LocalFile:
    """An event file on a disk. What a full disk does not take waits for the next flush."""

    def __init__(self, path: str):
        """Makes the file at `path`."""
        self._path = path
        # Unbuffered, so that it is known how much of the content has been written.
        self._file = open(path, 'wb', buffering=0)  # noqa: SIM115 - closed by tensorboardX
        self._waiting = bytearray()

    def write(self, content: bytes) -> None:
        self._waiting += content

    def flush(self) -> None:
        # Raised, an error would end tensorboardX's thread and hang the run.
        try:
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]
        except OSError as error:
            logging.warning('%s is written later: %s.', self._path, error.strerror)

    def close(self) -> None:
        self.flush()
        self._file.close()


class LocalFolders:
    """The same for local paths, which `place_of` gives a scheme of their own."""

    def open(self, path: str) -> LocalFile:
        return LocalFile(path.removeprefix(_LOCAL))

    def directory_check(self, path: str) -> None:
        os.makedirs(path.removeprefix(_LOCAL), exist_ok=True)


def place_of(
    folder: epath.PathLike, *, part_bytes: int
) -> tuple[str, str, BucketFolders | LocalFolders]:
    """(scheme, folder with that scheme, what opens files there) for tensorboardX.

    Args:
      folder: Where event files lie, local or remote.
      part_bytes: See `BucketFiles`.
    """
    path = os.fspath(folder)
    if files.is_remote(path):
        return path.partition(':')[0], path, BucketFolders(part_bytes=part_bytes)
    return _LOCAL.rstrip(':'), _LOCAL + os.path.abspath(path), LocalFolders()
