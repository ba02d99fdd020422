"""Saves checkpoints: `workdir/checkpoints/<step>/{state, data, meta}`, written whole or not at all.

In a bucket, `commit_success.txt` in a step's folder says that the step is whole; Orbax writes it.
`weights/steps.py` reads what is saved here, `weights/orbax_files.py` knows how files are written.
`train.py` decides what is saved, and when.
"""

import contextlib
import errno
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging
from etils import epath

from panoptic_jax.machine import files, hosts
from panoptic_jax.machine.disk import first_line
from panoptic_jax.weights import best, checksums, orbax_files, steps

# What TensorStore says of a disk in the words of the system, inside other errors.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


class Checkpoints:
    """Saves the checkpoints of one working directory, in the background.

    The caller may donate a state's buffers to the next step as soon as `save` returns: on
    accelerators the state has been copied to the host by then, and on CPU, where Orbax reads the
    very buffers, JAX does not write into a buffer that is being read but takes a new one.
    """

    def __init__(self, workdir: str, *, keep_last: int = 1, keep_every: int = 0, best_by: str = ''):
        """Opens the checkpoints and removes what a killed save has left.

        Args:
          workdir: The run's folder; `checkpoints/` in it is made if missing.
          keep_last: How many of the newest checkpoints to keep.
          keep_every: Keep the checkpoints at multiples of this many steps, too; 0: none.
          best_by: Keep the best one by this score, too, see `best.NAMES`; '': none.

        Raises:
          ValueError: the folder cannot be made or written.
        """
        self._folder = steps.folder_of(workdir)
        self._saving: int | None = None  # the step of the last save
        self._bytes = 0  # of its state
        self._failed = False
        self._until_close = contextlib.ExitStack()
        _require_writable(self._folder)
        self._until_close.enter_context(orbax_files.quiet())
        self._best_by = best_by
        self._best_rank: float | None = None
        self._best: set[int] = set()  # the best step, if there is one
        for rank, step in best.best_first(workdir, best_by)[:1] if best_by else ():
            self._best_rank, self._best = rank, {step}
        self._manager = orbax_files.open_manager(
            self._folder,
            digits=steps.DIGITS,
            keep_last=keep_last,
            keep_every=keep_every,
            chosen=self._best,
        )

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint; None where there is none."""
        return self._manager.latest_step()

    def is_best(self, scores: Mapping[str, float | None]) -> bool:
        """Whether scores are better than those of every saved step.

        Every process of a job has to call this; the scores of process 0 count.
        """
        if not self._best_by:
            return False
        rank = best.rank(self._best_by, scores)
        better = rank is not None and (self._best_rank is None or rank > self._best_rank)
        return bool(hosts.of_first(int(better)))

    def save(self, step: int, state: Any, data: dict, meta: dict, *, is_best: bool = False) -> None:
        """Starts a save in the background.

        Args:
          step: Optimiser steps done.
          state: The whole training state.
          data: The position in the data, JSON-able.
          meta: What a reader has to know before it can restore the state, JSON-able; 'scores'
            has those of this step.
          is_best: Whether to keep this step in the place of the best one so far.

        Raises:
          ValueError: this save cannot start, or the one before it has failed in the background.
        """
        # A run that resumes at its last step has nothing new to save.
        if step in self._manager.all_steps():
            return
        self._finish()
        self._saving = step
        self._bytes = sum(
            math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(state)
        )
        if is_best:
            # The one before is removed when this one is complete, not earlier.
            self._best.clear()
            self._best.add(step)
            self._best_rank = best.rank(self._best_by, meta.get('scores', {}))
            logging.info('Step %d is the best one by %s, and is kept.', step, self._best_by)
        meta = {**meta, 'checksums': checksums.LIST, 'best_by': self._best_by}
        with self._explaining():
            parts = orbax_files.parts_of(state, data, meta)
            self._manager.save(step, args=parts, force=True)

    def close(self) -> None:
        """Waits until everything is written and makes sure that it is there.

        Raises:
          ValueError: the last save has failed.
        """
        with self._until_close:
            if self._failed:
                # It has been said.
                with contextlib.suppress(Exception):
                    self._manager.close()
                return
            self._finish()
            self._manager.close()

    def _finish(self) -> None:
        """Waits for the last save, and raises ValueError if it has failed."""
        if self._saving is None:
            return
        with self._explaining():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        saved = self._folder / steps.name_of(self._saving)
        # Errors alone do not tell: Orbax has left out a state without raising one.
        if jax.process_index() == 0:
            fault = checksums.fault(saved, contents=False)
            if fault or not checksums.has_list(saved):
                self._failed = True
                fault = fault or 'its list of checksums is missing'
                raise ValueError(f'The checkpoint {saved} was not saved whole: {fault}.')

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turns what a save raises into a sentence, and clears away what the save has left."""
        try:
            yield
        # Orbax and TensorStore raise errors of many kinds.
        except Exception as error:
            self._failed = True
            _remove_unfinished(self._folder, self._saving)
            older = [step for step in self._manager.all_steps() if step != self._saving]
            kept = f'the checkpoint of step {max(older)} is good' if older else 'there is no older'
            reason = str(_explained(error, self._folder, self._bytes)).rstrip('.')
            raise ValueError(
                f'The checkpoint of step {self._saving} could not be saved ({kept}): {reason}.'
            ) from error


def _require_writable(folder: epath.Path) -> None:
    """Makes a folder, and raises ValueError if nothing can be written into it."""
    # A bucket has been asked already, see `files.connect`.
    if files.is_remote(folder) or jax.process_index():
        return
    with files.explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f'writable{orbax_files.UNFINISHED}'
        probe.mkdir(exist_ok=True)
        probe.rmdir()


def _remove_unfinished(folder: epath.Path, step: int) -> None:
    """Makes room: what a failed save has written is of no use. In a bucket the next start does."""
    if files.is_remote(folder) or jax.process_index():
        return
    for path in folder.iterdir():
        if path.name.startswith(steps.name_of(step) + orbax_files.UNFINISHED):
            shutil.rmtree(path, ignore_errors=True)


def _explained(error: Exception, folder: epath.Path, size: int) -> Exception:
    """The sentence for a disk that refused something; for other errors the first line of theirs."""
    code = error.errno if isinstance(error, OSError) else None
    if code is None:
        code = next((code for code in _DISK_ERRORS if os.strerror(code) in str(error)), None)
    if code is None:
        return ValueError(first_line(error))
    return files.explained(OSError(code, os.strerror(code)), folder / 'state', size)
