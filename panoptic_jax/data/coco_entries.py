"""What stands in COCO's annotation files: the form of their entries, and its description in words.

Nothing here reads files: `data/checked_json.py` does, for `data/coco_annotations.py`. Keys of COCO
that are not named here are of no use to us, and they may hold anything.
"""

from typing import Annotated

from msgspec import Meta, Struct

# Records store an image's id as int64.
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# ADE20K and Cityscapes number their images by names.
ImageId = Number | str
Flag = Annotated[int, Meta(ge=0, le=1)] | bool


class Image(Struct, gc=False):
    """An entry of a panoptic JSON's 'images'."""

    id: ImageId
    file_name: str


class Segment(Struct, gc=False):
    """An entry of an annotation's 'segments_info'; three bytes of a colour make the id."""

    id: Annotated[int, Meta(ge=1, le=2**24 - 1)]
    category_id: Number
    iscrowd: Flag | None = 0


class Annotation(Struct, gc=False):
    """The map of one image, an entry of a panoptic JSON's 'annotations'."""

    image_id: ImageId
    file_name: str
    segments_info: list[Segment]


class CategoryEntry(Struct, gc=False):
    """An entry of a list of categories."""

    id: Number
    name: str
    isthing: Flag


class Panoptic(Struct):
    """A panoptic JSON whose categories are in another file."""

    images: list[Image]
    annotations: list[Annotation]


class CategorisedPanoptic(Panoptic):
    """A panoptic JSON as COCO has it."""

    categories: list[CategoryEntry]


class Caption(Struct, gc=False):
    """One caption of an image."""

    image_id: ImageId
    caption: str


class Captions(Struct):
    """A captions file."""

    annotations: list[Caption]


_IMAGE_ID = 'a whole number of at most 64 bits, or a text'
_FLAG = '0 or 1'
# What an entry must be, for the sentence about a wrong one.
CATEGORY_WORDS = {
    'id': 'a whole number of at most 64 bits',
    'isthing': _FLAG,
    '': 'a list of categories is a JSON list, each entry of which needs id, name and isthing',
}
PANOPTIC_WORDS = {
    'images.id': _IMAGE_ID,
    'annotations.image_id': _IMAGE_ID,
    'annotations.segments_info.id': 'a whole number from 1 to 16777215',
    'annotations.segments_info.category_id': 'a whole number of at most 64 bits',
    'annotations.segments_info.iscrowd': _FLAG,
    **{f'categories.{name}': words for name, words in CATEGORY_WORDS.items() if name},
    '': (
        "a panoptic JSON of COCO's form has 'images' with id and file_name, 'annotations' with "
        "image_id, file_name and segments_info of id and category_id, and 'categories' with id, "
        'name and isthing'
    ),
}
CAPTIONS_WORDS = {
    'annotations.image_id': _IMAGE_ID,
    '': (
        "a captions file of COCO's form has 'annotations' with image_id and caption, which a file "
        'of instances lacks'
    ),
}
