"""Connected areas of a map, which its crumbs and the sizes of its things are counted by.

`data/instances.py` removes areas that are too small from what a model draws; here they are counted,
whatever drew the map.
"""

import numpy as np
from scipy import ndimage


def connected(*maps: np.ndarray) -> np.ndarray:
    """The sizes of the areas that are connected by sides and equal in all maps.

    Args:
      *maps: (h, w) each, such as categories and instances. Where the first one is 0, for void,
        there is no area.

    Returns:
      (n,) int64 pixels of each area.
    """
    first, *_ = maps
    height, width = first.shape
    # A picture with a cell for each pixel and one for each side between two: a side is there where
    # both pixels are equal. So one pass finds the areas of all values.
    cells = np.zeros((2 * height - 1, 2 * width - 1), bool)
    cells[::2, ::2] = first != 0
    upright = np.logical_and.reduce([each[1:] == each[:-1] for each in maps])
    across = np.logical_and.reduce([each[:, 1:] == each[:, :-1] for each in maps])
    cells[1::2, ::2] = upright & (first[1:] != 0)
    cells[::2, 1::2] = across & (first[:, 1:] != 0)
    labels, count = ndimage.label(cells)
    # The cells of sides do not count as pixels.
    return np.bincount(labels[::2, ::2].ravel(), minlength=count + 1)[1:]


def of_things(
    category: np.ndarray, instance: np.ndarray | None, thing_ids: frozenset[int]
) -> np.ndarray:
    """(n,) int64 pixels of each thing; without instances a connected area is a thing."""
    is_thing = np.isin(category, list(thing_ids))
    if instance is None:
        return connected(np.where(is_thing, category, 0))
    numbers = np.where(is_thing, instance, 0).astype(np.int64)
    areas = np.bincount(numbers.ravel())[1:]
    return areas[areas > 0]
