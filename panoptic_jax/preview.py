"""What training shows of itself: pairs of the same captions and noise each time.

The loop that asks for them is `train.py`'s, offline sampling `sample.py`'s.
"""

import functools

import jax
import ml_collections
import numpy as np

from panoptic_jax import dashboards, sharding, train, train_step, weights
from panoptic_jax.data import loader
from panoptic_jax.data import manifest as manifests
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.metrics import mcd
from panoptic_jax.models.forms import for_mesh
from panoptic_jax.sample import check_same
from panoptic_jax.sampler import keys, make_sampler, map_side, true_ids


def make_preview(config: ml_collections.ConfigDict) -> train.Preview:
    """The train loop's preview: the same captions and noise each time, as a grid and an MCD.

    Returns:
      A function params -> ({'preview': grid picture}, {'preview/mcd': value}); a model without maps
      gives its images alone, and one whose maps are given has no MCD.
    """
    manifest = manifests.open_manifest(config.data.dir)
    description = weights.describe(config, manifest)
    autoencoder = load_autoencoder(config.data.autoencoder, config.data.autoencoder_weights)
    check_same(autoencoder.sha256, description['autoencoder'], 'autoencoder')
    name = 'validation' if 'validation' in manifest['splits'] else 'train'
    split = loader.Split(config.data.dir, name, config.data.cache)
    records = [split[i % len(split)] for i in range(config.preview_count)]
    side = map_side(description)
    has_map = config.model.name != 'uvit'
    truth = None
    if has_map:
        truth = np.stack([true_ids(record, side, manifest['void_wins']) for record in records])
    text = np.stack([record['texts'][0] for record in records])
    given_map = config.model.given_map
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    sampler = make_sampler(
        description,
        loader.empty_text(config.data.dir),
        config.sample,
        train_step.compute_dtype(config.model.dtype),
        for_mesh(mesh, config.fused_attention),
    )
    whole = sharding.replicated(mesh)
    rows = whole if config.preview_count % mesh.size else sharding.of_batch(mesh)
    text, given = sharding.place((text, truth if given_map else None), rows)

    @functools.partial(jax.jit, out_shardings=whole)  # the parameters stay as they lie
    def draw(params, text, given):
        noise_keys = jax.lax.with_sharding_constraint(keys(0, 0, config.preview_count), rows)
        return sampler(params, text, noise_keys, given)

    def preview(params):
        latents, ids = draw(params, text, given)
        if jax.process_index():
            return {}, {}
        images = autoencoder.decode(np.asarray(latents))
        if not has_map:
            return {'preview': images}, {}
        grid = dashboards.grid(images, np.asarray(ids), columns=4)
        if given_map:
            return {'preview': grid}, {}
        return {'preview': grid}, {'preview/mcd': float(mcd.mcd(np.asarray(ids), truth).mean())}

    return preview
