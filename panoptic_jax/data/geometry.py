"""From a source's picture to the sizes that everything else works at; section 3.1 of the paper.

Centre crop to the short side, resize to 256 px, maps pooled to 128. Further pooling, to the
resolution of a model's map, is done where the records are used.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from panoptic_jax.data.example import Example
from panoptic_jax.diffusion import bits

IMAGE_SIZE = 256  # pixels along each side
MAP_SIZE = 128


def fit_image(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (256, 256, 3): centre crop to the short side, Lanczos."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    cropped = Image.fromarray(image[central_square(image)])
    return np.asarray(cropped.resize(size, Image.Resampling.LANCZOS))


def central_square(array: np.ndarray) -> tuple[slice, slice]:
    """The largest central square of an array (H, W, ...), as an index."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.s_[top : top + side, left : left + side]


def fit(example: Example, void_wins: bool = False) -> tuple[np.ndarray, ...]:
    """Centre crop to the short side, resize, pool the maps.

    Returns:
      image (256, 256, 3) uint8; category and instance (128, 128) uint8. Instances are numbered anew
      by size within the crop. Category and instance of a map pixel come from the same source pixel.
      Of an example without maps both are None.
    """
    if example.category is None:
        return fit_image(example.image), None, None
    window, size = central_square(example.category), (IMAGE_SIZE, IMAGE_SIZE)
    category, instance = (
        np.asarray(Image.fromarray(ids[window]).resize(size, Image.Resampling.NEAREST))
        for ids in (example.category, example.instance)
    )
    areas = np.bincount(instance.ravel(), minlength=256)[1:]
    renumbered = np.zeros(256, np.uint8)
    renumbered[1 + np.argsort(-areas, kind='stable')] = np.arange(1, 256)
    category, instance = bits.min_pool(
        category, renumbered[instance], IMAGE_SIZE // MAP_SIZE, void_wins
    )
    return fit_image(example.image), category, instance


def true_ids(record: Mapping[str, Any], side: int, void_wins: bool) -> np.ndarray:
    """(side, side) uint8: a prepared record's map at the model's resolution."""
    factor = record['category'].shape[0] // side
    return bits.min_pool(record['category'], record['instance'], factor, void_wins)[0]


def true_latents(record: Mapping[str, Any]) -> np.ndarray:
    """(h, w, c) float32: a prepared record's latents, the mean of what the autoencoder says."""
    if 'latents' in record:
        return np.float32(record['latents'])
    return np.float32(np.split(record['moments'], 2, axis=-1)[0])
