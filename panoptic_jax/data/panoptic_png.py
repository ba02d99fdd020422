"""The COCO-panoptic PNG format and our (category, instance) maps, both ways and bit-exact.

A pixel's segment id is R + 256 G + 65536 B; the annotation's `segments_info` says what each segment
is. Reading whole folders is `coco.py`'s, writing them `export/`'s business.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from panoptic_jax.data.example import Category


def segment_ids(colours: np.ndarray) -> np.ndarray:
    """Segment ids of a panoptic picture: (H, W, 3) uint8 RGB to (H, W) int32; 0 is void."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red + 256 * green + 65536 * blue


def segment_colours(segments: np.ndarray) -> np.ndarray:
    """The inverse of `segment_ids`: (H, W) integers 0..2^24-1 to (H, W, 3) uint8 RGB."""
    return np.stack([segments & 255, segments >> 8 & 255, segments >> 16 & 255], -1).astype(
        np.uint8
    )


def to_maps(
    segments: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    category_ids: Mapping[int, int],
    thing_ids: frozenset[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Category and instance of every pixel.

    Args:
      segments: (H, W) segment ids; 0 is void.
      segments_info: The annotation's segments: 'id', 'category_id' and optionally 'iscrowd'.
      category_ids: {source's category id: our id}.
      thing_ids: Those of our ids that are things.

    Returns:
      category: (H, W) uint8, 0 void; crowd segments keep their category.
      instance: (H, W) uint8; things from 1, largest first over all categories (equal sizes in the
        annotation's order); 0 for stuff, crowds and things beyond the 255 largest.

    Raises:
      ValueError: a segment id or category without description, or a segment described twice.
    """
    infos = sorted(segments_info, key=lambda info: info['id'])
    known = np.array([0] + [info['id'] for info in infos], np.int64)
    if len(repeated := known[1:][np.diff(known) == 0]):
        raise ValueError(
            f'segments_info describes segment {repeated[0]} twice (or uses 0, which is void); each '
            'id may occur once: restore the original annotation.'
        )
    index = np.minimum(np.searchsorted(known, segments), len(known) - 1)
    if len(unknown := np.unique(segments[known[index] != segments])):
        raise ValueError(
            f'{len(unknown)} segment ids of the PNG, the first {unknown[0]}, are not in the '
            "annotation's segments_info; take PNG and JSON from the same release."
        )
    category = np.zeros(len(known), np.uint8)
    for row, info in enumerate(infos, start=1):
        if info['category_id'] not in category_ids:
            raise ValueError(
                f'Segment {info["id"]} has category {info["category_id"]}, which the category list '
                "lacks; complete the JSON's 'categories'."
            )
        category[row] = category_ids[info['category_id']]

    areas = np.bincount(index.ravel(), minlength=len(known))
    row_of = {info['id']: row for row, info in enumerate(infos, start=1)}
    things = [
        row_of[info['id']]
        for info in segments_info
        if int(category[row_of[info['id']]]) in thing_ids and not info.get('iscrowd', 0)
    ]
    things.sort(key=lambda row: -areas[row])
    instance = np.zeros(len(known), np.uint8)
    for number, row in enumerate(things[:255], start=1):
        instance[row] = number
    return category[index], instance[index]


def from_maps(
    category: np.ndarray, instance: np.ndarray, categories: Sequence[Category]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A panoptic picture of two maps; `to_maps` gives them back where things are numbered by size.

    Args:
      category: (H, W) uint8 ids, 0 void.
      instance: (H, W) uint8, 0 none.
      categories: The list that the ids refer to.

    Returns:
      colours: (H, W, 3) uint8, one segment per (category, instance) pair, with the segment id
        category + 256 * instance; void stays 0 whatever its instance.
      segments_info: 'id', 'category_id', 'area' (pixels), 'bbox' [x, y, width, height] and
        'iscrowd' (1 for things without an instance number), by instance and then category.

    Raises:
      ValueError: a pixel's category is not in the list.
    """
    is_thing = {entry.id: entry.is_thing for entry in categories}
    segments = np.where(category > 0, category + 256 * instance.astype(np.int32), 0)
    segments_info = []
    for segment in np.unique(segments[segments > 0]).tolist():
        number = segment & 255
        if number not in is_thing:
            raise ValueError(
                f'The map holds category {number}, which is none of the {len(is_thing)} listed; '
                'decode it with the valid codes of its data set.'
            )
        rows, columns = np.nonzero(segments == segment)
        left, top = int(columns.min()), int(rows.min())
        segments_info.append(
            {
                'id': segment,
                'category_id': number,
                'area': len(rows),
                'bbox': [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
                'iscrowd': int(is_thing[number] and segment < 256),
            }
        )
    return segment_colours(segments), segments_info
