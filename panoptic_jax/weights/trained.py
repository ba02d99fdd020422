"""The parameters of a finished or running training, for sampling and export.

They come from the newest checkpoint or from a weights file; `weights/recovery.py` and
`weights/file.py` read them.
"""

import hashlib
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from panoptic_jax.data import loader
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.machine import sharding
from panoptic_jax.programs import state
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.same_model import check_encoders
from panoptic_jax.weights import initial
from panoptic_jax.weights.file import Weights, from_bytes, read

_HASH_DIGITS = 12  # of a file's SHA-256, in the name of its weights


class Restored(NamedTuple):
    """A checkpoint's model.

    Attributes:
      params: The whole parameter tree, spread over this process's devices.
      description: What the model is.
      step: Optimiser steps done.
    """

    params: dict[str, Any]
    description: Description
    step: int


def from_checkpoint(workdir: str, *, ema: bool, which: str = 'newest') -> Restored:
    """The model of the newest checkpoint, or of the best one.

    Args:
      workdir: Folder of the training, which may still be going on.
      ema: Whether to take the averaged weights rather than the last ones.
      which: 'newest' or 'best', see `recovery.best`.

    Raises:
      FileNotFoundError, ValueError: there is no checkpoint, none is whole, its weights are not
        finite, or the training keeps no best one.
    """

    # Orbax takes a third of a second to load, for which weights in a file need not wait.
    from panoptic_jax.weights import recovery, steps

    def restore(step: steps.Step) -> Restored:
        initial.check_bit_order(step.meta, workdir)
        description = Description.from_json(step.meta['description'])
        trainable, frozen = state.split(description.abstract_parameters(), description.is_frozen())
        name = 'ema' if ema else 'params'
        # The optimiser's state is left on disk: it is twice as large as the model.
        parts = {name: trainable} | ({'frozen': frozen} if frozen else {})
        shardings = sharding.of_tree(parts, sharding.local_mesh(fsdp=-1))
        restored = step.parts(sharding.abstract(parts, shardings))
        params = state.merge(restored[name], restored.get('frozen', {}))
        return Restored(params, description, step.number)

    if which == 'best':
        restored = recovery.best(workdir, restore)
    else:
        found = recovery.newest(workdir, restore)
        restored = found and found[0]
    if restored is None:
        kind = 'checkpoint with a score' if which == 'best' else 'checkpoint'
        raise FileNotFoundError(
            f'{workdir} holds no {kind}; train into it first, or name a weights file with '
            '--config.sample.weights=PATH.'
        )
    return restored


def for_sampling(
    workdir: str,
    *,
    weights_path: str,
    ema: bool,
    data_dir: str,
    which: str = 'newest',
    fallback: str = '',
) -> tuple[Weights, str]:
    """The weights that a sampling job draws with.

    Args:
      workdir: Its newest checkpoint is taken where no file is named; without any checkpoint, an
        imported file in it.
      weights_path: A weights file, or '' for none.
      ema: Whether to take a checkpoint's averaged weights rather than the last ones.
      which: The 'newest' checkpoint or the 'best' one.
      data_dir: Prepared data of a checkpoint's encoders; they hold the empty caption's features.
      fallback: A weights file for a workdir that holds neither checkpoint nor file; '' for none.

    Returns:
      The weights, and a name for them: the file's name and hash, or the step.

    Raises:
      FileNotFoundError, ValueError: no such weights, or data of other encoders.
    """
    imported = epath.Path(workdir) / 'weights.safetensors'
    wants_file = not weights_path and which == 'newest'
    if wants_file and not _has_checkpoints(workdir):
        if imported.exists():
            weights_path = str(imported)
        elif fallback:
            weights_path = fallback
            logging.info('%s holds no weights yet, so those of %s are taken.', workdir, fallback)
    if weights_path:
        if which != 'newest':
            raise ValueError(
                f"sample.checkpoint is {which!r}; it must be 'newest' where sample.weights names a "
                'file, which is no checkpoint.'
            )
        # The name changes with the content, so that samples of other weights are not taken up.
        content = read(weights_path)
        digest = hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]
        return from_bytes(content, weights_path), f'{weights_path.rpartition("/")[2]} {digest}'
    restored = from_checkpoint(workdir, ema=ema, which=which)
    check_encoders(restored.description, open_manifest(data_dir), workdir)
    weights = Weights(restored.params, loader.empty_text(data_dir), restored.description)
    return weights, f'step {restored.step}'


def _has_checkpoints(workdir: str) -> bool:
    if not (epath.Path(workdir) / 'checkpoints').is_dir():
        return False
    from panoptic_jax.weights import steps

    return bool(steps.numbers(workdir))
