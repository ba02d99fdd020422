"""What a scene's image and map show as segments, on the oracle's cells: for panoptic quality.

`data/scene_oracle.py` reads the cells of an image as colours. Here the caption turns colours into
things, so that the image can serve as the truth of its own map. `metrics/pq.py` compares them.
"""

import collections

import numpy as np
from scipy import ndimage

from panoptic_jax.data import scene_oracle, scene_words
from panoptic_jax.data.scene_oracle import GRID, MIN_THING_CELLS

_BLOCK = np.ones((2, 2))


def of_image(image: np.ndarray, caption: str) -> tuple[np.ndarray, np.ndarray]:
    """The segments that an image shows, as far as its caption names their colours.

    A colour that the caption gives to one thing is this thing, connected or not. Where it gives the
    colour to several, each connected area is one. Areas of less than `MIN_THING_CELLS` are void,
    and so is a colour that the caption does not name. Cells outside each 2x2 block of one reading
    are void too: along borders colours mix, and a mean of two may read as a third.

    Args:
      image: (256, 256, 3) uint8 RGB.
      caption: A scene's caption, or a prompt in the same words.

    Returns:
      category: (32, 32) uint8, 0 for void.
      instance: (32, 32) uint8; the things are numbered from 1, stuff and void have 0.

    Raises:
      ValueError: the errors of `scene_oracle.read_image` and `scene_words.parse`.
    """
    things, _, _ = scene_words.parse(caption)
    reading = scene_oracle.read_image(image)
    category = np.zeros_like(reading)
    instance = np.zeros_like(reading)
    for kind in scene_words.STUFF_COLOURS:
        category[ndimage.binary_opening(reading == kind, _BLOCK)] = kind
    counts = collections.Counter(colour for _, colour in things)
    number = 0
    for colour, kind in {colour: kind for kind, colour in things}.items():
        cells = ndimage.binary_opening(reading == scene_oracle.COLOUR_CODES[colour], _BLOCK)
        areas, count = (cells, 1) if counts[colour] == 1 else ndimage.label(cells)
        for area in range(1, count + 1):
            mask = areas == area
            if np.count_nonzero(mask) >= MIN_THING_CELLS:
                number += 1
                category[mask] = kind
                instance[mask] = number
    return category, instance


def of_map(category: np.ndarray, instance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segments of a map on the same cells: (32, 32) category and instance.

    A cell has the category that `scene_oracle.read_map` reads, and of the instances of this
    category in the cell the most frequent one; the smallest number wins a tie.

    Args:
      category: (h, h) uint8 ids, where h is a multiple of 32.
      instance: (h, h) unsigned integers, 0 for stuff and void.
    """
    reading = scene_oracle.read_map(category)
    cell = category.shape[0] // GRID
    numbers, rows = np.unique(instance, return_inverse=True)
    enlarged = reading.repeat(cell, axis=0).repeat(cell, axis=1)
    rows = np.where(category == enlarged, rows.reshape(category.shape), -1)
    cells = rows.reshape(GRID, cell, GRID, cell)
    votes = [np.count_nonzero(cells == row, axis=(1, 3)) for row in range(len(numbers))]
    return reading, numbers[np.argmax(votes, axis=0)]
