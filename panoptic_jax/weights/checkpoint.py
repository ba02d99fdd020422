"""Checkpoints: `workdir/checkpoints/<step>/{state, data, meta}`, written whole or not at all.

In a bucket `commit_success.txt` in a step's folder says that it is whole; Orbax sees to that.

The only module that knows Orbax. What is saved and when is the train loop's affair.
"""

import os
import signal
import threading
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental.multihost_utils import reached_preemption_sync_point
from orbax.checkpoint.checkpoint_managers import preservation_policy

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
        """Opens them and, unless `read_only`, removes what a killed save has left.

        Args:
          workdir: The run's folder; `checkpoints/` in it is made if missing and not `read_only`.
          keep_last: How many of the newest to keep.
          keep_every: Keep those at multiples of this many steps, too; 0: none.
          read_only: Only restore. Another process may be training into the folder.
        """
        folder = epath.Path(workdir)
        if '://' not in os.fspath(folder):  # epath would put the current folder before a bucket
            folder = folder.absolute()
        kept = [preservation_policy.LatestN(keep_last)]
        if keep_every:
            kept.append(preservation_policy.EveryNSteps(keep_every))
        self._manager = ocp.CheckpointManager(
            folder / 'checkpoints',
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
                step_format_fixed_length=DIGITS,
                enable_async_checkpointing=True,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                # Orbax sets these itself for a reader, with a warning each.
                create=not read_only,
                save_interval_steps=0 if read_only else 1,
            ),
        )

    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data: dict, meta: dict) -> None:
        """Starts a save; raises here if the one before failed in the background."""
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
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
            ),
        )
        return restored['state'], restored['data']

    def meta(self, step: int) -> dict:
        """What `save` was given as `meta`."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
            'meta'
        ]

    def restore_parts(self, step: int, abstract_parts: dict) -> dict:
        """Only some parts of a state, such as {'ema': ..., 'frozen': ...}."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    item=abstract_parts,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_parts),
                    partial_restore=True,
                )
            ),
        )
        return restored['state']

    def close(self) -> None:
        """Waits until everything is written; raises if a background save failed."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        self._manager.close()


def has_any(workdir: str) -> bool:
    """Whether there is a complete one.

    An unfinished one has another name, or in a bucket, where nothing is renamed, lacks a marker.
    """
    folder = epath.Path(workdir) / 'checkpoints'
    return folder.is_dir() and any(
        path.name.isdecimal() and ocp.path.step.is_path_finalized(path) for path in folder.iterdir()
    )


class Preemption:
    """Turns SIGTERM into a question that the loop asks between steps.

    On several processes JAX's own service listens, so that all of them stop after the same step.
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
