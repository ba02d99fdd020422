"""What training shows of itself: pairs of the same captions and noise each time.

The loop that asks for them is `train.py`'s, offline sampling `sample.py`'s.
"""

import functools
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from panoptic_jax.data import categories, loader
from panoptic_jax.data import manifest as manifests
from panoptic_jax.data.geometry import true_ids
from panoptic_jax.encoders.load import check_same, load_autoencoder
from panoptic_jax.machine import sharding
from panoptic_jax.metrics import mcd
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.programs.sampler import keys, make_sampler, map_side
from panoptic_jax.weights import file as weights_file

Preview = Callable[[dict], tuple[dict[str, np.ndarray], dict[str, float]]]


def make_preview(config: ml_collections.ConfigDict) -> Preview:
    """The train loop's preview: the same captions and noise each time, as a grid and an MCD.

    Returns:
      A function params -> ({'preview': grid picture}, {'preview/mcd': value}); a model without maps
      gives its images alone, and one whose maps are given has no MCD.
    """
    manifest = manifests.open_manifest(config.data.dir)
    description = weights_file.describe(config, manifest)
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
        compute_dtype(config.model.dtype),
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
        grid = grid_of_pairs(images, np.asarray(ids), columns=4)
        if given_map:
            return {'preview': grid}, {}
        return {'preview': grid}, {'preview/mcd': float(mcd.mcd(np.asarray(ids), truth).mean())}

    return preview


def grid_of_pairs(images: np.ndarray, maps: np.ndarray, columns: int) -> np.ndarray:
    """Pairs side by side, image | coloured map, in rows of `columns` pairs.

    Args:
      images: (N, H, W, 3) uint8.
      maps: (N, h, w) uint8 category ids; enlarged to the images' size without interpolation, so H
        and W must be multiples of h and w.
      columns: pairs per row; the last row is filled up with white.

    Returns:
      (rows (H + 4) - 4, columns (2 W + 8) - 8, 3) uint8.

    Raises:
      ValueError: not as many maps as images, or sizes that do not divide.
    """
    count, height, width, _ = images.shape
    if len(maps) != count or height % maps.shape[1] or width % maps.shape[2]:
        raise ValueError(
            f'maps have shape {maps.shape} for images of shape {images.shape}; expected one map '
            "per image, with sides that divide the image's"
        )
    large = maps.repeat(height // maps.shape[1], axis=1).repeat(width // maps.shape[2], axis=2)
    rows = -(-count // columns)
    canvas = np.full((rows * (height + 4) - 4, columns * (2 * width + 8) - 8, 3), 255, np.uint8)
    for i, (image, ids) in enumerate(zip(images, large, strict=True)):
        top, left = i // columns * (height + 4), i % columns * (2 * width + 8)
        canvas[top : top + height, left : left + width] = image
        canvas[top : top + height, left + width : left + 2 * width] = categories.colour(ids)
    return canvas
