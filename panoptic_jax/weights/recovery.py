"""The newest whole step of a training: damaged steps are passed over with a warning.

A step is whole if its files are as they were saved, see `weights/checksums.py`. `weights/steps.py`
reads a step, and `weights/checkpoint.py` saves them.
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from panoptic_jax.machine import files, hosts
from panoptic_jax.weights import best as best_steps
from panoptic_jax.weights import checksums, orbax_files, steps

Result = TypeVar('Result')

_TRIES = 100  # so often a training may remove the step that is being read
_NONE = -1  # stands for no step where processes tell one another numbers


def newest(
    workdir: str, read: Callable[[steps.Step], Result]
) -> tuple[Result, dict[int, str]] | None:
    """Reads the newest whole step of a workdir; every process of a job has to call this.

    A training may go on and remove steps meanwhile: then its newer steps are read.

    Args:
      workdir: The folder of the training.
      read: Takes what it needs from a step.

    Returns:
      What `read` returned, and {step: what is wrong with it} of damaged steps that are newer; None
      where there is no step at all.

    Raises:
      ValueError: no step is whole; or what `read` raises.
    """
    return _first_whole(workdir, read, steps.numbers, 'newest')


def best(workdir: str, read: Callable[[steps.Step], Result]) -> Result | None:
    """Reads the best whole step of a workdir, by the score that its training keeps the best of.

    Every process of a job has to call this.

    Args:
      workdir: The folder of the training.
      read: Takes what it needs from a step.

    Returns:
      What `read` returned; None where there is no step with a score.

    Raises:
      ValueError: the training keeps no best step; no step with a score is whole; or what `read`
        raises.
    """

    def order(workdir):
        name = best_steps.chosen_by(workdir)
        return [number for _, number in best_steps.best_first(workdir, name)] if name else []

    if hosts.of_first(bool(steps.numbers(workdir)) and not best_steps.chosen_by(workdir)):
        raise ValueError(
            f'The training in {workdir} keeps no best step; --config.checkpoint_best says by which '
            "score it should, and --config.sample.checkpoint='newest' takes its newest step."
        )
    found = _first_whole(workdir, read, order, 'best')
    return found and found[0]


@orbax_files.quiet()
def _first_whole(
    workdir: str,
    read: Callable[[steps.Step], Result],
    order: Callable[[str], Sequence[int]],
    word: str,
) -> tuple[Result, dict[int, str]] | None:
    """Reads the first whole step in an order that may change; `word` says what it is, for logs."""
    faults = {}
    for _ in range(_TRIES):
        left = [number for number in order(workdir) if number not in faults]
        # Another step may be there when the next process looks: all take the first one's.
        number = hosts.of_first(left[0] if left else _NONE)
        if number == _NONE:
            return _nothing(workdir, faults)
        result, fault, verified = _attempt(steps.folder_of(workdir) / steps.name_of(number), read)
        if not _anywhere(fault is not None):
            _warn(workdir, number, faults, word)
            return result, faults
        # A training may have saved a better one meanwhile, or removed this one.
        now = [other for other in order(workdir) if other not in faults]
        if hosts.of_first(now[:1] != [number]):
            continue
        if verified:
            raise ValueError(
                f'Step {number} of {steps.folder_of(workdir)} is as it was saved, but {fault}.'
            )
        faults[number] = fault or 'another process cannot read it'
    raise ValueError(
        f'{steps.folder_of(workdir)} changes faster than it can be read; keep_last=2 keeps a '
        'checkpoint while the next one is saved.'
    )


def _nothing(workdir: str, faults: Mapping[int, str]) -> None:
    """Raises ValueError if there are steps of which none is whole."""
    if faults:
        folder = steps.folder_of(workdir)
        raise ValueError(
            f'{folder} holds no whole checkpoint: {_listed(faults)}; copy a whole one there, or '
            'move the folder away to start anew.'
        )


def _attempt(folder: epath.Path, read: Callable[[steps.Step], Result]) -> tuple:
    """(what `read` returned, what is wrong or None, whether all bytes are as they were saved)."""
    share = jax.process_index(), jax.process_count()
    try:
        fault, verified = checksums.fault(folder, share=share), checksums.has_list(folder)
    except OSError as error:
        # Files that are being removed, or that the disk has lost. Others say nothing about them.
        if error.errno not in (errno.ENOENT, errno.EIO):
            raise
        fault, verified = f'its files cannot be read ({steps.brief(error)})', False
    # All agree before they read, since one process cannot read its share of a state alone.
    if _anywhere(fault is not None):
        return None, fault or 'another process found damage', False
    try:
        return read(steps.Step(folder, int(folder.name))), None, verified
    except steps.Unreadable as error:
        return None, str(error), verified
    except (KeyError, TypeError, AttributeError) as error:
        # The meta of an old step, which has no checksums, may hold anything.
        if verified:
            raise
        return None, f'its meta cannot be understood ({steps.brief(error)})', False


def _anywhere(happened: bool) -> bool:
    """Whether something happened in any process; every process has to call this."""
    if jax.process_count() == 1:
        return happened
    return bool(np.any(multihost_utils.process_allgather(np.int32(happened))))


def _warn(workdir: str, number: int, faults: Mapping[int, str], word: str) -> None:
    if faults:
        logging.warning(
            'Damaged checkpoints in %s: %s. Step %d is taken, the %s whole one.',
            steps.folder_of(workdir), _listed(faults), number, word,
        )  # fmt: skip


def set_aside(workdir: str, faults: Mapping[int, str]) -> None:
    """Renames damaged steps, so that training can save them anew; nothing is deleted.

    Every process of a job has to call this; no other job may write into the workdir.

    Args:
      workdir: The folder of the training.
      faults: From `newest`.
    """
    if not faults:
        return
    if jax.process_index() == 0:
        for number in faults:
            folder = steps.folder_of(workdir) / steps.name_of(number)
            aside = _free_name(folder)
            _rename(folder, aside)
            logging.warning('Step %d, which is damaged, is kept as %s.', number, aside)
    # Nobody looks before the names have changed.
    _anywhere(happened=False)


def _free_name(folder: epath.Path) -> epath.Path:
    count = 0
    while True:
        name = folder.with_name(f'{folder.name}.damaged' + (f'.{count}' if count else ''))
        if not name.exists():
            return name
        count += 1


def _rename(folder: epath.Path, name: epath.Path) -> None:
    if not files.is_remote(folder):
        folder.rename(name)
        return
    # A bucket knows folders by the names of its objects alone, and moves each of them.
    storage, place = files.storage_of(folder)
    ending = name.name.removeprefix(folder.name)
    objects = storage.find(place)
    # Copied first: a kill in the middle leaves all of it under one of the names.
    for path in objects:
        storage.cp_file(path, f'{place}{ending}{path.removeprefix(place)}')
    for path in objects:
        storage.rm_file(path)


def _listed(faults: Mapping[int, str]) -> str:
    return '; '.join(f'in step {number}, {reason}' for number, reason in faults.items())
