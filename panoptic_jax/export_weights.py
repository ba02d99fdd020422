"""`--mode=export`: the newest checkpoint's weights as one file that samples without its data."""

import ml_collections
from absl import logging
from etils import epath

from panoptic_jax.data import loader
from panoptic_jax.data import manifest as manifests
from panoptic_jax.weights import file as weights_file


def export_weights(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes `workdir/weights.safetensors` from the newest checkpoint (`config.sample.ema`)."""
    manifest = manifests.open_manifest(config.data.dir)
    params, description, step = weights_file.from_checkpoint(workdir, config.sample.ema)
    weights_file.check_encoders(description, manifest, workdir)
    path = epath.Path(workdir) / 'weights.safetensors'
    details = {'step': step, 'ema': config.sample.ema, 'fingerprint': manifest['fingerprint']}
    weights_file.save(str(path), params, loader.empty_text(config.data.dir), description | details)
    logging.info('Wrote the weights of step %d to %s.', step, path)
