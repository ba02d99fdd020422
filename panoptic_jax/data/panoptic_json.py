"""COCO-panoptic JSON files that belong to single maps or to samples: read and checked.

`data/coco_annotations.py` reads those of whole data sets, and `data/panoptic_png.py` knows what the
colours of the PNGs mean.
"""

from typing import Annotated

import msgspec
from etils import epath

from panoptic_jax.data import checked_json
from panoptic_jax.data.example import Category

_WORDS = {
    '': 'it must be a COCO-panoptic JSON, with annotations and categories',
    'annotations.file_name': 'the name of a PNG',
    'annotations.segments_info': 'a list of segments',
    'annotations.segments_info.id': 'an integer from 1 to 16777215',
    'annotations.segments_info.category_id': 'an integer',
    'categories.id': 'an integer',
    'categories.name': 'a text',
    'categories.isthing': '0 or 1',
}


class Segment(msgspec.Struct):
    """A segment of a map: its number in the PNG, its category, whether it is a crowd."""

    id: Annotated[int, msgspec.Meta(gt=0, lt=2**24)]
    category_id: Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
    iscrowd: bool | int = 0


class Annotation(msgspec.Struct):
    """What one PNG shows."""

    file_name: str
    segments_info: list[Segment]


class Listed(msgspec.Struct):
    """An entry of the list of categories."""

    id: Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
    name: str
    isthing: bool | Annotated[int, msgspec.Meta(ge=0, le=1)] = 0


class Panoptic(msgspec.Struct):
    """The content of a file, as far as maps need it."""

    annotations: list[Annotation]
    categories: list[Listed]

    def listed(self) -> list[Category]:
        """The list of categories, with the file's own ids."""
        return [Category(c.id, c.name, is_thing=bool(c.isthing)) for c in self.categories]


def read(path: epath.Path, fix: str) -> Panoptic:
    """Reads a file.

    Args:
      path: The JSON file.
      fix: What the user can do about a missing or damaged file, for the message.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: it is not valid JSON, or an entry is not what it must be.
    """
    content, _ = checked_json.read(path, Panoptic, words=_WORDS, fix=fix)
    return content
