"""Which shape a thing in an image has: the one whose outline overlaps best with the thing's pixels.

`data/scene_oracle.py` reads colours, and an image can have all of them right while its things are
blobs. `data/scene_shapes.py` has the shapes.
"""

import functools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from panoptic_jax.data import scene_shapes

_ANGLES = np.linspace(-0.5, 0.5, 7)  # radians, as far as scenes turn their things
_SIDE = 24  # cells along each side of a normalised outline
_REACH = 1.8  # sizes from its centre to its sides: the tips of a star end at 1.5


def shapes_of(pixels: np.ndarray, count: int, smallest: int) -> list[int]:
    """The shapes of the largest areas.

    Args:
      pixels: (h, w) bool, where the image has a thing's colour.
      count: How many things have this colour.
      smallest: Pixels of the smallest area that counts.

    Returns:
      Categories, at most `count`, the largest area first.
    """
    areas, _ = ndimage.label(pixels)
    sizes = np.bincount(areas.ravel())
    sizes[0] = 0
    largest = np.argsort(-sizes, kind='stable')[:count]
    return [shape_of(areas == area) for area in largest.tolist() if sizes[area] >= smallest]


def shape_of(mask: np.ndarray) -> int:
    """The category whose shape has the largest intersection over union with a mask (h, w).

    The shapes are laid on the mask with its area and its centre of mass, turned by angles as scenes
    have them.
    """
    found = _normalised(mask)
    categories, outlines = _outlines()
    both = outlines @ found  # (n,)
    either = outlines.sum(axis=1) + found.sum() - both
    return categories[int(np.argmax(both / either))]


def _normalised(mask: np.ndarray) -> np.ndarray:
    """(SIDE * SIDE,) float32: a mask moved and scaled as outlines are."""
    rows, columns = np.nonzero(mask)
    size = np.sqrt(len(rows) / np.pi)
    centre_y, centre_x = rows.mean() + 0.5, columns.mean() + 0.5
    x, y = _grid()
    rows = np.floor(centre_y + size * y).astype(int)
    columns = np.floor(centre_x + size * x).astype(int)
    height, width = mask.shape
    is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    values = mask[rows.clip(0, height - 1), columns.clip(0, width - 1)] & is_inside
    return values.astype(np.float32)


@functools.cache
def _outlines() -> tuple[Sequence[int], np.ndarray]:
    """Categories, and (n, SIDE * SIDE) float32 the shapes at all angles, 1 inside."""
    x, y = _grid()
    categories, outlines = [], []
    for category, distance in scene_shapes.DISTANCES.items():
        # A shape's centre of mass lies on its axis, since left and right are mirror images.
        inside = distance(x, y) < 0
        middle = y[inside].mean()
        for angle in _ANGLES:
            cosine, sine = np.cos(angle), np.sin(angle)
            turned_x = cosine * x + sine * y
            turned_y = cosine * y - sine * x
            categories.append(category)
            outlines.append(distance(turned_x, turned_y + middle) < 0)
    return categories, np.stack(outlines).astype(np.float32)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """x and y of the outlines' cells in sizes, (SIDE * SIDE,) each."""
    steps = (np.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
    y, x = np.meshgrid(_REACH * steps, _REACH * steps, indexing='ij')
    return x.ravel(), y.ravel()
