"""The lock of a folder in a bucket: an object that its holder renews and that goes stale.

A bucket has no locks that end with a process. `machine/writer_lock.py` says who takes locks, and
has the lock of local folders; the words about a lock's holder are here for both.
"""

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import logging
from etils import epath

from panoptic_jax.machine import files
from panoptic_jax.machine.interruption import Interruption

_RENEW_SECONDS = 15.0
_STALE_SECONDS = 60.0  # without a change
# A marker that is so old by this machine's clock is stale without a further look.
_OLD_SECONDS = 600.0
_LOOK_SECONDS = 2.0


def owner(what: str) -> dict[str, Any]:
    """What a lock says of its holder, JSON-able.

    Args:
      what: The holder's work in words.
    """
    return {
        'what': what,
        'process': os.getpid(),
        'host': platform.node(),
        'since': time.strftime('%Y-%m-%d %H:%M:%S'),
        'machine': _machine(),
        'key': os.urandom(8).hex(),
    }


def refusal(path: os.PathLike | str, content: bytes) -> str:
    """The sentence for a second job.

    Args:
      path: The lock.
      content: What its holder has written there; may be cut off.
    """
    folder = os.path.dirname(os.fspath(path))
    try:
        holder = json.loads(content)
        who = (
            f'{holder["what"]} (process {holder["process"]} on {holder["host"]}, since '
            f'{holder["since"]})'
        )
    except (ValueError, KeyError, TypeError):
        who = 'job'
    return f'Another {who} writes into {folder} now; wait until it ends, or stop it first.'


@contextlib.contextmanager
def held(path: epath.Path, content: dict[str, Any], interruption: Interruption) -> Iterator[None]:
    """Holds the marker at a path of a bucket.

    Should another job take it, as can happen when this process stood still for a minute, the
    interruption is asked for.

    Args:
      path: The marker.
      content: From `owner`.
      interruption: Ends the wait for a marker that may be stale.

    Raises:
      ValueError: another job holds it.
      Interrupted: an interruption came first.
    """
    while not _create(path, content):
        found = _read(path)
        _require_stale(path, found, interruption)
        # Somebody else may have taken it meanwhile.
        if _read(path) == found:
            path.unlink(missing_ok=True)
    over = threading.Event()
    renewal = threading.Thread(
        target=_renew, args=(path, content, over, interruption), name='marker', daemon=True
    )
    renewal.start()
    try:
        yield
    finally:
        over.set()
        renewal.join()
        if _is_ours(_read(path), content):
            path.unlink(missing_ok=True)


def _create(path: epath.Path, content: dict[str, Any]) -> bool:
    """Writes the marker unless there is one; returns whether it did."""
    return files.write_new(path, _stamped(content))


def _stamped(content: dict[str, Any]) -> str:
    return json.dumps(content | {'renewed': time.time()})


def _read(path: epath.Path) -> bytes:
    """The marker's content; b'' where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b''


def _is_ours(found: bytes, content: dict[str, Any]) -> bool:
    return content['key'].encode() in found


def _require_stale(path: epath.Path, found: bytes, interruption: Interruption) -> None:
    """Raises ValueError if the holder of a marker lives, which may take a minute to find out."""
    try:
        holder = json.loads(found)
        age = time.time() - holder['renewed']
        if _is_dead(holder) or age > _OLD_SECONDS:
            return
    except (ValueError, KeyError, TypeError):
        # Not one of ours, or of another version: time tells.
        pass
    logging.info(
        '%s Looking for up to %d s whether it still lives.', refusal(path, found), _STALE_SECONDS
    )
    # Clocks of two machines differ, so what counts is a change, seen from here.
    end = time.monotonic() + _STALE_SECONDS
    while time.monotonic() < end:
        interruption.leave_if_asked()
        time.sleep(_LOOK_SECONDS)
        now = _read(path)
        if not now:
            return
        if now != found:
            raise ValueError(refusal(path, now))


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and is gone; False where this cannot be known."""
    if not holder['machine'] or holder['machine'] != _machine():
        return False
    try:
        os.kill(holder['process'], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _machine() -> str:
    """Names what process numbers belong to: a start of a system, and a container; '' if unknown."""
    try:
        with open('/proc/sys/kernel/random/boot_id') as file:
            start = file.read().strip()
        return f'{start} {os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return ''


def _renew(
    path: epath.Path, content: dict[str, Any], over: threading.Event, interruption: Interruption
) -> None:
    while not over.wait(_RENEW_SECONDS):
        try:
            found = _read(path)
            if found and not _is_ours(found, content):
                logging.error('%s This job ends.', refusal(path, found))
                interruption.ask()
                return
            files.write_whole(path, _stamped(content))
        # Requests to buckets raise errors of many kinds; the next one may go well.
        except Exception as error:
            logging.warning('%s could not be renewed: %s', path, error)
