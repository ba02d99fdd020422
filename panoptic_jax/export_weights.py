"""`--mode=export`: a checkpoint's weights as one file that samples without its data."""

import dataclasses

import ml_collections
from absl import logging
from etils import epath

from panoptic_jax.data import loader
from panoptic_jax.data.manifest import open_manifest
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
    """Writes `workdir/weights.safetensors` from the newest checkpoint, or the best one.

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
        params=restored.params,
        empty_text=loader.empty_text(config.data.dir),
        description=dataclasses.replace(restored.description, origin=origin),
    )
    path = epath.Path(workdir) / 'weights.safetensors'
    interruption.leave_if_asked()
    weights_file.save(str(path), weights)
    logging.info('Wrote the weights of step %d to %s.', restored.step, path)
