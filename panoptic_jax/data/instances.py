"""Things of generated maps: from categories, and codes where there are any, to numbered instances.

A map with codes (`diffusion/codes.py`) says which pixels are one thing; a map of categories alone
is cut into connected areas. Either way areas too small to be meant join what surrounds them.
`data/panoptic_png.py` writes the result as COCO-panoptic segments.
"""

from collections.abc import Collection

import numpy as np
from scipy import ndimage

_IDS = 256  # category ids and codes are uint8


def of_batch(
    ids: np.ndarray,
    *,
    codes: np.ndarray | None = None,
    thing_ids: Collection[int],
    min_area: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Things of a batch of maps, see `separate`: (B, H, W) uint8 ids and uint16 instances."""
    each = [
        separate(
            category,
            codes=None if codes is None else codes[row],
            thing_ids=thing_ids,
            min_area=min_area,
        )
        for row, category in enumerate(ids)
    ]
    categories, instances = zip(*each, strict=True)
    return np.stack(categories), np.stack(instances)


def separate(
    category: np.ndarray,
    *,
    codes: np.ndarray | None = None,
    thing_ids: Collection[int],
    min_area: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The things of one map, and the map without segments that are too small.

    With codes a thing is all pixels of one code, connected or not, and its category is the one that
    most of them have. Without, a thing is a 4-connected area of one category; so are pixels of
    code 0, which training gives to crowds. A stuff category is one segment. A connected area that
    is smaller than `min_area` joins the segment, or the void, that it has most sides in common
    with, also where its own segment is large elsewhere: along borders, unsure bits make crumbs.

    Args:
      category: (H, W) uint8 ids, 0 for void.
      codes: (H, W) uint8; what they say where the category is stuff or void does not matter. None
        for a map of categories alone.
      thing_ids: Categories that are things.
      min_area: Share of the map's pixels, from 0 to 1.

    Returns:
      category: (H, W) uint8.
      instance: (H, W) uint16, 0 for stuff and void. The things are numbered from 1 over all
        categories, the largest first.
    """
    labels, owners = _segments(category, codes, thing_ids)
    labels = _join_small(labels, len(owners), min_area * category.size)
    areas = np.bincount(labels.ravel(), minlength=len(owners))
    things = [row for row, owner in enumerate(owners) if owner in thing_ids and areas[row]]
    numbers = np.zeros(len(owners), np.uint16)
    for number, row in enumerate(sorted(things, key=lambda row: -areas[row]), start=1):
        numbers[row] = number
    return np.array(owners, np.uint8)[labels], numbers[labels]


def _segments(
    category: np.ndarray, codes: np.ndarray | None, thing_ids: Collection[int]
) -> tuple[np.ndarray, list[int]]:
    """(H, W) rows of the segments, row 0 for void, and for each row its category."""
    labels = np.zeros(category.shape, np.int64)
    owners = [0]
    codes = np.zeros_like(category) if codes is None else codes
    is_thing = np.isin(category, list(thing_ids))
    for code in np.unique(codes[is_thing & (codes > 0)]).tolist():
        mask = is_thing & (codes == code)
        labels[mask] = len(owners)
        owners.append(int(np.bincount(category[mask]).argmax()))
    free = (category > 0) & (labels == 0)
    for number in np.unique(category[free]).tolist():
        mask = free & (category == number)
        if number in thing_ids:
            # Without a structure, `label` joins pixels by their sides and not by their corners.
            areas, count = ndimage.label(mask)
        else:
            areas, count = mask, 1
        labels[mask] = areas[mask] + (len(owners) - 1)
        owners += [number] * count
    return labels, owners


def _join_small(labels: np.ndarray, count: int, smallest: float) -> np.ndarray:
    """Gives connected areas of segments below `smallest` pixels to what is around; void stays."""
    if smallest <= 1:  # no area has less than a pixel
        return labels
    mask = np.zeros(labels.shape, bool)
    for row in np.unique(labels[labels > 0]).tolist():
        areas, _ = ndimage.label(labels == row)
        is_small = np.bincount(areas.ravel()) < smallest
        is_small[0] = False
        mask |= is_small[areas]
    # Where nothing is large enough, there is nothing to join.
    if not mask.any() or mask.all():
        return labels
    patches, patch_count = ndimage.label(mask)
    votes = np.zeros((patch_count + 1) * count, np.int64)
    for axis in (0, 1):
        for step in (-1, 1):
            neighbour = np.roll(labels, step, axis)
            meets = mask & ~np.roll(mask, step, axis)
            # Nothing lies beyond the border, where `roll` brings the other side in.
            meets[(slice(None),) * axis + (0 if step == 1 else -1,)] = False
            pairs = patches[meets] * count + neighbour[meets]
            votes += np.bincount(pairs, minlength=len(votes))
    winner = votes.reshape(-1, count).argmax(axis=1)
    return np.where(mask, winner[patches], labels)
