"""One writer for each folder: the preparation of data, the training of a workdir, a sampling job.

All processes of a job are one writer; a second job is refused. Readers take no lock. Inside a
lock, the processes of a job also pass a SIGTERM on to each other. `machine/writer_marker.py` is
the lock in buckets. `machine/work_folder.py` says how far the work in a folder is.
"""

import contextlib
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from etils import epath

from panoptic_jax.machine import files, hosts, writer_marker
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interrupted, Interruption

LOCK = 'writer.lock'
_NOTE = 'writer.stop'  # its content is the number of the job that is to end
OWN_FILES = frozenset({LOCK, _NOTE})  # names that make no folder other than empty
_REFUSED, _INTERRUPTED = 0, -1  # take the place of a job's number
_LOCAL_SECONDS, _BUCKET_SECONDS = 0.5, 3.0  # between two looks for the note


@contextlib.contextmanager
def writing(
    folder: epath.PathLike, what: str, interruption: Interruption = UNINTERRUPTED
) -> Iterator[None]:
    """Makes this job the only one that writes into a folder; all its processes have to enter.

    The lock is free again after a kill: at once on a local disk, and after a minute in a bucket
    (at once where the killed process ran on this machine). The file `LOCK` stays in the folder.

    Inside, the interruption of one process becomes that of all: it leaves a note in the folder.
    Then the processes leave together, so that none of them is aborted by JAX.

    Args:
      folder: Made if it is missing; local or in a bucket.
      what: The work in words, such as 'training', for the message to a second job.
      interruption: The one that this process listens to.

    Raises:
      ValueError: another job writes there, or the folder cannot be written.
      Interrupted: an interruption came while the lock was taken.
    """
    folder = epath.Path(folder)
    number, problem = secrets.randbelow(2**31 - 1) + 1, None
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            try:
                stack.enter_context(_held(folder, writer_marker.owner(what), interruption))
            except (ValueError, Interrupted) as error:
                # The other processes wait to be told.
                problem = error
                number = _INTERRUPTED if isinstance(error, Interrupted) else _REFUSED
        number = hosts.of_first(number)
        if problem is not None:
            raise problem
        if number == _REFUSED:
            raise ValueError(f'Process 0 could not begin to write {folder}; its message says why.')
        if number == _INTERRUPTED:
            raise Interrupted(f'Process 0 was interrupted before it could write {folder}.')
        if jax.process_count() > 1:
            stack.enter_context(_shared_interruption(folder, number, interruption))
        yield


@contextlib.contextmanager
def _held(folder: epath.Path, owner: dict[str, Any], interruption: Interruption) -> Iterator[None]:
    """Holds the lock for process 0, and removes the note of an earlier job."""
    if files.is_remote(folder):
        lock = writer_marker.held(folder / LOCK, owner, interruption)
    else:
        lock = _locked(os.fspath(folder / LOCK), owner)
    with lock:
        with files.explaining(folder / _NOTE):
            (folder / _NOTE).unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def _locked(path: str, owner: dict[str, Any]) -> Iterator[None]:
    """Holds the lock of a local folder, which the system frees when this process ends."""
    with files.explaining(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(writer_marker.refusal(path, os.read(lock, 4096))) from None
        except OSError as error:
            # Some network disks know no locks; work there goes on as it did without them.
            logging.warning(
                '%s cannot be locked (%s): take care that no second job writes there.',
                path, error.strerror,
            )  # fmt: skip
        with files.explaining(path):
            os.truncate(lock, 0)
            os.write(lock, json.dumps(owner).encode())
        yield
    finally:
        # Closing alone would not do: a child process may have the same open file.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


@contextlib.contextmanager
def _shared_interruption(
    folder: epath.Path, number: int, interruption: Interruption
) -> Iterator[None]:
    """Passes the interruption of this process on to the others of job `number`, and theirs here."""
    note, over = folder / _NOTE, threading.Event()

    def ends() -> bool:
        """Whether this job is to end, after the one or the other was told."""
        if interruption.asked():
            files.write_whole(note, str(number))
            return True
        if note.exists() and note.read_text() == str(number):
            interruption.ask()
            return True
        return False

    def look() -> None:
        seconds = _BUCKET_SECONDS if files.is_remote(folder) else _LOCAL_SECONDS
        while not over.wait(seconds):
            try:
                if ends():
                    return
            # Requests to buckets raise errors of many kinds; the next one may go well.
            except Exception as error:
                logging.warning('%s cannot be asked: %s', note, error)

    thread = threading.Thread(target=look, name='shared interruption', daemon=True)
    thread.start()
    try:
        yield
    except Interrupted:
        # The thread may not have looked since the signal came.
        ends()
        hosts.leave_together()
        raise
    finally:
        over.set()
        thread.join()
