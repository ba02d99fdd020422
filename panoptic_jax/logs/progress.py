"""How far a long job is: one line every few seconds with rate and time left."""

import time
from datetime import timedelta

from absl import logging

_SECONDS_BETWEEN_LINES = 5


class Progress:
    """Counts the items of a job, of which there are `total`, and logs lines about it."""

    def __init__(self, job: str, items: str, total: int) -> None:
        """`job` and `items` are words for the line, such as 'prepare' and 'images'."""
        self._job, self._items, self._total, self._done = job, items, total, 0
        self._start = self._last = time.monotonic()

    def add(self, count: int = 1) -> None:
        """Counts finished items."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES or self._done == self._total:
            self._last = now
            rate = self._done / (now - self._start)
            logging.info(
                '%s: %d/%d %s, %s %s/s, %s left',
                self._job, self._done, self._total, self._items, readable(rate), self._items,
                duration((self._total - self._done) / rate),
            )  # fmt: skip


def readable(rate: float) -> str:
    """Three digits below 100, and whole numbers from there: '0.0123', '4.53', '1234'."""
    return f'{rate:.3g}' if rate < 100 else f'{rate:.0f}'


def duration(seconds: float) -> str:
    """'42 s', or '3:07:05' from two minutes on."""
    return f'{seconds:.0f} s' if seconds < 120 else str(timedelta(seconds=round(seconds)))
