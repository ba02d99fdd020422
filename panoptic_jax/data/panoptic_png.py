"""The COCO-panoptic PNG format and our (category, instance) maps, both ways and bit-exact.

The segment id of a pixel is R + 256 G + 65536 B, and the annotation's `segments_info` says what
each segment is. `data/coco.py` reads whole folders, and `export/coco.py` writes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from panoptic_jax.data.example import Category


def segment_ids(colours: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a panoptic PNG -> (H, W) int32 segment ids, 0 for void."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red + 256 * green + 65536 * blue


def segment_colours(segments: np.ndarray) -> np.ndarray:
    """(H, W) integers 0..2^24-1 -> (H, W, 3) uint8 RGB; the inverse of `segment_ids`."""
    red = segments & 255
    green = segments >> 8 & 255
    blue = segments >> 16 & 255
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


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
      thing_ids: Our ids of the categories that are things.

    Returns:
      category: (H, W) uint8, 0 for void; crowd segments keep their category.
      instance: (H, W) uint8. The things are numbered from 1 over all categories, largest first;
        things of equal size keep the annotation's order. Stuff, crowds and things beyond the 255
        largest are 0.

    Raises:
      ValueError: `segments_info` lacks a segment or describes it twice, or `category_ids` lacks a
        category.
    """
    infos = sorted(segments_info, key=lambda info: info['id'])
    # Row r of all tables below is the r-th smallest segment id; row 0 is void.
    ids = np.array([0] + [info['id'] for info in infos], np.int64)
    rows = _rows(segments, ids)  # (H, W)
    category = np.zeros(len(ids), np.uint8)
    for row, info in enumerate(infos, start=1):
        if info['category_id'] not in category_ids:
            raise ValueError(
                f'Segment {info["id"]} has category {info["category_id"]}, which the category list '
                "lacks; complete the JSON's 'categories'."
            )
        category[row] = category_ids[info['category_id']]

    row_of = {info['id']: row for row, info in enumerate(infos, start=1)}
    things = []
    for info in segments_info:
        row = row_of[info['id']]
        # A crowd is many things in one segment, so it has no instance number.
        if int(category[row]) in thing_ids and not info.get('iscrowd', 0):
            things.append(row)
    # The areas are counted: the annotation's own are optional. Sorting keeps the annotation's
    # order among things of equal size.
    areas = np.bincount(rows.ravel(), minlength=len(ids))
    things.sort(key=lambda row: -areas[row])
    instance = np.zeros(len(ids), np.uint8)
    for number, row in enumerate(things[:255], start=1):
        instance[row] = number
    return category[rows], instance[rows]


def _rows(segments: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(H, W) positions of the segment ids in the ascending `ids`, which must hold them all."""
    repeated = ids[1:][np.diff(ids) == 0]
    if len(repeated):
        raise ValueError(
            f'segments_info describes segment {repeated[0]} twice (or uses 0, which is void); each '
            'id may occur once: restore the original annotation.'
        )
    # `searchsorted` gives len(ids) for an id that is larger than all others.
    rows = np.minimum(np.searchsorted(ids, segments), len(ids) - 1)
    unknown = np.unique(segments[ids[rows] != segments])
    if len(unknown):
        raise ValueError(
            f'{len(unknown)} segment ids of the PNG, the first {unknown[0]}, are not in the '
            "annotation's segments_info; take PNG and JSON from the same release."
        )
    return rows


def from_maps(
    category: np.ndarray, instance: np.ndarray, categories: Sequence[Category]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A panoptic PNG of two maps; `to_maps` inverts it where things are numbered by size.

    Args:
      category: (H, W) uint8 ids, 0 for void.
      instance: (H, W) uint8, 0 for no instance.
      categories: The list that the ids refer to.

    Returns:
      colours: (H, W, 3) uint8. Each (category, instance) pair is one segment with the segment id
        category + 256 * instance. Void stays 0 whatever its instance.
      segments_info: The segments by instance and then by category: 'id', 'category_id', 'area'
        (pixels), 'bbox' [x, y, width, height] and 'iscrowd' (1 for things without an instance
        number).

    Raises:
      ValueError: a pixel's category is not in the list.
    """
    is_thing = {entry.id: entry.is_thing for entry in categories}
    # In uint8, 256 * instance would overflow.
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
        left = int(columns.min())
        top = int(rows.min())
        width = int(columns.max()) - left + 1
        height = int(rows.max()) - top + 1
        # A thing without a number may be several things, which COCO calls a crowd.
        is_crowd = is_thing[number] and segment < 256
        segments_info.append(
            {
                'id': segment,
                'category_id': number,
                'area': len(rows),
                'bbox': [left, top, width, height],
                'iscrowd': int(is_crowd),
            }
        )
    return segment_colours(segments), segments_info
