"""TensorBoard's event files in a bucket, which knows no append: written again, a part at a time.

tensorboardX writes such files, too, but all of a run's events, pictures included, at every flush.
What the events are is `dashboards.py`'s affair.
"""

from absl import logging

from panoptic_jax.machine import files

_PART_BYTES = 8 * 2**20  # that a flush writes again at the most, and one event more


class BucketFiles:
    """The parts of one event file, `NAME`, `NAME.00001`, ..., as a file that tensorboardX writes.

    TensorBoard reads the files of a folder in the order of their names, as one run. A bucket that
    is out of reach for a while costs no event: what could not be written waits for the next flush.
    """

    def __init__(self, path: str):
        """`path`: of the first part."""
        self._path = path
        self._number = 0
        self._content = bytearray()
        self._written = 0

    def write(self, content: bytes) -> None:
        self._content += content

    def flush(self) -> None:
        if len(self._content) == self._written:
            return
        path = f'{self._path}.{self._number:05d}' if self._number else self._path
        try:
            files.write_whole(path, bytes(self._content))
        except (
            Exception
        ) as error:  # of many kinds; raised, it would end tensorboardX's thread and hang the run
            logging.warning('%s is written later, since the bucket says: %s', path, error)
            return
        self._written = len(self._content)
        if self._written > _PART_BYTES:
            self._number += 1
            self._content, self._written = bytearray(), 0

    def close(self) -> None:
        self.flush()


class BucketFolders:
    """What tensorboardX asks of a scheme of paths, for its `register_writer_factory`."""

    def open(self, path: str) -> BucketFiles:
        return BucketFiles(path)

    def directory_check(self, path: str) -> None:
        """A bucket's folders need not be made."""
