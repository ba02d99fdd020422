"""What every data source hands to `prepare`: one labelled picture and the category list.

Sources (`coco.py`, `scenes.py`) produce these; encoding, cropping and pooling happen later.
"""

from typing import NamedTuple

import numpy as np


class Category(NamedTuple):
    """One entry of a data set's category list; `id` is 1..254, things and stuff alike."""

    id: int
    name: str
    is_thing: bool


class Example(NamedTuple):
    """A captioned picture with its panoptic map, at the source's own resolution.

    Attributes:
      image: (H, W, 3) uint8 RGB.
      category: (H, W) uint8, 0 void, 1..254 category ids; None of a source without maps.
      instance: (H, W) uint8, 0 for void, stuff and crowd; the things of one picture are numbered
        from 1, largest first over all categories. None where `category` is.
      captions: at least one sentence.
      image_id: the source's number of the picture.
    """

    image: np.ndarray
    category: np.ndarray | None
    instance: np.ndarray | None
    captions: list[str]
    image_id: int
