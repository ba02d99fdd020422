"""How far a long job is: one line every few seconds with rate and time left."""

import time
from datetime import timedelta

from absl import logging

_SECONDS_BETWEEN_LINES = 5


class Progress:
    """Counts the items of a job, of which there are `total`, and logs lines about it."""

    def __init__(self, job: str, items: str, total: int) -> None:
        """`job` and `items` are words for the line, such as 'prepare' and 'images'."""
        self._job = job
        self._items = items
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._last_line = self._start

    def add(self, count: int = 1) -> None:
        """Counts finished items."""
        self._done += count
        now = time.monotonic()
        # The last item always gets its line, so that the log ends with the job's mean rate.
        is_last = self._done == self._total
        if is_last or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._log(self._done / (now - self._start))

    def _log(self, rate: float) -> None:
        # The mean rate since the start, which varies less than that of the last seconds.
        seconds_left = (self._total - self._done) / rate
        logging.info(
            '%s: %d/%d %s, %s %s/s, %s left',
            self._job, self._done, self._total, self._items, readable(rate), self._items,
            duration(seconds_left),
        )  # fmt: skip


def readable(rate: float) -> str:
    """Three digits below 100, and whole numbers from there: '0.0123', '4.53', '1234'."""
    return f'{rate:.3g}' if rate < 100 else f'{rate:.0f}'


def duration(seconds: float) -> str:
    """'42 s', or '3:07:05' from two minutes on."""
    return f'{seconds:.0f} s' if seconds < 120 else str(timedelta(seconds=round(seconds)))
