"""How far a long job is: one line every few seconds with rate and time left."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

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
                '%s: %d/%d %s, %.3g %s/s, %.0f s left',
                self._job, self._done, self._total, self._items, rate, self._items,
                (self._total - self._done) / rate,
            )  # fmt: skip

    def of(self, items: Iterable[Any]) -> Iterator[Any]:
        """Passes the items on, counting them."""
        for item in items:
            yield item
            self.add()
