"""The sizes that images and maps have: cropping, resizing and pooling; section 3.1 of the paper.

Preparation crops an image to its central square, resizes it to 256 px and pools its map to 128 px.
Evaluation and sampling pool a stored map further, to a model's resolution (`true_ids`), and take
the latents of a stored record (`true_latents`). The pooling itself is in `diffusion/bits.py`, and
encoding is in `preparation/shard_records.py`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from panoptic_jax.data.example import Example
from panoptic_jax.diffusion import bits

IMAGE_SIDE = 256  # pixels
STORED_MAP_SIDE = 128  # pixels; models of every map resolution read maps of this one size


def fit_image(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (256, 256, 3): central square, then Lanczos resizing where it differs."""
    square = image[central_square(image)]
    if len(square) == IMAGE_SIDE:
        return square
    resized = Image.fromarray(square).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def central_square(array: np.ndarray) -> tuple[slice, slice]:
    """The index of the largest central square of an array (H, W, ...)."""
    height, width = array.shape[:2]
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    return np.s_[top : top + side, left : left + side]


def fit(example: Example, void_wins: bool = False) -> tuple[np.ndarray, ...]:
    """Crops an example to its central square, resizes it and pools its map.

    Args:
      example: A source's example of any size.
      void_wins: Whether void wins in the pooling, as in the paper; see `bits.min_pool`.

    Returns:
      image: (256, 256, 3) uint8.
      category, instance: (128, 128) uint8. Both values of a map pixel come from the same source
        pixel. Instances are numbered anew by their size within the crop. Both are None for an
        example without a map.
    """
    image = fit_image(example.image)
    if example.category is None:
        return image, None, None
    return image, *fit_map(example.category, example.instance, void_wins)


def fit_map(
    category: np.ndarray, instance: np.ndarray, void_wins: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The map's part of `fit`: (H, W) uint8 category and instance -> (128, 128) uint8 each."""
    category = fit_ids(category)
    instance = _by_size(fit_ids(instance))
    factor = IMAGE_SIDE // STORED_MAP_SIDE
    return bits.min_pool(category, instance, factor, void_wins)


def fit_ids(ids: np.ndarray) -> np.ndarray:
    """(H, W) uint8 -> (256, 256) uint8: central square, then the nearest pixels."""
    square = Image.fromarray(ids[central_square(ids)])
    # Ids are names, not amounts: a mean of two ids would be a third category.
    return np.asarray(square.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.NEAREST))


def _by_size(instance: np.ndarray) -> np.ndarray:
    """Numbers instances anew, the largest first; things may have lost most of their area."""
    areas = np.bincount(instance.ravel(), minlength=256)[1:]
    # A stable sort keeps the source's order among things of equal size.
    largest_first = 1 + np.argsort(-areas, kind='stable')
    renumbered = np.zeros(256, np.uint8)
    renumbered[largest_first] = np.arange(1, 256)
    return renumbered[instance]


def true_ids(record: Mapping[str, Any], side: int, void_wins: bool) -> np.ndarray:
    """(side, side) uint8 category ids: a stored map at a model's resolution.

    Args:
      record: A stored record with 'category' and 'instance', (128, 128) uint8.
      side: Side of the model's map in pixels; it divides the stored side.
      void_wins: The pooling that the data were prepared with.
    """
    category, _ = true_segments(record, side, void_wins)
    return category


def true_segments(
    record: Mapping[str, Any], side: int, void_wins: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What `true_ids` gives, and the numbers of the things: (side, side) uint8 each."""
    factor = record['category'].shape[0] // side
    return bits.min_pool(record['category'], record['instance'], factor, void_wins)


def true_latents(record: Mapping[str, Any]) -> np.ndarray:
    """(h, w, c) float32, unscaled: a stored record's latents, or the mean of its moments."""
    if 'latents' in record:
        return np.float32(record['latents'])
    mean, _ = np.split(record['moments'], 2, axis=-1)
    return np.float32(mean)
