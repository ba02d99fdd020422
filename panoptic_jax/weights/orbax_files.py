"""How Orbax writes and reads the folder of a step; no other module knows Orbax.

`weights/checkpoint.py` saves with it, and `weights/steps.py` reads.
"""

import contextlib
import fnmatch
import sys
from collections.abc import Container, Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from panoptic_jax.weights import checksums

UNFINISHED = ocp.path.step.TMP_DIR_SUFFIX  # follows the step in the name of an unfinished folder


def open_manager(
    folder: epath.Path,
    *,
    digits: int,
    keep_last: int,
    keep_every: int,
    chosen: Container[int] = (),
) -> ocp.CheckpointManager:
    """Opens the folder of all steps for saving, and removes what a killed save has left.

    Args:
      folder: Absolute, or in a bucket.
      digits: Number of digits of the step in a folder's name.
      keep_last: How many of the newest steps to keep.
      keep_every: Keep the multiples of this many steps, too; 0: none.
      chosen: Keep these steps, too, which may be others at each save.
    """
    # More than one, since the newest may be cut off by a full disk.
    kept = [preservation_policy.LatestN(keep_last), _Chosen(chosen)]
    if keep_every:
        kept.append(preservation_policy.EveryNSteps(keep_every))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
        step_format_fixed_length=digits,
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,
    )
    parts = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for name in ('data', 'meta'):
        parts.add(name, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    # Last, since parts are completed in this order, and the list of checksums has all of them.
    parts.add('state', ocp.args.StandardSave, _StateHandler())
    return ocp.CheckpointManager(folder, options=options, handler_registry=parts)


class _Chosen(preservation_policy.PreservationPolicy):
    """Keeps the steps of a set that its owner changes; Orbax has a policy for fixed steps alone."""

    def __init__(self, chosen: Container[int]):
        self._chosen = chosen

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether to keep each of the steps."""
        return [checkpoint.step in self._chosen for checkpoint in checkpoints]


class _StateHandler(ocp.StandardCheckpointHandler):
    """Orbax's way to save arrays, for folders of any name, with a list of checksums."""

    def finalize(self, directory: epath.Path) -> None:
        """Completes the arrays, on process 0, after all processes have written theirs."""
        super().finalize(_Literal(directory))
        # Where Orbax finds no file of any process, it says so in a warning alone.
        if not (directory / 'manifest.ocdbt').exists():
            raise ValueError(f'{directory} was completed without arrays')
        checksums.write(directory.parent, directory)


class _Literal(type(epath.Path('/'))):
    """A path whose own characters are no pattern.

    Orbax looks for the files of the processes by a pattern that begins with the folder's path. In a
    folder with `[` in its name it finds none, and completes a state without arrays.
    """

    def glob(self, pattern: str) -> Iterator[epath.Path]:
        """The entries of this folder whose names fit the pattern."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))


def parts_of(state: Any, data: dict, meta: dict) -> ocp.args.Composite:
    """What the manager's `save` takes: a state of arrays, and two JSON-able parts."""
    return ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave(data),
        meta=ocp.args.JsonSave(meta),
    )


def is_finished(folder: epath.Path) -> bool:
    """Whether a step's folder is complete as far as its name or, in a bucket, its marker tells."""
    return ocp.path.step.is_path_finalized(folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what Python prints when requests end after the first of them has failed.

    Orbax raises the first error and closes the loop that the others report to.
    """
    before = sys.unraisablehook

    def show(unraisable: Any) -> None:
        words = str(unraisable.exc_value)
        if not words.startswith(('Event loop is closed', 'Encountered error while reading array')):
            before(unraisable)

    sys.unraisablehook = show
    try:
        yield
    finally:
        sys.unraisablehook = before


def read_state(folder: epath.Path, abstract_state: Any) -> Any:
    """A whole state, laid out as the shardings of `abstract_state` say.

    Every process of a job has to call this. Damaged files raise errors of many kinds.
    """
    reader = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    return reader.restore(folder / 'state', args=ocp.args.StandardRestore(abstract_state))


def read_parts(folder: epath.Path, abstract_parts: dict) -> dict:
    """Some parts of a state alone, for example {'ema': ..., 'frozen': ...}, on this process.

    Damaged files raise errors of many kinds.
    """
    # Each process reads for itself, and waits for no other one.
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f'parts{index}'
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    reader = ocp.Checkpointer(handler, multiprocessing_options=alone)
    # A sampler reads the average only: the optimiser's state is twice as large.
    arguments = ocp.args.PyTreeRestore(
        item=abstract_parts,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_parts),
        partial_restore=True,
    )
    return reader.restore(folder / 'state', args=arguments)
