"""How far a long job is: a bar on a terminal, elsewhere a line every few seconds.

Both tell rate and time left. Lines that are written while a bar is shown go above it, if they go
through absl's logging (after `share_terminal`) or `say`.
"""

import os
import sys
import time
from datetime import timedelta
from typing import TextIO

import tqdm
from absl import logging
from tqdm.contrib import DummyTqdmFile

_SECONDS_BETWEEN_LINES = 5


class Progress:
    """Counts the items of a job, of which there are `total`, and shows how far it is.

    A bar vanishes with the last item, whose line stands in every log.
    """

    def __init__(self, job: str, items: str, total: int) -> None:
        """Starts the clock.

        Args:
          job: The job in a word, such as 'prepare'.
          items: What is counted, such as 'images'.
          total: Their number at the end.
        """
        self._job = job
        self._items = items
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._last_line = self._start
        self._bar = bar(job, items, total)

    def add(self, count: int = 1) -> None:
        """Counts finished items."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        # The last item always gets its line, so that the log ends with the job's mean rate.
        is_last = self._done == self._total
        is_due = self._bar.disable and now - self._last_line >= _SECONDS_BETWEEN_LINES
        if is_last:
            self._bar.close()
        if is_last or is_due:
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


def bar(job: str, items: str, total: int, done: int = 0) -> tqdm.tqdm:
    """A bar on a terminal, with rate and time left; elsewhere one that shows nothing.

    Close it at the end: it vanishes, and what came before stays.

    Args:
      job: The job in a word, such as 'train'.
      items: What is counted, such as 'steps'.
      total: Their number at the end.
      done: Those that were finished before.
    """
    return tqdm.tqdm(
        desc=job,
        unit=f' {items}',
        total=total,
        initial=done,
        # Items a second also where one takes longer, as in the lines.
        bar_format='{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, '
        '{rate_noinv_fmt}]',
        file=sys.stderr,
        # In a job of several processes only the first one logs, and shows bars.
        disable=not (_on_terminal() and logging.level_info()),
        leave=False,
        dynamic_ncols=True,
        # Also a slow job shows each of its items.
        miniters=1,
    )


def share_terminal() -> None:
    """Lets log lines go above bars; without a terminal nothing changes."""
    handler = logging.get_absl_handler().python_handler
    if handler.stream is sys.stderr and _on_terminal():
        handler.setStream(DummyTqdmFile(sys.stderr))


def _on_terminal() -> bool:
    """Whether stderr is a terminal on which a bar can be drawn."""
    if not sys.stderr.isatty() or os.environ.get('TERM') == 'dumb':
        return False
    # Some that are no real ones say that they have no columns, and tqdm would show nothing.
    return os.get_terminal_size(sys.stderr.fileno()).columns > 0


def say(line: str, file: TextIO | None = None) -> None:
    """Prints a line at once, above bars where there are any; to stderr by default."""
    file = file or sys.stderr
    tqdm.tqdm.write(line, file=file)
    file.flush()


def readable(rate: float) -> str:
    """Three digits below 100, and whole numbers from there: '0.0123', '4.53', '1234'."""
    return f'{rate:.3g}' if rate < 100 else f'{rate:.0f}'


def duration(seconds: float) -> str:
    """'42 s', or '3:07:05' from two minutes on."""
    return f'{seconds:.0f} s' if seconds < 120 else str(timedelta(seconds=round(seconds)))
