"""Several processes as one job: joining them, and waiting for what another one does.

How arrays lie on their devices is `sharding.py`'s.
"""

import os
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
      ValueError: some of them are set and others not, or the others do not come.
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
    try:
        jax.distributed.initialize(address, count, index, initialization_timeout=_JOIN_SECONDS)
    except RuntimeError as error:
        raise ValueError(
            f'The {count} processes of the job did not meet at {address} within {_JOIN_SECONDS} s '
            f'({str(error).splitlines()[0]}); start the same command on every host.'
        ) from error


def wait_for(done: Callable[[], bool], what: str) -> None:
    """Polls until `done()`, which another process brings about; `what` is for the log."""
    said = time.monotonic()
    while not done():
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            logging.info('Waiting for %s; a host that has stopped can be started again.', what)
