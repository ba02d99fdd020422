"""Generated maps as COCO-panoptic results: PNGs of segment ids, and one panoptic.json.

A generated map knows categories only, so this module cuts the things into connected segments.
`data/panoptic_png.py` defines the format of the PNGs and reads it, and `export/samples.py` writes
the PNGs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from scipy import ndimage

from panoptic_jax.data import panoptic_png
from panoptic_jax.data.example import Category
from panoptic_jax.machine import files


def segments(
    category: np.ndarray, categories: Sequence[Category]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Cuts a category map into panoptic segments.

    Each stuff category is one segment, and so is each 4-connected area of a thing category. Void
    stays void.

    Args:
      category: (H, W) uint8 ids, 0 for void. COCO wants the size of the image, so the map must be
        enlarged first.
      categories: The list that the ids refer to.

    Returns:
      colours: (H, W, 3) uint8, the content of the PNG. The id R + 256 G + 65536 B of a segment is
        category + 256 n. n is 0 for stuff, and it numbers all things of the map from 1, the largest
        first.
      segments_info: `id`, `category_id`, `area` in pixels, `bbox` [left, top, width, height] in
        pixels and `iscrowd` 0. The stuff comes first, then the things from large to small.

    Raises:
      ValueError: a pixel's category is not in the list.
    """
    is_thing = {entry.id: entry.is_thing for entry in categories}
    labels, owners = _label_segments(category, is_thing)
    areas = np.bincount(labels.ravel(), minlength=len(owners) + 1)[1:]
    boxes = ndimage.find_objects(labels)

    def rank(segment: int) -> tuple[bool, int]:
        return is_thing[owners[segment]], -areas[segment]

    # Row r is the id of label r; row 0 is void.
    identifiers = np.zeros(len(owners) + 1, np.int32)
    segments_info = []
    things = 0
    for segment in sorted(range(len(owners)), key=rank):
        owner = owners[segment]
        # Stuff comes first, so the count is still 0 for all of it.
        things += is_thing[owner]
        identifier = owner + 256 * things
        identifiers[segment + 1] = identifier
        rows, columns = boxes[segment]
        width = columns.stop - columns.start
        height = rows.stop - rows.start
        segments_info.append(
            {
                'id': int(identifier),
                'category_id': owner,
                'area': int(areas[segment]),
                'bbox': [columns.start, rows.start, width, height],
                'iscrowd': 0,
            }
        )
    return panoptic_png.segment_colours(identifiers[labels]), segments_info


def _label_segments(
    category: np.ndarray, is_thing: Mapping[int, bool]
) -> tuple[np.ndarray, list[int]]:
    """Numbers the segments of a map.

    Returns:
      labels: (H, W) int32; 0 for void, n + 1 in segment n.
      owners: For each segment its category.
    """
    labels = np.zeros(category.shape, np.int32)  # (H, W)
    owners: list[int] = []
    for number in np.unique(category[category > 0]).tolist():
        if number not in is_thing:
            raise ValueError(
                f'The map holds category {number}, which is none of the {len(is_thing)} listed; '
                'decode it with the valid codes of its data set.'
            )
        mask = category == number  # (H, W)
        if is_thing[number]:
            # Without a structure, `label` joins pixels by their sides and not by their corners.
            areas, count = ndimage.label(mask)
        else:
            areas, count = mask.astype(np.int32), 1
        labels += np.where(mask, areas + len(owners), 0)
        owners += [number] * count
    return labels, owners


def write_panoptic_json(
    path: epath.PathLike,
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    categories: Sequence[Category],
) -> None:
    """Writes the JSON that belongs to the PNGs; the file is there whole or not at all.

    Args:
      path: The JSON file, local or remote.
      images: For each image `id`, `file_name`, `width`, `height`, and anything else.
      annotations: For each map `image_id`, the `file_name` of its PNG, and the `segments_info` that
        `segments` gives.
      categories: The list that `category_id` refers to.

    Raises:
      ValueError: images and maps do not belong together one to one.
    """
    image_ids = sorted(image['id'] for image in images)
    map_ids = sorted(annotation['image_id'] for annotation in annotations)
    # An id that occurs twice in both lists would pass the comparison.
    if image_ids != map_ids or len(set(image_ids)) < len(image_ids):
        raise ValueError(
            f'{path} would hold {len(image_ids)} images ({len(set(image_ids))} different ids) and '
            f'{len(map_ids)} annotations, {len(set(image_ids) & set(map_ids))} of them for one of '
            'these images; expected exactly one annotation per image id'
        )
    content = {
        'images': [*images],
        'annotations': [*annotations],
        'categories': [_category_json(category) for category in categories],
    }
    files.write_whole(path, json.dumps(content))


def _category_json(category: Category) -> dict[str, Any]:
    """A category in COCO's form, in which `isthing` is 0 or 1."""
    return {
        'id': category.id,
        'name': category.name,
        'supercategory': 'thing' if category.is_thing else 'stuff',
        'isthing': int(category.is_thing),
    }
