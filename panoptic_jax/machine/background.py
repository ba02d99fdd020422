"""Work behind the back of a loop: files are written while the devices compute.

Calls run one after another on a thread. What goes wrong there is raised where the loop goes on.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any


class Background:
    """Runs calls in order on one thread; a few of them wait at most, and the loop waits with them.

    `with background(...)` opens it.
    """

    def __init__(self, pool: futures.Executor, limit: int) -> None:
        """Starts with nothing to do.

        Args:
          pool: It has one thread.
          limit: Calls that are not finished; one more waits for the first of them.
        """
        self._pool = pool
        self._limit = limit
        self._calls: deque[futures.Future] = deque()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Hands a call over.

        Raises:
          Exception: what an earlier call raised; this one is not made.
        """
        while len(self._calls) >= self._limit:
            self._calls.popleft().result()
        # One that has failed already should not let the loop go on.
        while self._calls and self._calls[0].done():
            self._calls.popleft().result()
        self._calls.append(self._pool.submit(function, *arguments))

    def wait(self) -> None:
        """Waits for all calls; raises what the first of them raised."""
        while self._calls:
            self._calls.popleft().result()

    def drop(self) -> None:
        """Takes back the calls that have not begun."""
        for call in self._calls:
            call.cancel()


@contextlib.contextmanager
def background(limit: int) -> Iterator[Background]:
    """Opens a thread; at the end all its calls are done.

    Where the loop ends by an error, calls that were handed over are still made, unless it was one
    of theirs: the work in them is done already.
    """
    with futures.ThreadPoolExecutor(max_workers=1) as pool:
        own = Background(pool, limit)
        try:
            yield own
            own.wait()
        except BaseException:
            with contextlib.suppress(Exception):
                own.wait()
            own.drop()
            raise
