"""Scores every pair of a finished folder, and sums the folder up.

    scores.jsonl    a line for each pair: its scores, and the training image that is nearest to it
    quality.json    the figures of the whole set; written last

The pairs are only read. A job that draws pairs scores them as it goes, with the same functions.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from etils import epath

from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import files
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.quality import comparison, looks, nearest, scores
from panoptic_jax.quality.scores import Measures, Pair
from panoptic_jax.quality.summary import Summary
from panoptic_jax.quality.training import Training

SCORES, QUALITY = 'scores.jsonl', 'quality.json'
_HELD = 8192  # pairs whose looks are searched together, 32 MB


class Pairs(Protocol):
    """A folder of pairs with maps, such as `scoring.folder.Folder` or that of `export/pairs.py`."""

    entries: Sequence[Mapping[str, Any]]

    def image(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8."""

    def segments(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(h, w) category ids and numbers of things."""


class Beside(NamedTuple):
    """Real data that the pairs are held against.

    Attributes:
      reference: True maps, see `summary_of`; None for none.
      training: Training images; None where no copies are looked for.
    """

    reference: Summary | None = None
    training: Training | None = None


NOTHING = Beside()


def score_folder(
    pairs: Pairs,
    target: epath.Path,
    measures: Measures,
    *,
    suffix: str = '',
    beside: Beside = NOTHING,
    interruption: Interruption = UNINTERRUPTED,
) -> dict[str, Any]:
    """Scores all pairs and writes both files; returns the content of quality.json.

    Args:
      pairs: The pairs.
      target: The folder that the files go to.
      measures: What the pairs are scored with.
      suffix: Ends the names of the files.
      beside: What they are held against.
      interruption: Asked between pairs; nothing is written then.

    Raises:
      Interrupted: SIGTERM came.
      FileNotFoundError, ValueError: the errors of `pairs`.
    """
    total = Summary(measures.thing_ids)
    lines: list[dict[str, Any]] = []
    found = []
    progress = Progress('evaluate', 'pairs scored', len(pairs.entries))
    for first in range(0, len(pairs.entries), _HELD):
        own_looks = []
        for number in range(first, min(first + _HELD, len(pairs.entries))):
            interruption.leave_if_asked()
            pair, own = _scored(pairs, number, measures)
            own_looks.append(looks.look(pair.image, pair.category))
            total.add(
                pair.category,
                pair.instance,
                pair.image.shape[:2],
                scores=own,
                look=own_looks[-1],
            )
            lines.append({'file_name': pairs.entries[number]['file_name'], **own})
            progress.add()
        if beside.training:
            found.append(beside.training.search(np.stack(own_looks)))
    content = comparison.figures(total, measures.categories, beside.reference)
    if beside.training:
        joined = nearest.Found(*map(np.concatenate, zip(*found, strict=True)))
        content['nearest'] = beside.training.near.to_json(joined)
        for line, near in zip(lines, nearest_of(joined, beside.training), strict=True):
            line['nearest'] = near
    target.mkdir(parents=True, exist_ok=True)
    files.write_whole(
        _with(suffix, target / SCORES), ''.join(json.dumps(line) + '\n' for line in lines)
    )
    # Last: its presence says that the lines are all there.
    files.write_json(_with(suffix, target / QUALITY), content)
    return content


def _with(suffix: str, path: epath.Path) -> epath.Path:
    """The path with a suffix before its ending: 'quality_other.json'."""
    return path.with_name(f'{path.stem}{suffix}{path.suffix}')


def _scored(pairs: Pairs, number: int, measures: Measures) -> tuple[Pair, scores.Scores]:
    entry = pairs.entries[number]
    # Others' pairs may have several captions, or none.
    caption = entry.get('caption') or next(iter(entry.get('captions', ())), '')
    pair = Pair(pairs.image(number), *pairs.segments(number), caption)
    return pair, scores.score(pair, measures)


def nearest_of(found: nearest.Found, training: Training) -> list[dict[str, Any]]:
    """For each pair its nearest training image, JSON-able."""
    copies, ratios = training.near.copies(found), found.ratios
    return [
        {
            'image': training.names[found.numbers[row]],
            'distance': round(float(found.distances[row]), 4),
            'ratio': round(float(ratios[row]), 4),
            'mirrored': bool(found.mirrored[row]),
            'near_copy': bool(copies[row]),
        }
        for row in range(len(copies))
    ]


def summary_of(
    maps: Iterable[tuple[np.ndarray, np.ndarray, str]],
    measures: Measures,
    image_size: tuple[int, int],
    own_looks: np.ndarray | None = None,
) -> Summary:
    """The summary of a reference split, with the scores that true maps have.

    Args:
      maps: (h, w) category ids and numbers of things, and a caption, of each image.
      measures: What the pairs are scored with, too.
      image_size: Height and width of the images, at which things are small or large.
      own_looks: (n, d) looks of the images, for their diversity; None for none.
    """
    total = Summary(measures.thing_ids)
    for number, (category, instance, caption) in enumerate(maps):
        own: scores.Scores = dict(scores.of_map(category, instance, measures.thing_ids))
        own['captioned'] = scores.captioned(category, measures.vocabulary.named(caption))
        look = None if own_looks is None else own_looks[number]
        total.add(category, instance, image_size, scores=own, look=look)
    return total
