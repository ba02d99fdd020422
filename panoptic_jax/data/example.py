"""What every data source gives to preparation: captioned, labelled images and a category list.

The sources are `data/coco.py`, `data/folder.py` and `data/scenes.py`. `data/geometry.py` crops,
resizes and pools an example, and `preparation/shard_records.py` encodes it.
"""

from typing import NamedTuple

import numpy as np


class Category(NamedTuple):
    """One entry of a data set's category list; `id` is 1..254 for things and for stuff."""

    id: int
    name: str
    is_thing: bool


class Example(NamedTuple):
    """A captioned image with its panoptic map, at the source's own resolution.

    Attributes:
      image: (H, W, 3) uint8 RGB.
      category: (H, W) uint8, 0 for void, 1..254 for categories; None if the source has no maps.
      instance: (H, W) uint8, 0 for void, stuff and crowds. The things of one image are numbered
        from 1 over all categories, and the largest thing is 1. None where `category` is None.
      captions: At least one sentence.
      image_id: The source's number of the image.
    """

    image: np.ndarray  # (H, W, 3)
    category: np.ndarray | None  # (H, W)
    instance: np.ndarray | None  # (H, W)
    captions: list[str]
    image_id: int


def taken(available: int, limit: float) -> int:
    """How many images of a split a source takes, from the first.

    Args:
      available: The images that it could take.
      limit: Their number; 0 takes all, and a number between 0 and 1 this share of them, at least
        one.
    """
    if limit == 0:
        return available
    wanted = max(1, round(limit * available)) if limit < 1 else int(limit)
    return min(wanted, available)
