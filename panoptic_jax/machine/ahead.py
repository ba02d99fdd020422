"""Reading ahead: threads read what comes next while this one works, and the order stays.

A file of a bucket takes some fiftieth of a second, whatever its size, so that one after another
30,000 of them take half an hour.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

THREADS = 16  # files that are read at once
_HELD = 2 * THREADS  # results that are read or wait to be taken


def in_order(read: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yields `read(item)` for each item, in their order.

    An error of `read` comes where its result would have come. What has not begun to be read when
    the caller stops is left out.

    Args:
      read: Is called by several threads at once.
      items: What to read; at most `_HELD` of them at a time are being read or wait.
    """
    waiting = collections.deque()
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for item in items:
                waiting.append(threads.submit(read, item))
                if len(waiting) == _HELD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
