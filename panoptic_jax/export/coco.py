"""Generated maps as COCO-panoptic results: PNGs of segment ids, and one panoptic.json.

`data/instances.py` finds the things of a generated map. `data/panoptic_png.py` defines the format
of the PNGs and reads it, and `export/samples.py` writes the PNGs.
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
    identifiers, rows, areas = np.unique(
        np.where(category > 0, keys, 0), return_inverse=True, return_counts=True
    )
    rows = rows.reshape(category.shape)
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
