"""Where the pictures and lists of a folder of pairs are: in COCO's layout, or in the plain one.

`export/pairs.py` has both layouts and reads the pictures.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from etils import epath

from panoptic_jax.data import checked_json, coco_annotations
from panoptic_jax.export import records
from panoptic_jax.export.layout import Layout

_FIX = 'restore it, or leave it out'
_WORDS = {
    '': 'it must be a list of pictures, each with file_name and, if it has one, caption',
    'file_name': 'the name of a picture',
    'caption': 'a text',
    'captions': 'a list of texts',
}


class _Entry(msgspec.Struct):
    file_name: str
    caption: str = ''
    captions: list[str] = []


class _Image(msgspec.Struct):
    id: int | str
    file_name: str


class _Images(msgspec.Struct):
    images: list[_Image]


class Places(NamedTuple):
    """Where things are.

    Attributes:
      images: The folder of the images.
      maps: The folder of the maps.
      captions: The list of the pairs; may be missing in the plain layout.
      panoptic: The list of the segments; missing where there are no maps.
      is_plain: Whether it is the plain layout.
    """

    images: epath.Path
    maps: epath.Path
    captions: epath.Path
    panoptic: epath.Path
    is_plain: bool


def find(folder: epath.Path) -> Places:
    """The places of a folder.

    Raises:
      FileNotFoundError: it is a folder of neither layout.
      ValueError: it has several sets of pairs.
    """
    if (folder / 'images').is_dir():
        return Places(
            folder / 'images',
            folder / 'panoptic',
            folder / 'captions.json',
            folder / 'panoptic.json',
            is_plain=True,
        )
    names = _names_of_sets(folder)
    if len(names) > 1:
        raise ValueError(
            f'{folder} has the sets {", ".join(names)}; keep the annotations of one of them.'
        )
    if not names:
        raise FileNotFoundError(
            f'{folder} has no folder images/ and no annotations/captions_NAME.json; put the '
            'pictures there.'
        )
    layout = Layout(folder, names[0])
    return Places(
        layout.images,
        layout.maps,
        layout.captions_list,
        layout.panoptic_list,
        is_plain=False,
    )


def _names_of_sets(folder: epath.Path) -> list[str]:
    """The sets whose lists are in COCO's folder of annotations."""
    annotations = folder / 'annotations'
    if not annotations.is_dir():
        return []
    names = sorted(path.name for path in annotations.iterdir())
    begin, end = 'captions_', '.json'
    listed = [name[len(begin) : -len(end)] for name in names if name.startswith(begin)]
    return [name for name in listed if f'{begin}{name}{end}' in names]


def read_entries(folder: epath.Path, places: Places) -> list[dict[str, Any]]:
    """One dict for each pair with 'file_name' and what its list says besides.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the list has the wrong content, or names no pictures.
    """
    if places.is_plain:
        entries = _read_plain(places.captions)
    else:
        records_path = Layout(folder, places.images.name).records
        lines = records.read_lines(records_path)
        entries = [_of_record(line) for line in lines if not line.rejected]
        entries = entries or _read_coco(places.captions)
    if not entries:
        raise ValueError(f'{places.captions} holds no list of pictures.')
    return entries


def _read_plain(path: epath.Path) -> list[dict[str, Any]]:
    """The entries of a captions.json, checked, with all their fields."""
    checked_json.read(path, list[_Entry], words=_WORDS, fix=_FIX)
    return json.loads(path.read_bytes())


def _of_record(line: records.Record) -> Mapping[str, Any]:
    asked = {name: value for name, value in line.request.items() if name != 'id'}
    return {'id': line.id, 'file_name': line.file_name, **asked}


def _read_coco(path: epath.Path) -> list[dict[str, Any]]:
    """The images of a COCO captions file with their captions."""
    captions, _ = coco_annotations.read_captions(path, path.parent.parent)
    content, _ = checked_json.read(path, _Images, words={}, fix=_FIX)
    return [
        {'id': each.id, 'file_name': each.file_name, 'captions': captions[each.id]}
        for each in content.images
        if each.id in captions
    ]
