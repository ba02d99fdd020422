"""A drawn pair as the bytes of its files: the image, the panoptic PNG and the semantic PNG.

`export/samples.py` and `export/sample_tars.py` put them where they belong.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from panoptic_jax.data import geometry, instances
from panoptic_jax.data.categories import things_of
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.requests import Request, name_of
from panoptic_jax.export import coco, records, rle
from panoptic_jax.export.records import Record, Segment
from panoptic_jax.quality.judge import Judged

VOID = 255  # of semantic maps
# How each format is written. Losses of the others are below what is seen.
_SAVE: Mapping[str, Mapping[str, Any]] = {
    # The usual level 6 makes images a fifth smaller, in six times the time.
    'png': {'format': 'PNG', 'compress_level': 1},
    'jpg': {'format': 'JPEG', 'quality': 95, 'subsampling': 0},
    'webp': {'format': 'WEBP', 'quality': 95},
}
_MAP = {'format': 'PNG'}


class Drawn(NamedTuple):
    """A batch as the model drew it.

    Attributes:
      images: (B, 256, 256, 3) uint8.
      ids: (B, kh, kw) uint8 category ids, which are enlarged for the PNGs; None for a model without
        maps.
      instances: (B, kh, kw) the numbers of the things, see `instances.separate`; None where every
        connected area of a thing's category is a thing.
      judged: What is known of each pair.
    """

    images: np.ndarray
    ids: np.ndarray | None
    instances: np.ndarray | None
    judged: Sequence[Judged]


class PairFiles(NamedTuple):
    """The files of a pair.

    Attributes:
      image: In the format that was asked for.
      panoptic: A PNG of segment ids; None for a model without maps.
      semantic: A grey PNG of places in the list of categories, 255 for void; None without maps.
      segments_info: What the map shows, with the ids of the source; None without maps.
    """

    image: bytes
    panoptic: bytes | None = None
    semantic: bytes | None = None
    segments_info: list[Segment] | None = None


def of_pair(
    drawn: Drawn,
    row: int,
    *,
    number: int,
    request: Request,
    facts: Mapping[str, Any],
    categories: CategoryList,
) -> tuple[PairFiles, Record]:
    """The files of one pair of a batch, and its record.

    Args:
      drawn: The batch.
      row: The pair's.
      number: The pair's.
      request: What the pair was asked for.
      facts: From `sample_claim.promise`.
      categories: Those of the facts.
    """
    image_format = facts['sample']['image_format']
    own = encoded(drawn, row, categories, image_format)
    record = records.made(
        number,
        request,
        facts,
        file_name=f'{name_of(number, request)}.{image_format}',
        segments_info=own.segments_info,
        judged=drawn.judged[row],
    )
    return own, record


def encoded(drawn: Drawn, row: int, categories: CategoryList, image_format: str) -> PairFiles:
    """The files of one pair of a batch; the map is enlarged to the size of the image."""
    image = _saved(drawn.images[row], _SAVE[image_format])
    if drawn.ids is None:
        return PairFiles(image)
    things = things_of(categories.entries)
    if drawn.instances is None:
        own = instances.separate(drawn.ids[row], thing_ids=things)
    else:
        own = drawn.ids[row], drawn.instances[row]
    # COCO's tools expect a map in the size of its image.
    factor = geometry.IMAGE_SIDE // drawn.ids.shape[1]
    ids, numbers = (each.repeat(factor, axis=0).repeat(factor, axis=1) for each in own)
    colours, segments = coco.segments(ids, numbers, categories.entries)
    source_ids = {ours: theirs for theirs, ours in categories.our_ids().items()}
    infos = []
    for segment in segments:
        category = segment['category_id']
        counts = ''
        if category in things:
            counts = rle.encode((ids == category) & (numbers == segment['id'] >> 8))
        own_id = {'category_id': source_ids[category], 'counts': counts}
        infos.append(Segment(**segment | own_id))
    places = np.full(256, VOID, np.uint8)
    for place, entry in enumerate(categories.entries):
        places[entry.id] = place
    return PairFiles(image, _saved(colours, _MAP), _saved(places[ids], _MAP), infos)


def _saved(pixels: np.ndarray, options: Mapping[str, Any]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, **options)
    return content.getvalue()
