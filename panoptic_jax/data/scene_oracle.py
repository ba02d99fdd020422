"""Reads scenes back from images and maps, and scores generated pairs against their captions.

Both readings live on the 32x32 latent grid, whose cells are 8x8 px of a 256 px image. An image cell
reads as the palette colour nearest to its mean, and a map cell as the id that most of its pixels
have. A cell is interior if its eight neighbours have the same reading. Borders are thus inferred
from the readings themselves, so a generated image needs no true map. `data/scene_words.py` says
what scenes hold and parses captions, and `metrics/` holds metrics that fit any data set.
"""

import collections
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from panoptic_jax.data import scene_shape_oracle, scene_words

GRID = 32  # cells along each side of a reading
_SHAPE_GRID = 64
# Connected cells that count as a visible thing: 512 px of the image. Each thing shows over 1000 px.
MIN_THING_CELLS = 8
# Connected cells that count as visible stuff: 4096 px of the image. Each kind shows over 8000 px.
MIN_STUFF_CELLS = 64

# {colour's name: reading of an image cell in this colour of a thing}. Stuff cells read as their
# category id; the codes of colours, 1..6, lie below all of these.
COLOUR_CODES = {name: code for code, name in enumerate(scene_words.THING_COLOURS, start=1)}

_FIRST_STUFF = min(scene_words.STUFF_COLOURS)
_PALETTE = np.array(
    [*scene_words.THING_COLOURS.values(), *scene_words.STUFF_COLOURS.values()], np.float32
)  # (colours, 3)
_PALETTE_CODES = np.array([*COLOUR_CODES.values(), *scene_words.STUFF_COLOURS], np.uint8)
_MAP_CODES = np.array([0, *scene_words.THINGS, *scene_words.STUFF_COLOURS], np.uint8)
# The brightness that a scene's light can give a palette colour, 0.88..1.12, and a margin.
_DARKEST, _BRIGHTEST = 0.85, 1.15


def read_image(image: np.ndarray, grid: int = GRID) -> np.ndarray:
    """What each cell of an image shows, judged by its mean colour alone.

    The distance to a palette colour is the least over all brightnesses from 0.85 to 1.15, so light
    that changes across the image does not matter.

    Args:
      image: (256, 256, 3) uint8 RGB.
      grid: Cells along each side, a divisor of 256.

    Returns:
      (grid, grid) uint8: `COLOUR_CODES` (1..6) for the colours of things, ids from 92 for stuff.

    Raises:
      ValueError: the image has another shape or type.
    """
    if image.shape != (256, 256, 3) or image.dtype != np.uint8:
        raise ValueError(
            f'read_image got {image.dtype} {image.shape}; it reads uint8 (256, 256, 3) RGB'
        )
    cell = 256 // grid
    # Whole rows first: sums over a cell's own pixels cost five times as much.
    rows = image.reshape(grid, cell, -1).sum(axis=1, dtype=np.uint32)
    sums = rows.reshape(grid, grid, cell, 3).sum(axis=2)
    means = sums.astype(np.float32) / (cell * cell)  # (grid, grid, 3)
    products = means @ _PALETTE.T  # (grid, grid, colours)
    squares = np.sum(_PALETTE * _PALETTE, axis=1)  # (colours,)
    # The brightness that brings each colour nearest to the mean.
    light = np.clip(products / squares, _DARKEST, _BRIGHTEST)
    # |mean - light * colour|^2 without |mean|^2, which all colours share.
    distance = light * (light * squares - 2 * products)
    nearest = np.argmin(distance, axis=-1)
    return _PALETTE_CODES[nearest]


def read_map(category: np.ndarray) -> np.ndarray:
    """The id that most pixels of each cell have.

    Args:
      category: (h, h) uint8 category ids, where h is a multiple of 32. Ids that scenes do not use
        count as void.

    Returns:
      (32, 32) uint8: 0 for void, things from 1, stuff from 92. The smaller id wins a tie.

    Raises:
      ValueError: the map is not square, or its side is not a multiple of 32.
    """
    side = category.shape[0]
    if category.shape != (side, side) or side % GRID or side == 0:
        raise ValueError(f'read_map got {category.shape}; maps are square, with a multiple of 32')
    cell = side // GRID
    known = np.where(np.isin(category, _MAP_CODES), category, 0)
    cells = known.reshape(GRID, cell, GRID, cell)
    votes_of_codes = [(cells == code).sum(axis=(1, 3)) for code in _MAP_CODES]
    votes = np.stack(votes_of_codes, axis=-1)  # (32, 32, codes)
    # The first of equal votes wins, and the codes ascend.
    winners = np.argmax(votes, axis=-1)
    return _MAP_CODES[winners]


def interior(reading: np.ndarray) -> np.ndarray:
    """(32, 32) bool: whether a cell and all its neighbours have the same reading."""
    lowest = ndimage.minimum_filter(reading, 3, mode='nearest')
    highest = ndimage.maximum_filter(reading, 3, mode='nearest')
    return lowest == highest


def score(
    images: Sequence[np.ndarray], maps: Sequence[np.ndarray], captions: Sequence[str]
) -> dict[str, float]:
    """Mean scores of pairs, each in [0, 1].

    - thing_recall_map: the share of the captioned categories that have a connected area of
      `MIN_THING_CELLS` in the map.
    - colour_recall_image: the share of the captioned things that have an area of this size in their
      colour in the image; 'two red circles' want two areas. Areas thinner than two cells do not
      count.
    - shape_recall_image: the share of the captioned things whose area in the image has their shape,
      rather than that of another kind.
    - stuff_recall_map, stuff_recall_image: the share of the captioned stuff that has a connected
      area of `MIN_STUFF_CELLS` in the map or in the image.
    - image_map_agreement: among the cells that are interior in the image or in the map, the share
      whose readings agree. Readings agree on the same stuff, or if the map has a thing and the
      image a captioned colour. 0 if no cell is interior.

    Args:
      images: One (256, 256, 3) uint8 image for each pair.
      maps: One map of category ids for each pair, (h, h) uint8, where h is a multiple of 32.
      captions: One scene caption for each pair, or a prompt in the same words.

    Raises:
      ValueError: there are no pairs, the lists have different lengths, or `scene_words.parse`
        refuses a caption.
    """
    if not len(images) == len(maps) == len(captions) > 0:
        raise ValueError(
            f'{len(images)} images, {len(maps)} maps and {len(captions)} captions to score; '
            'one of each is needed for every pair, and at least one pair'
        )
    return means_of(map(score_pair, images, maps, captions))


def means_of(scores: Iterable[dict[str, float]]) -> dict[str, float]:
    """The means of what `score_image` or `score_pair` gave, for at least one of them."""
    each = list(scores)
    return {name: _mean(own[name] for own in each) for name in each[0]}


def score_image(image: np.ndarray, caption: str) -> dict[str, float]:
    """The scores of `score` that take no map, for one image."""
    things, *stuff = scene_words.parse(caption)
    return _of_image(image, read_image(image), things, stuff)


def score_pair(image: np.ndarray, category: np.ndarray, caption: str) -> dict[str, float]:
    """The scores of `score` for one pair."""
    things, *stuff = scene_words.parse(caption)
    in_image, in_map = read_image(image), read_map(category)
    return {
        'thing_recall_map': _mean(_has_area(in_map == n, MIN_THING_CELLS) for n, _ in things),
        'stuff_recall_map': _mean(_has_area(in_map == kind, MIN_STUFF_CELLS) for kind in stuff),
        **_of_image(image, in_image, things, stuff),
        'image_map_agreement': _agreement(in_image, in_map, things),
    }


def agreement(image: np.ndarray, category: np.ndarray, caption: str) -> float:
    """The image_map_agreement of `score` for one pair, without the costlier scores."""
    things, *_ = scene_words.parse(caption)
    return _agreement(read_image(image), read_map(category), things)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _has_area(cells: np.ndarray, smallest: int) -> bool:
    return _count_areas(cells, smallest) > 0


def _count_areas(cells: np.ndarray, smallest: int) -> int:
    """How many 4-connected areas of the (32, 32) bool cells have `smallest` cells or more."""
    labels, _ = ndimage.label(cells)
    # Label 0 is everything outside the areas.
    areas = np.bincount(labels.ravel())[1:]
    return int(np.count_nonzero(areas >= smallest))


def _shape_recall(image: np.ndarray, things: Sequence[tuple[int, str]]) -> float:
    """The share of (category, colour) whose colour shows an area in the category's shape."""
    # Outlines need smaller cells than colours do.
    reading = read_image(image, _SHAPE_GRID)
    smallest = MIN_THING_CELLS * (_SHAPE_GRID // GRID) ** 2
    right = 0
    for colour in {colour for _, colour in things}:
        captioned = [category for category, own in things if own == colour]
        pixels = reading == COLOUR_CODES[colour]
        shown = scene_shape_oracle.shapes_of(pixels, len(captioned), smallest)
        both = collections.Counter(captioned) & collections.Counter(shown)
        right += both.total()
    return right / len(things)


def _thick(cells: np.ndarray) -> np.ndarray:
    """The cells that lie in a 2x2 block of true cells."""
    return ndimage.binary_opening(cells, np.ones((2, 2)))


def _of_image(
    image: np.ndarray, in_image: np.ndarray, things: Sequence[tuple[int, str]], stuff: Sequence[int]
) -> dict[str, float]:
    colours = [COLOUR_CODES[colour] for _, colour in things]
    # Two colours that meet can mix to a third along their border, in a line one cell thin.
    shown = {c: _count_areas(_thick(in_image == c), MIN_THING_CELLS) for c in set(colours)}
    found = [colours[:n].count(colour) < shown[colour] for n, colour in enumerate(colours)]
    return {
        'colour_recall_image': _mean(found),
        'shape_recall_image': _shape_recall(image, things),
        'stuff_recall_image': _mean(_has_area(in_image == kind, MIN_STUFF_CELLS) for kind in stuff),
    }


def _agreement(
    in_image: np.ndarray, in_map: np.ndarray, things: Sequence[tuple[int, str]]
) -> float:
    judged = interior(in_image) | interior(in_map)
    if not judged.any():
        return 0.0
    same_stuff = (in_image == in_map) & (in_map >= _FIRST_STUFF)
    thing_in_map = np.isin(in_map, list(scene_words.THINGS))
    # Which colour belongs to which thing is left open: `colour_recall_image` judges the colours.
    captioned = np.isin(in_image, [COLOUR_CODES[colour] for _, colour in things])
    agree = same_stuff | (thing_in_map & captioned)
    return float(agree[judged].mean())
