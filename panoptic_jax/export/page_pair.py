"""A pair as the page gets it, and what the page's script reads of it.

The script has a row of every pair, by which it searches, filters and sorts, and loads the rest of a
pair when it shows it. `export/page_files.py` writes both, and `export/report.py` the page itself.
"""

import base64
import math
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib import parse

import numpy as np

_KINDS = {b'\x89PNG': 'image/png', b'\xff\xd8\xff': 'image/jpeg', b'RIFF': 'image/webp'}


class Nearest(NamedTuple):
    """The training image that a generated image is most like.

    Attributes:
      image: Its path relative to the page, the content of a picture file, or an address; an address
        is shown as text, since the page asks no other host.
      distance: How far apart the two are, by whatever measure.
    """

    image: str | bytes
    distance: float


class PagePair(NamedTuple):
    """A generated image with its map.

    Attributes:
      id: A short name for readers, such as the number of the pair.
      caption: What both were generated from.
      image: The path of a picture file relative to the page, with / between its parts; or the
        content of one (PNG, JPEG, WebP), which costs the page's data as much. Shown as a square.
      category: (h, w) uint8 ids, 0 for void, best in the model's resolution.
      instance: (h, w) numbers of the things from 1, 0 for stuff; None where each category is one
        segment.
      scores: {name: number}; None where a score could not be computed.
      accepted: False for a pair that the job rejected.
      reason: Why it was rejected, in a few words.
      provenance: {name: value} of what it takes to draw the pair again.
      nearest: The nearest training image, if it was looked for.
    """

    id: str
    caption: str
    image: str | bytes
    category: np.ndarray
    instance: np.ndarray | None = None
    scores: Mapping[str, float | None] = {}
    accepted: bool = True
    reason: str = ''
    provenance: Mapping[str, Any] = {}
    nearest: Nearest | None = None


def segments(category: np.ndarray, instance: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The segments of a map, the largest first: each stuff category, each thing, and void.

    Args:
      category: (h, w) uint8 ids.
      instance: (h, w) numbers of the things, or None.

    Returns:
      labels: (h, w) the number of each pixel's segment, from 0.
      table: (n, 2) category and area in pixels of each segment.
    """
    keys = category.astype(np.int32)
    if instance is not None:
        keys += 256 * instance.astype(np.int32)
    found, labels, areas = np.unique(keys, return_inverse=True, return_counts=True)
    # A stable sort keeps segments of equal size in the order of their ids.
    order = np.argsort(-areas, kind='stable')
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    table = np.stack([found & 255, areas], axis=1)
    return ranks[labels.reshape(category.shape)], table[order]


def runs(labels: np.ndarray) -> str:
    """A map of labels as runs in base64: label, length, label, length and so on, row by row.

    Each number takes seven bits of a byte, the lowest first; the eighth bit says that more follow.
    A map takes a tenth to a fifth of the space that a byte for each pixel would take.
    """
    flat = labels.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    lengths = np.diff(np.append(starts, len(flat)))
    content = bytearray()
    for number in np.stack([flat[starts], lengths], axis=1).reshape(-1).tolist():
        while number > 127:
            content.append(number & 127 | 128)
            number >>= 7
        content.append(number)
    return base64.b64encode(content).decode('ascii')


def row(pair: PagePair, score_names: list[str]) -> list[Any]:
    """What the script knows of every pair: id, caption, scores, categories, whether accepted.

    Args:
      pair: The pair.
      score_names: The scores in the order of the row; names that are new are added.
    """
    score_names += [name for name in pair.scores if name not in score_names]
    scores = [_finite(pair.scores.get(name)) for name in score_names]
    categories = np.unique(pair.category).tolist()
    return [pair.id, pair.caption, scores, categories, int(pair.accepted)]


def detail(pair: PagePair) -> dict[str, Any]:
    """What the script needs to show a pair, but for its pictures, see `picture`."""
    labels, table = segments(pair.category, pair.instance)
    found = {
        'size': [*labels.shape],
        'runs': runs(labels),
        'segments': table.tolist(),
        'provenance': [[str(name), str(value)] for name, value in pair.provenance.items()],
    }
    if not pair.accepted:
        found['reason'] = pair.reason
    if pair.nearest:
        found['distance'] = _finite(pair.nearest.distance)
    return found


def picture(image: str | bytes) -> str:
    """The address of a picture: a data URL for content, a relative one for a path.

    Raises:
      ValueError: the path is not relative, or the content is no PNG, JPEG or WebP file.
    """
    if isinstance(image, bytes):
        kinds = [kind for start, kind in _KINDS.items() if image.startswith(start)]
        if not kinds:
            raise ValueError('A picture of the page is no PNG, JPEG or WebP file.')
        return f'data:{kinds[0]};base64,{base64.b64encode(image).decode("ascii")}'
    if image.startswith('/') or '://' in image:
        raise ValueError(f'{image} is not relative to the page; name pictures by relative paths.')
    # A name may hold characters that mean something in an address, such as '#'.
    return parse.quote(image)


def _finite(value: float | None) -> float | None:
    """A number that JSON can hold; None for the others."""
    # Six digits are more than anybody reads, and a third of what a float32 would print.
    return float(f'{value:.6g}') if value is not None and math.isfinite(value) else None
