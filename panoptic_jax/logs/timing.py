"""How long calls take in their steady state, for `benchmark.py`.

`logs/clock.py` times a training while it goes on.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

_AT_MOST = 120.0  # seconds, after which fewer repetitions will do
_LOADER_WARM_UP = 8  # batches; more than are read ahead


class Effort(NamedTuple):
    """How long a measurement takes: at least so many repetitions and at least so many seconds."""

    repetitions: int = 5
    seconds: float = 5.0


class Timing(NamedTuple):
    """A compiled program that ran again and again.

    Attributes:
      seconds: Median of a call.
      repetitions: Calls, or queues of calls, that the median is taken over.
      compile_seconds: From trace to program; little where a compilation was kept beside the run.
    """

    seconds: float
    repetitions: int
    compile_seconds: float


def time_calls(call: Callable[[], Any], effort: Effort, compile_seconds: float) -> Timing:
    """Times a call; short calls are put in queues of about a second each.

    Args:
      call: Starts the program and returns its arrays.
      effort: How long to measure.
      compile_seconds: What the program's compilation took, for the result.
    """
    jax.block_until_ready(call())
    first = time.perf_counter()
    jax.block_until_ready(call())
    # An accelerator runs one call while the host dispatches the next: a queue hides the dispatch.
    queue = max(1, round(1 / (time.perf_counter() - first)))
    seconds, started = [], time.perf_counter()
    while True:
        before = time.perf_counter()
        for _ in range(queue):
            result = call()
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - before) / queue)
        passed = time.perf_counter() - started
        enough = passed > effort.seconds and len(seconds) >= effort.repetitions
        if enough or passed > _AT_MOST:
            return Timing(statistics.median(seconds), len(seconds), compile_seconds)


def examples_per_second(batches: Iterator, batch_size: int, *, seconds: float) -> float:
    """Examples that the loaders of all processes read in a second, with nobody else at work.

    Args:
      batches: This process's share of the batches.
      batch_size: Examples of a batch over all processes.
      seconds: How long to measure.
    """
    for _ in range(_LOADER_WARM_UP):
        next(batches)
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds or count < _LOADER_WARM_UP:
        next(batches)
        count += 1
    return count * batch_size / (time.perf_counter() - started)
