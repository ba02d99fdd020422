"""Several processes as one job: joining them, and waiting for what another one does.

How arrays lie on their devices is `sharding.py`'s.
"""

import os
import sys
import threading
import time
from collections.abc import Callable

import jax
from absl import logging

_JOIN_SECONDS = 300
_POLL_SECONDS = 1.0
_SECONDS_BETWEEN_LINES = 60


def start() -> None:
    """Joins the job that the environment names; without one this process is all there is.

    `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.

    Raises:
      ValueError: some of them are set and others not. Where the others do not come in time, the
        process ends with a sentence.
    """
    names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
    found = [os.environ.get(name) for name in names]
    if not any(found):
        return
    if not all(found):
        missing = ', '.join(name for name, value in zip(names, found, strict=True) if not value)
        raise ValueError(f'{missing} is not set; set all of {", ".join(names)}, or none.')
    address, count, index = found[0], int(found[1]), int(found[2])
    logging.info(
        'Process %d waits for all %d of the job at %s; start the command on every host.',
        index, count, address,
    )  # fmt: skip
    # JAX ends a process whose time to join is over by an abort, which no handler sees.
    sentence = (
        f'error: The {count} processes of the job did not meet at {address} within {_JOIN_SECONDS} '
        's; start the same command on every host, and open the port.'
    )
    limit = threading.Timer(_JOIN_SECONDS, _leave, (sentence,))
    limit.start()
    try:
        jax.distributed.initialize(address, count, index, initialization_timeout=2 * _JOIN_SECONDS)
    finally:
        limit.cancel()


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


def leave_failed_job() -> None:
    """Ends this process with exit code 1 if it is part of a job; call it after an error.

    A regular exit would wait 300 s for processes that do not know, and then abort with a stack
    trace below which nobody finds the message.
    """
    if jax.distributed.is_initialized():
        _leave()


def _leave(sentence: str = '') -> None:
    if sentence:
        print(sentence, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
