"""`--mode=export`: a checkpoint's weights as one file that samples without its data."""

import dataclasses
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax import config as settings
from panoptic_jax.data import loader
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.export import model_card
from panoptic_jax.logs import environment
from panoptic_jax.machine import files
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.programs.same_model import check_encoders
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import trained


def export_weights(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    interruption: Interruption = UNINTERRUPTED,
) -> None:
    """Writes `workdir/weights.safetensors` from the newest or best checkpoint, and its card.

    Args:
      config: Checked.
      workdir: The training's folder.
      interruption: Asked before the checkpoint is read and before the file is written.

    Raises:
      FileNotFoundError, ValueError: no checkpoint, no prepared data, data of other encoders, or
        numbers that are not finite.
      Interrupted: SIGTERM came; nothing is written, and the same command does it all again.
    """
    manifest = open_manifest(config.data.dir)
    interruption.leave_if_asked()
    restored = trained.from_checkpoint(
        workdir, ema=config.sample.ema, which=config.sample.checkpoint
    )
    # The empty caption's features come from the data, so the data must have the model's encoders.
    check_encoders(restored.description, manifest, workdir)
    # Whoever finds the file later can tell which training, step and data it comes from.
    origin = {
        'step': restored.step,
        'ema': config.sample.ema,
        'fingerprint': manifest.fingerprint,
    }
    weights = weights_file.Weights(
        params=_cast(restored.params, config.export_dtype),
        empty_text=loader.empty_text(config.data.dir),
        description=dataclasses.replace(restored.description, origin=origin),
    )
    path = epath.Path(workdir) / 'weights.safetensors'
    interruption.leave_if_asked()
    weights_file.save(str(path), weights)
    if not jax.process_index():
        files.write_whole(path.with_suffix('.md'), _card(config, path, restored))
    logging.info('Wrote the weights of step %d to %s.', restored.step, path)


def _cast(params: Any, dtype: str) -> Any:
    # What is too large for half precision becomes infinite, and is refused as such.
    with np.errstate(over='ignore'):
        return jax.tree.map(lambda array: np.asarray(array, dtype), params)


def _card(config: ml_collections.ConfigDict, path: epath.Path, restored: trained.Restored) -> str:
    """The page that the Hub shows of the weights."""
    split = loader.Split(config.data.dir, 'train', config.data.cache)
    weights = model_card.Weights(
        file=path.name,
        facts=restored.description.to_json(),
        step=restored.step,
        parameters=sum(array.size for array in jax.tree.leaves(restored.params)),
        dtype=config.export_dtype,
    )
    defaults = environment.flat(settings.default().to_dict())
    return model_card.text(path.parent, weights, defaults, caption=split[0]['captions'][0])
