"""SIGTERM: a question between units of work, and an end in time where nobody asks it."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from panoptic_jax.machine.interruption import (
    RUN_AGAIN,
    UNINTERRUPTED,
    Interrupted,
    Interruption,
)

ROOT = Path(__file__).parents[2]


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_work_goes_on_without_a_signal():
    with Interruption() as interruption:
        assert not interruption.asked()
        interruption.leave_if_asked()


def test_sigterm_ends_the_work_between_units():
    units = []

    def work(interruption):
        for unit in range(5):
            interruption.leave_if_asked()
            if unit == 2:
                terminate()
            units.append(unit)

    with Interruption() as interruption, pytest.raises(Interrupted):
        work(interruption)
    assert units == [0, 1, 2]


def test_another_signal_is_no_request():
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
            assert not interruption.asked()
            terminate()
            assert interruption.asked()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_was_set_before_comes_back():
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    try:
        with Interruption():
            terminate()
        assert not calls
        terminate()
        assert calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_request_of_another_thread_counts_too():
    with Interruption() as interruption:
        interruption.ask()
        deadline = time.monotonic() + 5
        while not interruption.asked():
            assert time.monotonic() < deadline
    interruption.ask()  # the work is over: nothing happens


def test_what_is_not_opened_is_never_asked():
    UNINTERRUPTED.ask()
    UNINTERRUPTED.acknowledge()
    UNINTERRUPTED.listen()
    assert not UNINTERRUPTED.asked()
    UNINTERRUPTED.leave_if_asked()


def test_a_library_that_took_the_signal_hears_of_it_too():
    """JAX installs a handler of C code when a job starts, and learns of the signal by it alone."""
    calls = []
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(calls.append)
    install = ctypes.CDLL(None).signal
    install.argtypes, install.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    with Interruption() as interruption:
        install(signal.SIGTERM, ctypes.cast(handler, ctypes.c_void_p))
        interruption.listen()
        interruption.listen()
        terminate()
        assert interruption.asked()
    assert calls == [signal.SIGTERM]


# The main thread stays in one call, as it does while a program is compiled.
DEAF = """
import ctypes, os, signal
from panoptic_jax.machine.interruption import Interruption
with Interruption(limit_seconds=0.3) as interruption:
    os.kill(os.getpid(), signal.SIGTERM)
    if {acknowledged}:
        interruption.acknowledge()
    ctypes.CDLL(None).usleep(900_000)
    print('done')
"""


@pytest.mark.parametrize(('acknowledged', 'code', 'said'), [(0, RUN_AGAIN, ''), (1, 0, 'done\n')])
def test_a_process_that_does_not_answer_ends_in_time(acknowledged, code, said):
    done = subprocess.run(
        [sys.executable, '-c', DEAF.format(acknowledged=acknowledged)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, said)
    assert ('Stopped 0.3 s after SIGTERM' in done.stderr) == (code == RUN_AGAIN)
