"""Generated maps as COCO-panoptic PNGs and their segments.

`data/instances.py` finds the things of a generated map. `data/panoptic_png.py` defines the format
of the PNGs and reads it, and `export/coco_lists.py` writes the JSON that belongs to them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from panoptic_jax.data import panoptic_png
from panoptic_jax.data.example import Category


def segments(
    category: np.ndarray, instance: np.ndarray, categories: Sequence[Category]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The panoptic segments of a map: each stuff category, and each thing. Void stays void.

    Args:
      category: (H, W) uint8 ids, 0 for void. COCO wants the size of the image, so the map must be
        enlarged first.
      instance: (H, W) unsigned integers below 65536, see `instances.separate`: the things are
        numbered from 1, the largest first; 0 for stuff and void.
      categories: The list that the ids refer to.

    Returns:
      colours: (H, W, 3) uint8, the content of the PNG. The id R + 256 G + 65536 B of a segment is
        category + 256 n, where n is the instance's number.
      segments_info: `id`, `category_id`, `area` in pixels, `bbox` [left, top, width, height] in
        pixels and `iscrowd` 0. The stuff comes first, then the things by their numbers.

    Raises:
      ValueError: a pixel's category is not in the list.
    """
    known = {entry.id for entry in categories}
    # In the types of the maps, 256 times a number would overflow.
    keys = category + 256 * instance.astype(np.int32)
    keys = np.where(category > 0, keys, 0)
    # Counted and not sorted, which takes five times as long.
    counts = np.bincount(keys.ravel())
    identifiers = np.flatnonzero(counts)
    areas = counts[identifiers]
    table = np.zeros(len(counts), np.int32)
    table[identifiers] = np.arange(len(identifiers))
    rows = table[keys]
    boxes = ndimage.find_objects(rows + 1)

    def rank(row: int) -> tuple[int, int]:
        return identifiers[row] >> 8, -areas[row]

    segments_info = []
    for row in sorted(range(len(identifiers)), key=rank):
        owner = int(identifiers[row]) & 255
        if owner == 0:
            continue
        if owner not in known:
            raise ValueError(
                f'The map holds category {owner}, which is none of the {len(known)} listed; '
                'decode it with the valid codes of its data set.'
            )
        down, across = boxes[row]
        segments_info.append(
            {
                'id': int(identifiers[row]),
                'category_id': owner,
                'area': int(areas[row]),
                'bbox': [
                    across.start,
                    down.start,
                    across.stop - across.start,
                    down.stop - down.start,
                ],
                'iscrowd': 0,
            }
        )
    return panoptic_png.segment_colours(identifiers[rows]), segments_info
