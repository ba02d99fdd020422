"""Panoptic quality: how well the segments of predicted maps match those of true maps.

PQ = SQ x RQ (Kirillov et al. 2019): segments of one category match where their intersection is more
than half of their union; SQ is the mean of these shares, and RQ counts matches against what is
missed and invented. Void and crowds of the truth are treated as COCO's panopticapi treats them.
Counts of images add up, so no map has to be kept. `data/instances.py` finds the things of maps.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

_IDS = 256  # category ids are uint8
_NUMBERS = 1 << 24  # more than the things of any map


class Counts(NamedTuple):
    """What images add up to, for each category id; two of them are added by `added`.

    Attributes:
      overlap: (256,) float64, sum of the matches' intersections over unions.
      matched: (256,) int64, matched segments.
      invented: (256,) int64, predicted segments without a match.
      missed: (256,) int64, true segments without a match.
    """

    overlap: np.ndarray
    matched: np.ndarray
    invented: np.ndarray
    missed: np.ndarray


class Quality(NamedTuple):
    """Three qualities from 0 to 1, and the number of categories that they are means of.

    Attributes:
      pq: Panoptic quality.
      sq: Segmentation quality.
      rq: Recognition quality.
      categories: 0 where neither truth nor prediction has any; the qualities are 0 then.
    """

    pq: float
    sq: float
    rq: float
    categories: int


def none() -> Counts:
    """The counts of no image."""
    whole = [np.zeros(_IDS, np.int64) for _ in range(3)]
    return Counts(np.zeros(_IDS), *whole)


def added(one: Counts, other: Counts) -> Counts:
    """The counts of the images of both."""
    return Counts(*(a + b for a, b in zip(one, other, strict=True)))


def count(
    truth: tuple[np.ndarray, np.ndarray],
    prediction: tuple[np.ndarray, np.ndarray],
    thing_ids: Collection[int],
) -> Counts:
    """Compares the segments of one image.

    A segment is a stuff category, or a thing's (category, instance) pair. Category 0 is void. True
    things without an instance number are a crowd: nobody has to find it, and what is predicted of
    its category inside it is no mistake. Void of the truth is no part of unions, and a predicted
    segment with more than half of its pixels in void or in its crowd is not counted as invented.

    Args:
      truth: Category and instance, (H, W) unsigned integers each; categories below 256.
      prediction: The same of the predicted map. Things without an instance number are one segment.
      thing_ids: Categories that are things.

    Raises:
      ValueError: the maps have different shapes.
    """
    shapes = {array.shape for array in (*truth, *prediction)}
    if len(shapes) > 1:
        raise ValueError(f'maps to compare have the shapes {sorted(shapes)}; all must have one.')
    is_thing = np.zeros(_IDS, bool)
    is_thing[list(thing_ids)] = True
    true_segments, true_rows = _segments(*truth, is_thing)
    segments, rows = _segments(*prediction, is_thing)
    pairs = np.bincount(
        true_rows * len(segments) + rows, minlength=len(true_segments) * len(segments)
    )
    common = pairs.reshape(len(true_segments), len(segments))  # pixels; row and column 0 are void
    true_categories, categories = true_segments // _NUMBERS, segments // _NUMBERS
    is_crowd = is_thing[true_categories] & (true_segments % _NUMBERS == 0)

    in_void = common[0]
    unions = common.sum(axis=1)[:, None] + common.sum(axis=0) - common - in_void
    same = (true_categories[:, None] == categories) & ~is_crowd[:, None]
    same[0] = False
    # Void against void is the only union that can be empty.
    shares = np.where(same, common, 0) / np.maximum(unions, 1)
    # Each segment has at most one match, since more than half of a union is common.
    matches = shares > 0.5
    matched = true_categories[matches.any(axis=1)]

    # Where a predicted segment's category has a crowd, the crowd's pixels are excused as void's.
    excused = in_void + np.where(
        is_crowd[:, None] & (true_categories[:, None] == categories), common, 0
    ).sum(axis=0)
    is_invented = ~matches.any(axis=0) & (2 * excused <= common.sum(axis=0))
    is_invented[0] = False
    is_missed = ~matches.any(axis=1) & ~is_crowd
    is_missed[0] = False
    return Counts(
        overlap=np.bincount(matched, shares.max(axis=1)[matches.any(axis=1)], minlength=_IDS),
        matched=np.bincount(matched, minlength=_IDS),
        invented=np.bincount(categories[is_invented], minlength=_IDS),
        missed=np.bincount(true_categories[is_missed], minlength=_IDS),
    )


def _segments(
    category: np.ndarray, instance: np.ndarray, is_thing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The segments of a map, category * _NUMBERS + instance and void first; each pixel's row."""
    category = category.astype(np.int64).ravel()
    numbers = np.where(is_thing[category], instance.astype(np.int64).ravel(), 0)
    # A void pixel more than the map has, so that void always has row 0.
    segments, rows = np.unique(np.append(category * _NUMBERS + numbers, 0), return_inverse=True)
    return segments, rows[:-1]


def by_category(counts: Counts) -> dict[int, Quality]:
    """{category id: its quality} of the categories that truth or predictions have."""
    halves = counts.matched + (counts.invented + counts.missed) / 2
    found = {}
    for number in np.flatnonzero(halves).tolist():
        matched, overlap = counts.matched[number], counts.overlap[number]
        pq, rq = overlap / halves[number], matched / halves[number]
        sq = overlap / max(matched, 1)
        found[number] = Quality(float(pq), float(sq), float(rq), categories=1)
    return found


def qualities(counts: Counts, thing_ids: Collection[int]) -> dict[str, Quality]:
    """Means over all categories, over things and over stuff: {'all', 'things', 'stuff'}.

    Categories that neither truth nor predictions have are no part of a mean.
    """
    each = by_category(counts)
    things = [quality for number, quality in each.items() if number in thing_ids]
    stuff = [quality for number, quality in each.items() if number not in thing_ids]
    return {'all': _mean(things + stuff), 'things': _mean(things), 'stuff': _mean(stuff)}


def _mean(each: list[Quality]) -> Quality:
    if not each:
        return Quality(0.0, 0.0, 0.0, categories=0)
    pq, sq, rq, _ = np.mean(each, axis=0).tolist()
    return Quality(pq, sq, rq, categories=len(each))
