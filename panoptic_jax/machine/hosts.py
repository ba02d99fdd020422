"""Several processes as one job: joining it, sharing work out, and waiting for one another.

`machine/jobs.py` finds out which job there is. `machine/sharding.py` says how arrays lie on the
devices of all processes.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from panoptic_jax.machine import jobs
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption

_JOIN_SECONDS = 300
# How long a finished process waits for the others, of which process 0 has more to do at the end.
_LEAVE_SECONDS = 3600
_POLL_SECONDS = 1.0
_SECONDS_BETWEEN_LINES = 60


def start(join_seconds: int = _JOIN_SECONDS) -> None:
    """Joins the job that the environment names; without a job this process works alone.

    Afterwards only process 0 logs more than warnings.

    Args:
      join_seconds: How long to wait for the other processes. Where they do not come in time, this
        process ends with a sentence and exit code 1.

    Raises:
      ValueError: the environment names a job only in part, or the job cannot be joined.
    """
    job = jobs.find()
    if job is None:
        return
    logging.info('Waiting for all %d processes of %s; %s.', job.count, job.name, job.command)
    # JAX ends a process whose time to join is over by an abort, which no handler sees. So our own
    # timer goes off first.
    sentence = (
        f'error: The {job.count} processes of {job.name} did not meet within {join_seconds} s; '
        f'{job.command}, and open the port.'
    )
    limit = threading.Timer(join_seconds, _leave, (sentence,))
    limit.start()
    try:
        jax.distributed.initialize(
            **job.arguments,
            initialization_timeout=2 * join_seconds,
            shutdown_timeout_seconds=_LEAVE_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f'This process could not join the {job.count} of {job.name} ({error}); set '
            f'{", ".join(jobs.NAMES)} to name the job yourself.'
        ) from error
    finally:
        limit.cancel()
    if jax.process_index():
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().setFormatter(_Prefixed())


class _Prefixed(logging.PythonFormatter):
    """Formats log lines so that each says which process wrote it."""

    def format(self, record: Any) -> str:
        return f'[process {jax.process_index()}] {super().format(record)}'


def of_first(number: int) -> int:
    """The number that process 0 gives; every process has to call this."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def deal(row: Callable[[int], Any], count: int) -> np.ndarray:
    """Stacks row(0), row(1), ...: each process computes its share, and all get all rows.

    Every process has to call this.

    Args:
      row: Number -> array or number, all of one shape and type; values are kept to the bit.
      count: Number of rows, at least 1.

    Returns:
      (count, ...) array.
    """
    index, processes = jax.process_index(), jax.process_count()
    own = [row(i) for i in range(index, count, processes)]
    # A process without a share still has to bring rows of the right shape to the exchange.
    own = np.stack(own or [row(0)])
    if processes == 1:
        return own
    length = -(-count // processes)
    padding = np.repeat(own[:1], length - len(own), axis=0)
    padded = np.concatenate([own, padding])
    # The rows travel as bytes, since JAX would make float32 of float64.
    content = padded.reshape(length, -1).view(np.uint8)
    shares = np.asarray(multihost_utils.process_allgather(content))  # (processes, length, bytes)
    # Row i was dealt to process i % processes.
    in_order = np.ascontiguousarray(shares.swapaxes(0, 1)).reshape(length * processes, -1)
    return in_order[:count].view(own.dtype).reshape(count, *own.shape[1:])


def wait_for(
    done: Callable[[], bool], what: str, interruption: Interruption = UNINTERRUPTED
) -> None:
    """Waits until `done()`, which another process brings about.

    There is no time limit: when another process ends, JAX ends this one after about 100 s.

    Args:
      done: Called about once a second; True ends the waiting.
      what: Names what is awaited, for the log.
      interruption: Ends the waiting, too.

    Raises:
      Interrupted: the interruption was asked for.
    """
    last_line = time.monotonic()
    while not done():
        interruption.leave_if_asked()
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            logging.info('Waiting for %s.', what)


def leave_together() -> None:
    """Leaves the job, once all its processes do so; a process without a job goes on.

    For work that an interruption ends everywhere. Process 0 must not go first: JAX would abort the
    others. Where they do not come, the interruption's limit ends this process.
    """
    if not jax.distributed.is_initialized():
        return
    try:
        jax.distributed.shutdown()
    except RuntimeError as error:
        # All that was to be saved is saved, whatever happened to the others.
        logging.warning('The other processes did not leave the job with this one: %s', error)


def leave_failed_job(message: str = '', code: int = 1) -> None:
    """Ends this process at once if it is part of a job; call it after an error.

    Args:
      message: Printed to stderr before the end.
      code: The exit code.
    """
    # A regular exit would wait for processes that do not know of the error. Then it would abort
    # with a stack trace, and nobody would find the message above it.
    if jax.distributed.is_initialized():
        _leave(message, code)


def _leave(sentence: str = '', code: int = 1) -> None:
    if sentence:
        print(sentence, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
