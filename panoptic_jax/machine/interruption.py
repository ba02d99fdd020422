"""SIGTERM as a question between units of work, and an end in time where nobody asks it.

Schedulers send SIGTERM some 30 s before they kill. `main.py` opens an `Interruption` around every
mode and turns `Interrupted` into the exit code; `machine/writer_lock.py` passes the request on to
the other processes of a job. Ctrl-C stays Python's KeyboardInterrupt.
"""

import contextlib
import ctypes
import os
import signal
import socket
import threading
from typing import Any

RUN_AGAIN = 75  # exit code: the same command goes on
_LIMIT_SECONDS = 25.0  # less than the 30 s of Slurm, Kubernetes and preempted machines
# How much later process 0 of a job ends, since JAX aborts the others when it is gone.
_SECONDS_OF_FIRST = 3.0
_BY_DEFAULT, _IGNORED = 0, 1  # the addresses that stand for no handler


class Interrupted(Exception):
    """SIGTERM ended the work after the unit at hand; the same command goes on."""


class Interruption:
    """Turns SIGTERM into a question; a context manager, to be opened in the main thread.

    From a SIGTERM on, the work has 25 s to end or to say that it is ending (`acknowledge`). Then
    the process ends with exit code 75, whatever it does: compilation, say, looks at no signal.
    Nothing half-written counts as done, so that loses only the unit at hand.

    One that was not opened is never asked, see `UNINTERRUPTED`.
    """

    def __init__(self, limit_seconds: float = _LIMIT_SECONDS) -> None:
        """Prepares; `with` opens it.

        Args:
          limit_seconds: From SIGTERM to the end of a process that does not answer.
        """
        self._limit_seconds = limit_seconds
        self._asked = threading.Event()
        self._settled = threading.Event()
        self._line = None  # a signal writes into its second end, the thread reads from the first
        self._thread = None
        self._before = None  # what had been set: the handler and the line of signals
        self._own_address = None
        self._other_address = None

    def __enter__(self) -> 'Interruption':
        self._line = socket.socketpair()
        self._line[1].settimeout(0)
        self._thread = threading.Thread(target=self._watch, name='interruption', daemon=True)
        self._thread.start()
        if _in_main_thread():
            line_before = signal.set_wakeup_fd(self._line[1].fileno(), warn_on_full_buffer=False)
            self._before = signal.signal(signal.SIGTERM, self._note), line_before
            self._own_address = _swap_handler(_BY_DEFAULT)
            _swap_handler(self._own_address)
        return self

    def listen(self) -> None:
        """Takes SIGTERM back from JAX, which takes it when a job of several processes starts.

        JAX's handler is called as well: training learns from it which step is the last one of all
        processes.
        """
        if self._own_address is None:
            return
        # Imported here, since the command line needs an interruption long before it needs JAX.
        import jax

        if jax.distributed.is_initialized() and jax.process_index() == 0:
            self._limit_seconds += _SECONDS_OF_FIRST
        address = _swap_handler(self._own_address)
        if address not in (self._own_address, _BY_DEFAULT, _IGNORED):
            self._other_address = address

    def ask(self) -> None:
        """Asks for the end of the work, as a SIGTERM does; nothing where it is not opened."""
        if self._line is not None:
            # The line is closed where the work is over already.
            with contextlib.suppress(OSError):
                self._line[1].send(bytes([signal.SIGTERM]))

    def asked(self) -> bool:
        """Whether the work should end."""
        return self._asked.is_set()

    def leave_if_asked(self) -> None:
        """Ends the work if it should end; call it between units of work.

        Raises:
          Interrupted: it should.
        """
        if self.asked():
            raise Interrupted('SIGTERM came; the same command goes on.')

    def acknowledge(self) -> None:
        """Says that the work ends now and may take its time; the limit holds no more."""
        self._settled.set()

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            handler, line_before = self._before
            signal.set_wakeup_fd(line_before)
            # None stands for a handler that Python did not install and cannot give back.
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
        self._settled.set()
        # The thread reads the end of the line, and ends.
        self._line[1].close()
        self._thread.join()
        self._line[0].close()

    def _note(self, number: int, frame: Any) -> None:
        """Python's handler; it runs once the main thread is back in Python's code."""
        self._asked.set()

    def _watch(self) -> None:
        """Waits for SIGTERM in a thread, which works also during long calls of the main thread."""
        received = b''
        # Other signals, such as that of Ctrl-C, arrive here too.
        while received != bytes([signal.SIGTERM]):
            received = self._line[0].recv(1)
            if not received:
                return
        self._asked.set()
        if self._other_address is not None:
            nothing = None  # which it returns
            ctypes.CFUNCTYPE(nothing, ctypes.c_int)(self._other_address)(signal.SIGTERM)
        if not self._settled.wait(self._limit_seconds):
            # Not through `sys.stderr`, whose lock the main thread may hold.
            sentence = f'Stopped {self._limit_seconds:g} s after SIGTERM; the same command goes on.'
            os.write(2, f'{sentence}\n'.encode())
            os._exit(RUN_AGAIN)


UNINTERRUPTED = Interruption()  # for calls from other code, which handles its signals itself


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _swap_handler(address: int | None) -> int | None:
    """Installs a handler of C code for SIGTERM; returns the address of the one before."""
    # Python knows of handlers only that it installed itself.
    install = ctypes.CDLL(name=None).signal
    install.argtypes, install.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    return install(signal.SIGTERM, address) or _BY_DEFAULT
