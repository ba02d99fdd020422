"""Reads scenes back, images without their maps, and scores generated pairs against their captions.

Both readings live on the 32x32 latent grid (cells of 8x8 px of a 256 px image). An image cell reads
as the palette colour nearest to its mean, a map cell as the id that most of its pixels have. A cell
is interior if its eight neighbours have the same reading: borders are inferred from the readings
themselves, so a generated image needs no true map. What scenes hold and how captions are parsed is
in `scene_words.py`; metrics that fit any data set are in `metrics/`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from panoptic_jax.data import scene_words
from panoptic_jax.data.scene_words import parse

GRID = 32
"""Cells along each side of a reading."""
MIN_THING_CELLS = 8
"""Connected cells (512 px of the image) that count as a thing seen; each shows over 1000 px."""
MIN_STUFF_CELLS = 64
"""Connected cells (4096 px of the image) that count as stuff seen; each shows over 8000 px."""

COLOUR_CODES = {name: code for code, name in enumerate(scene_words.THING_COLOURS, 1)}
"""Reading of an image cell in a thing's colour; below every stuff id, which stuff cells read as."""

_FIRST_STUFF = min(scene_words.STUFF_COLOURS)
_PALETTE = np.array(
    [*scene_words.THING_COLOURS.values(), *scene_words.STUFF_COLOURS.values()], np.float32
)
_PALETTE_CODES = np.array([*COLOUR_CODES.values(), *scene_words.STUFF_COLOURS], np.uint8)
_MAP_CODES = np.array([0, *scene_words.THINGS, *scene_words.STUFF_COLOURS], np.uint8)
_DARKEST, _BRIGHTEST = 0.85, 1.15  # light that a palette colour may lie in


def read_image(image: np.ndarray) -> np.ndarray:
    """What each cell of an image shows, judged by its mean colour alone.

    The distance to a palette colour is the least over all brightnesses from 0.85 to 1.15, so light
    that changes across the picture does not matter.

    Args:
      image: (256, 256, 3) uint8 RGB.

    Returns:
      (32, 32) uint8, COLOUR_CODES (1..6) for things' colours, ids from 92 for stuff.
    """
    if image.shape != (256, 256, 3) or image.dtype != np.uint8:
        raise ValueError(
            f'read_image got {image.dtype} {image.shape}; it reads uint8 (256, 256, 3) RGB'
        )
    means = image.reshape(GRID, 8, GRID, 8, 3).mean(axis=(1, 3), dtype=np.float32)
    products = means @ _PALETTE.T  # (32, 32, colours)
    squares = np.sum(_PALETTE * _PALETTE, axis=1)
    light = np.clip(products / squares, _DARKEST, _BRIGHTEST)
    # |mean - light * colour|^2 without |mean|^2, which all colours share.
    distance = light * (light * squares - 2 * products)
    return _PALETTE_CODES[np.argmin(distance, axis=-1)]


def read_map(category: np.ndarray) -> np.ndarray:
    """The id that most pixels of each cell have; ids that scenes do not use count as void.

    Args:
      category: (h, h) uint8 category ids, h a multiple of 32.

    Returns:
      (32, 32) uint8: 0, things from 1, stuff from 92; the smaller id wins a tie.
    """
    side = category.shape[0]
    if category.shape != (side, side) or side % GRID or side == 0:
        raise ValueError(f'read_map got {category.shape}; maps are square, with a multiple of 32')
    cell = side // GRID
    known = np.where(np.isin(category, _MAP_CODES), category, 0)
    cells = known.reshape(GRID, cell, GRID, cell)
    votes = np.stack([(cells == code).sum(axis=(1, 3)) for code in _MAP_CODES], axis=-1)
    return _MAP_CODES[np.argmax(votes, axis=-1)]


def interior(reading: np.ndarray) -> np.ndarray:
    """Which cells have the reading of all their neighbours; (32, 32) bool."""
    lowest = ndimage.minimum_filter(reading, 3, mode='nearest')
    return lowest == ndimage.maximum_filter(reading, 3, mode='nearest')


def score(
    images: Sequence[np.ndarray], maps: Sequence[np.ndarray], captions: Sequence[str]
) -> dict[str, float]:
    """Mean scores of pairs, each in [0, 1].

    - thing_recall_map: captioned categories with a connected area of MIN_THING_CELLS in the map.
    - colour_recall_image: captioned colours with such an area in the image; areas thinner than two
      cells do not count, because two colours that meet can mix to a third along their border.
    - stuff_recall_map, stuff_recall_image: captioned stuff with a connected area of
      MIN_STUFF_CELLS.
    - image_map_agreement: of the cells that are interior in the image or in the map, the share
      whose readings agree: the same stuff, or a thing in the map and a captioned colour in the
      image. 0 if no cell is interior.

    Args:
      images: (256, 256, 3) uint8 each.
      maps: (h, h) uint8 category ids each, h a multiple of 32.
      captions: one scene caption for each pair, or prompts in the same words.

    Raises:
      ValueError: no pairs, lists of different lengths, or a caption that `parse` refuses.
    """
    if not len(images) == len(maps) == len(captions) > 0:
        raise ValueError(
            f'{len(images)} images, {len(maps)} maps and {len(captions)} captions to score; '
            'one of each is needed for every pair, and at least one pair'
        )
    pairs = [score_pair(*pair) for pair in zip(images, maps, captions, strict=True)]
    return {name: float(np.mean([pair[name] for pair in pairs])) for name in pairs[0]}


def score_pair(image: np.ndarray, category: np.ndarray, caption: str) -> dict[str, float]:
    """The scores of `score` for one pair."""
    things, *stuff = parse(caption)
    seen, mapped = read_image(image), read_map(category)
    colours = [COLOUR_CODES[colour] for _, colour in things]
    return {
        'thing_recall_map': _mean(
            _has_area(mapped == identity, MIN_THING_CELLS) for identity, _ in things
        ),
        'colour_recall_image': _mean(
            _has_area(_thick(seen == colour), MIN_THING_CELLS) for colour in colours
        ),
        'stuff_recall_map': _mean(_has_area(mapped == kind, MIN_STUFF_CELLS) for kind in stuff),
        'stuff_recall_image': _mean(_has_area(seen == kind, MIN_STUFF_CELLS) for kind in stuff),
        'image_map_agreement': _agreement(seen, mapped, colours),
    }


def yardsticks(
    images: Sequence[np.ndarray], maps: Sequence[np.ndarray], captions: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What truth and chance score: {'ceiling': scores, 'floor': scores}.

    Args:
      images: true images after encoding and decoding, (256, 256, 3) uint8 each; at least 3.
      maps: their true maps, pooled as the model's are.
      captions: one of their captions each.

    The ceiling scores these pairs. The floor scores each image with the next one's map and the
    caption of the one after that, so no two of the three belong together.
    """
    if len(images) < 3:
        raise ValueError(f'yardsticks got {len(images)} pairs; shuffling them needs at least 3')
    shifted_maps = [*maps[1:], *maps[:1]]
    shifted_captions = [*captions[2:], *captions[:2]]
    return {
        'ceiling': score(images, maps, captions),
        'floor': score(images, shifted_maps, shifted_captions),
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _has_area(cells: np.ndarray, smallest: int) -> bool:
    """Whether a 4-connected area has `smallest` cells or more."""
    labels, count = ndimage.label(cells)
    return count > 0 and np.bincount(labels.ravel())[1:].max() >= smallest


def _thick(cells: np.ndarray) -> np.ndarray:
    """The cells that lie in a 2x2 block of such cells."""
    return ndimage.binary_opening(cells, np.ones((2, 2)))


def _agreement(seen: np.ndarray, mapped: np.ndarray, colours: list[int]) -> float:
    judged = interior(seen) | interior(mapped)
    same_stuff = (seen == mapped) & (mapped >= _FIRST_STUFF)
    both_things = np.isin(mapped, list(scene_words.THINGS)) & np.isin(seen, colours)
    return float((same_stuff | both_things)[judged].mean()) if judged.any() else 0.0
