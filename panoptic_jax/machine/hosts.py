"""Several processes as one job: joining it, sharing work out, and waiting for one another.

Which job there is, is found out in `jobs.py`; how arrays lie on their devices is `sharding.py`'s.
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

_JOIN_SECONDS = 300
_LEAVE_SECONDS = 3600  # that a finished process waits for the others, of which the first does more
_POLL_SECONDS = 1.0
_SECONDS_BETWEEN_LINES = 60


def start() -> None:
    """Joins the job that the environment names; without one this process is all there is.

    Afterwards process 0 alone logs more than warnings.

    Raises:
      ValueError: A job is named by halves, or cannot be joined. Where the other processes do not
        come in time, this one ends with a sentence.
    """
    job = jobs.find()
    if job is None:
        return
    logging.info('Waiting for all %d processes of %s; %s.', job.count, job.name, job.command)
    # JAX ends a process whose time to join is over by an abort, which no handler sees.
    sentence = (
        f'error: The {job.count} processes of {job.name} did not meet within {_JOIN_SECONDS} s; '
        f'{job.command}, and open the port.'
    )
    limit = threading.Timer(_JOIN_SECONDS, _leave, (sentence,))
    limit.start()
    try:
        jax.distributed.initialize(
            **job.arguments,
            initialization_timeout=2 * _JOIN_SECONDS,
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
    """Lines that say which process they are of."""

    def format(self, record: Any) -> str:
        return f'[process {jax.process_index()}] {super().format(record)}'


def of_first(number: int) -> int:
    """Process 0's number; every process has to ask."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def deal(row: Callable[[int], Any], count: int) -> np.ndarray:
    """[row(0), row(1), ...], each process computing its share, all of them getting the whole.

    Args:
      row: Number -> array or number, all of one shape and type; kept to the bit.
      count: Rows, at least 1; every process has to ask.
    """
    index, processes = jax.process_index(), jax.process_count()
    own = np.stack([row(i) for i in range(index, count, processes)] or [row(0)])
    if processes == 1:
        return own
    # As bytes: JAX would make float64 shorter.
    length = -(-count // processes)
    padded = np.concatenate([own, np.repeat(own[:1], length - len(own), axis=0)])
    shares = multihost_utils.process_allgather(padded.reshape(length, -1).view(np.uint8))
    rows = np.ascontiguousarray(np.asarray(shares).swapaxes(0, 1)).reshape(length * processes, -1)
    return rows[:count].view(own.dtype).reshape(count, *own.shape[1:])


def wait_for(done: Callable[[], bool], what: str) -> None:
    """Polls until `done()`, which another process brings about; `what` is for the log.

    Without a time limit: when another process ends, JAX ends this one, after about 100 s.
    """
    said = time.monotonic()
    while not done():
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            logging.info('Waiting for %s.', what)


def leave_failed_job(message: str = '') -> None:
    """Ends this process with exit code 1 if it is part of a job; call it after an error.

    A regular exit would wait for processes that do not know, and then abort with a stack trace
    below which nobody finds the message.
    """
    if jax.distributed.is_initialized():
        _leave(message)


def _leave(sentence: str = '') -> None:
    if sentence:
        print(sentence, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
