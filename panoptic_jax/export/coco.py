"""Generated maps as COCO-panoptic results: PNGs of segment ids and one panoptic.json.

A generated map knows categories only; here things are cut into connected segments. The format's
reader and the ids' colours are `data/panoptic_png.py`.
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
    """Cuts a category map into panoptic segments: one per stuff category, one per 4-connected area
    of a thing category. Void stays void.

    Args:
      category: (H, W) uint8 ids, 0 void. COCO wants the picture's size: enlarge the map first.
      categories: the list that the ids refer to.

    Returns:
      colours: (H, W, 3) uint8, the PNG's content. A segment's id R + 256 G + 65536 B is
        category + 256 n; n is 0 for stuff and numbers all things of the map from 1, largest first.
      segments_info: `id`, `category_id`, `area` in pixels, `bbox` [left, top, width, height] in
        pixels and `iscrowd` 0, stuff first, then things from large to small.

    Raises:
      ValueError: a pixel's category is not in the list.
    """
    is_thing = {entry.id: entry.is_thing for entry in categories}
    labels = np.zeros(category.shape, np.int32)  # 1..n in the order of `owners`
    owners: list[int] = []
    for number in np.unique(category[category > 0]).tolist():
        if number not in is_thing:
            raise ValueError(
                f'The map holds category {number}, which is none of the {len(is_thing)} listed; '
                'decode it with the valid codes of its data set.'
            )
        own = category == number
        areas, count = ndimage.label(own) if is_thing[number] else (own.astype(np.int32), 1)
        labels += np.where(own, areas + len(owners), 0)
        owners += [number] * count

    areas = np.bincount(labels.ravel(), minlength=len(owners) + 1)[1:]
    order = sorted(range(len(owners)), key=lambda i: (is_thing[owners[i]], -areas[i]))
    boxes = ndimage.find_objects(labels)
    identifiers = np.zeros(len(owners) + 1, np.int32)
    segments_info, things = [], 0
    for i in order:
        things += is_thing[owners[i]]
        identifiers[i + 1] = owners[i] + 256 * things
        rows, columns = boxes[i]
        segments_info.append(
            {
                'id': int(identifiers[i + 1]),
                'category_id': owners[i],
                'area': int(areas[i]),
                'bbox': [
                    columns.start,
                    rows.start,
                    columns.stop - columns.start,
                    rows.stop - rows.start,
                ],
                'iscrowd': 0,
            }
        )
    return panoptic_png.segment_colours(identifiers[labels]), segments_info


def write_panoptic_json(
    path: epath.PathLike,
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    categories: Sequence[Category],
) -> None:
    """Writes the JSON that goes with the PNGs; the file is there whole or not at all.

    Args:
      path: local or remote.
      images: per picture `id`, `file_name`, `width`, `height`, and anything else.
      annotations: per map `image_id`, `file_name` of its PNG and `segments_info` of `segments`.
      categories: the list that `category_id` refers to.

    Raises:
      ValueError: pictures and maps do not belong together one to one.
    """
    pictures = sorted(image['id'] for image in images)
    maps = sorted(annotation['image_id'] for annotation in annotations)
    if pictures != maps or len(set(pictures)) < len(pictures):
        raise ValueError(
            f'{path} would hold {len(pictures)} images ({len(set(pictures))} different ids) and '
            f'{len(maps)} annotations, {len(set(pictures) & set(maps))} of them for one of these '
            'images; expected exactly one annotation per image id'
        )
    listed = [
        {
            'id': entry.id,
            'name': entry.name,
            'supercategory': 'thing' if entry.is_thing else 'stuff',
            'isthing': int(entry.is_thing),
        }
        for entry in categories
    ]
    content = {'images': [*images], 'annotations': [*annotations], 'categories': listed}
    files.write_whole(path, json.dumps(content))
