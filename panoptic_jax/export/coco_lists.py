"""COCO's lists of a set of pairs: captions, panoptic segments, and things with their masks.

They are written line by line from the records of the pairs, so that no number of pairs takes more
memory. `data/coco.py` reads such a folder.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from etils import epath

from panoptic_jax.data import geometry
from panoptic_jax.data.example import Category
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.export import records
from panoptic_jax.export.layout import Layout
from panoptic_jax.export.records import Record
from panoptic_jax.machine import files

_SIZE = {'width': geometry.IMAGE_SIDE, 'height': geometry.IMAGE_SIDE}
_MASK = [geometry.IMAGE_SIDE, geometry.IMAGE_SIDE]  # height and width
_encode = msgspec.json.Encoder().encode

Section = Callable[[Iterable[Record]], Iterator[dict[str, Any]]]


def write(
    layout: Layout,
    source: epath.PathLike,
    categories: CategoryList,
    *,
    has_maps: bool,
    rejected: bool,
) -> None:
    """Writes the lists; each is there whole or not at all.

    Args:
      layout: The set.
      source: The file of its records, which is read several times.
      categories: The model's, with the source's ids, which the lists have.
      has_maps: Whether the pairs have maps.
      rejected: True lists the pairs that were rejected, False those that were kept.
    """
    numbers = zip(categories.entries, categories.source_ids, strict=True)
    listed = [category._replace(id=source_id) for category, source_id in numbers]

    def lines() -> Iterator[Record]:
        every = records.read_lines(source)
        return (line for line in every if bool(line.rejected) == rejected)

    _write(layout.captions_list, lines, {'annotations': _captions}, {})
    if not has_maps:
        return
    named = {'categories': [_category_json(category) for category in listed]}
    _write(layout.panoptic_list, lines, {'annotations': _panoptic}, named)
    named = {'categories': [_category_json(each) for each in listed if each.is_thing]}
    _write(layout.instances_list, lines, {'annotations': _instances}, named)


def _write(
    path: epath.Path,
    lines: Callable[[], Iterator[Record]],
    sections: dict[str, Section],
    rest: dict[str, Any],
) -> None:
    with files.assembling(path) as place, open(place, 'wb') as file:
        opening = b'{'
        for name, entries in ({'images': _images} | sections).items():
            file.write(opening + _encode(name) + b':[')
            separator = b'\n'
            for entry in entries(lines()):
                file.write(separator + _encode(entry))
                separator = b',\n'
            file.write(b'\n]')
            opening = b',\n'
        for name, content in rest.items():
            file.write(opening + _encode(name) + b':' + _encode(content))
        file.write(b'}\n')


def _images(lines: Iterable[Record]) -> Iterator[dict[str, Any]]:
    for record in lines:
        yield {'id': record.id, 'file_name': record.file_name, **_SIZE}


def _captions(lines: Iterable[Record]) -> Iterator[dict[str, Any]]:
    # A pair has one caption, and the numbers of COCO's annotations begin with 1.
    for number, record in enumerate(lines, start=1):
        yield {'id': number, 'image_id': record.id, 'caption': record.request['caption']}


def _panoptic(lines: Iterable[Record]) -> Iterator[dict[str, Any]]:
    for record in lines:
        segments = [_panoptic_segment(segment) for segment in record.segments_info]
        yield {
            'image_id': record.id,
            'file_name': f'{record.stem}.png',
            'segments_info': segments,
        }


def _panoptic_segment(segment: records.Segment) -> dict[str, Any]:
    content = msgspec.to_builtins(segment)
    # A segment's mask is in the PNG.
    return {name: value for name, value in content.items() if name != 'counts'}


def _instances(lines: Iterable[Record]) -> Iterator[dict[str, Any]]:
    number = 0
    for record in lines:
        for segment in record.segments_info:
            if not segment.counts:
                continue
            number += 1
            yield {
                'id': number,
                'image_id': record.id,
                'category_id': segment.category_id,
                'area': segment.area,
                'bbox': segment.bbox,
                'iscrowd': segment.iscrowd,
                'segmentation': {'size': _MASK, 'counts': segment.counts},
            }


def _category_json(category: Category) -> dict[str, Any]:
    """A category in COCO's form, in which `isthing` is 0 or 1."""
    return {
        'id': category.id,
        'name': category.name,
        'supercategory': 'thing' if category.is_thing else 'stuff',
        'isthing': int(category.is_thing),
    }
