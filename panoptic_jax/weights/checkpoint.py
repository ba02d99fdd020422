"""Checkpoints: `workdir/checkpoints/<step>/{state, data, meta}`, written whole or not at all.

In a bucket, `commit_success.txt` in a step's folder says that the step is whole; Orbax writes it.
This is the only module that knows Orbax. `train.py` decides what is saved, and when.
"""

import signal
import threading
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental.multihost_utils import reached_preemption_sync_point
from orbax.checkpoint.checkpoint_managers import preservation_policy

from panoptic_jax.machine import files

DIGITS = 8  # of the step in a folder's name; reader and writer must agree


class Checkpoints:
    """The checkpoints of one working directory. Saves run in the background.

    The caller may donate a state's buffers to the next step as soon as `save` returns: on
    accelerators the state has been copied to the host by then, and on CPU, where Orbax reads the
    very buffers, JAX does not write into a buffer that is being read but takes a new one.
    """

    def __init__(
        self, workdir: str, keep_last: int = 1, keep_every: int = 0, read_only: bool = False
    ):
        """Opens the checkpoints and, unless `read_only`, removes what a killed save has left.

        Args:
          workdir: The run's folder; `checkpoints/` in it is made if missing and not `read_only`.
          keep_last: How many of the newest checkpoints to keep.
          keep_every: Keep the checkpoints at multiples of this many steps, too; 0: none.
          read_only: Only restore. Another process may be training into the folder.
        """
        folder = epath.Path(workdir)
        if not files.is_remote(folder):
            # Orbax wants absolute paths. epath would put the current folder before a bucket.
            folder = folder.absolute()
        # More than one, since the newest may be cut off by a full disk.
        kept = [preservation_policy.LatestN(keep_last)]
        if keep_every:
            kept.append(preservation_policy.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
            step_format_fixed_length=DIGITS,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            # Orbax sets these two itself for a reader, with a warning each.
            create=not read_only,
            save_interval_steps=0 if read_only else 1,
        )
        self._manager = ocp.CheckpointManager(folder / 'checkpoints', options=options)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint; None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data: dict, meta: dict) -> None:
        """Starts a save in the background; raises if the save before failed there.

        Args:
          step: Optimiser steps done.
          state: The whole training state.
          data: The position in the data, JSON-able.
          meta: What a reader has to know before it can restore the state, JSON-able.
        """
        # A run that resumes at its last step has nothing new to save.
        if step in self._manager.all_steps():
            return
        self._manager.check_for_errors()
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(data),
                meta=ocp.args.JsonSave(meta),
            ),
            force=True,
        )

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict]:
        """(state, data) of a step, the state laid out as `abstract_state`'s shardings say."""
        parts = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=parts)
        return restored['state'], restored['data']

    def meta(self, step: int) -> dict:
        """The `meta` that `save` was given."""
        parts = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=parts)['meta']

    def restore_parts(self, step: int, abstract_parts: dict) -> dict:
        """Some parts of a state alone, for example {'ema': ..., 'frozen': ...}."""
        # A sampler reads the average only: the optimiser's state is twice as large.
        parts = ocp.args.PyTreeRestore(
            item=abstract_parts,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_parts),
            partial_restore=True,
        )
        return self._manager.restore(step, args=ocp.args.Composite(state=parts))['state']

    def close(self) -> None:
        """Waits until everything is written; raises if a background save failed."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        self._manager.close()


def has_any(workdir: str) -> bool:
    """Whether a workdir holds a complete checkpoint.

    An unfinished checkpoint has another name. In a bucket, where nothing is renamed, it lacks a
    marker.
    """
    folder = epath.Path(workdir) / 'checkpoints'
    return folder.is_dir() and any(
        path.name.isdecimal() and ocp.path.step.is_path_finalized(path) for path in folder.iterdir()
    )


class Preemption:
    """Turns SIGTERM into a question that the loop asks between steps.

    In a job of several processes JAX's own service listens, so that all of them stop after the same
    step.
    """

    def __enter__(self) -> 'Preemption':
        self._asked = threading.Event()
        self._alone = jax.process_count() == 1
        if self._alone:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number, frame):
        logging.warning('SIGTERM: saving a checkpoint after this step and leaving.')
        self._asked.set()

    def asked(self, step: int) -> bool:
        """Whether to leave after `step`; every process has to ask at every step."""
        return self._asked.is_set() if self._alone else reached_preemption_sync_point(step)

    def __exit__(self, *exception):
        if self._alone:
            signal.signal(signal.SIGTERM, self._before)
