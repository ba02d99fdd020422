"""Panoptic quality as scores: of maps against the true ones of a split, with yardsticks.

`metrics/pq.py` compares the segments of one image. `scoring/scene_scores.py` scores pairs of scenes
against what their own images show.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from panoptic_jax.data import geometry, instances
from panoptic_jax.data.categories import things_of
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.export import report
from panoptic_jax.machine import ahead
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.metrics import pq, semantic
from panoptic_jax.scoring.score import Score

Segments = tuple[np.ndarray, np.ndarray]  # category and instance

_YARDSTICK_IMAGES = 1000  # at most

_GROUPS = {'all': '', 'things': '_things', 'stuff': '_stuff'}
_READINGS = {
    'PQ': 'SQ times RQ, mean of the categories',
    'SQ': 'how much of each found segment overlaps',
    'RQ': 'how many segments are found, and how few invented',
}


class Tally(NamedTuple):
    """Counts of segments over some images.

    Attributes:
      counts: What they add up to.
      images: Their number.
    """

    counts: pq.Counts
    images: int


def tally(
    truths: Sequence[Segments] | Callable[[int], Segments],
    predictions: Sequence[Segments] | Callable[[int], Segments],
    count: int,
    *,
    thing_ids: frozenset[int],
    interruption: Interruption = UNINTERRUPTED,
) -> Tally:
    """Compares images 0..count - 1, one at a time.

    Args:
      truths: Category and instance of each image, as a list or a function of its number.
      predictions: The same, of what is scored.
      count: Number of images.
      thing_ids: Categories that are things.
      interruption: Asked between images.

    Raises:
      Interrupted: SIGTERM came.
    """
    counts = pq.none()
    true, predicted = (
        each if callable(each) else each.__getitem__ for each in (truths, predictions)
    )
    with contextlib.closing(ahead.in_order(predicted, range(count))) as drawn:
        for number, prediction in enumerate(drawn):
            interruption.leave_if_asked()
            counts = pq.added(counts, pq.count(true(number), prediction, thing_ids))
    return Tally(counts, count)


def score_segments(
    predictions: Sequence[Segments] | Callable[[int], Segments],
    indices: Sequence[int],
    split: Sequence,
    manifest: Manifest,
    *,
    interruption: Interruption = UNINTERRUPTED,
) -> list[Score]:
    """PQ, SQ and RQ of predicted maps against the true maps of their images.

    Their floor is what each true map scores as the next image's. Two yardsticks say what codes of
    instances give: 'connected areas' is what true maps score whose things are connected areas, and
    'own areas' what the predicted maps score so.

    Args:
      predictions: Category and instance of each map, (side, side), side a divisor of 128; void 0.
      indices: For each map the index in `split` of its image; at least one.
      split: Records of prepared data, at least 2.
      manifest: The split's data.
      interruption: Asked between images.

    Raises:
      Interrupted: SIGTERM came.
    """
    thing_ids = things_of(manifest.categories.entries)
    predicted = predictions if callable(predictions) else predictions.__getitem__
    side = predicted(0)[0].shape[0]

    def truth(index):
        return geometry.true_segments(split[index % len(split)], side, manifest.void_wins)

    def areas(segments):
        category, _ = segments
        return instances.separate(category, thing_ids=thing_ids)

    given = {'thing_ids': thing_ids, 'interruption': interruption}
    count = len(indices)
    known = min(len(split), _YARDSTICK_IMAGES)

    def own_truth(number):
        return truth(indices[number])

    own = tally(own_truth, predicted, count, **given)
    yardsticks = {
        'floor': tally(truth, lambda index: truth(index + 1), known, **given),
        'connected areas': tally(truth, lambda index: areas(truth(index)), known, **given),
        'own areas': tally(own_truth, lambda number: areas(predicted(number)), count, **given),
    }
    against = 'Against the true maps'
    return scores_of(own, yardsticks, thing_ids=thing_ids, against=against)


def score_pixels(
    predictions: Callable[[int], Segments],
    indices: Sequence[int],
    split: Sequence,
    manifest: Manifest,
    *,
    interruption: Interruption = UNINTERRUPTED,
) -> list[Score]:
    """Pixel accuracy and mean IoU of predicted maps; the arguments are those of `score_segments`.

    The floor compares with the next image's true map.
    """
    side = predictions(0)[0].shape[0]
    own = floor = 0
    with contextlib.closing(ahead.in_order(predictions, range(len(indices)))) as drawn:
        for index, (category, _) in zip(indices, drawn, strict=True):
            interruption.leave_if_asked()
            truth, other = (
                geometry.true_ids(split[i % len(split)], side, manifest.void_wins)
                for i in (index, index + 1)
            )
            own = own + semantic.confusion(truth, category)
            floor = floor + semantic.confusion(other, category)
    scores = []
    for name, measure, reading in (
        ('pixel_accuracy', semantic.pixel_accuracy, 'Share of pixels with the true category.'),
        ('mIoU', semantic.mean_iou, 'Intersection over union, mean of the categories.'),
    ):
        metric = report.Metric(
            name=name,
            value=measure(own),
            yardsticks={'floor': measure(floor)},
            reading=reading,
            detail=f'higher is better, n = {len(indices)}',
        )
        scores.append(Score(metric, len(indices), len(indices)))
    return scores


def scores_of(
    own: Tally,
    yardsticks: dict[str, Tally],
    *,
    thing_ids: frozenset[int],
    against: str,
    prefix: str = '',
) -> list[Score]:
    """The scores of counted segments; groups of categories that no image has are left out.

    Args:
      own: The counts of what is scored.
      yardsticks: {name: counts of it}.
      thing_ids: Categories that are things.
      against: What the segments were compared with: the beginning of a sentence.
      prefix: Begins the scores' names.
    """
    qualities = pq.qualities(own.counts, thing_ids)
    marks = {name: pq.qualities(each.counts, thing_ids) for name, each in yardsticks.items()}
    known = next(iter(yardsticks.values())).images
    scores = []
    for group, suffix in _GROUPS.items():
        if not qualities[group].categories:
            continue
        for name, reading in _READINGS.items():
            field = name.lower()
            metric = report.Metric(
                name=f'{prefix}{name}{suffix}',
                value=getattr(qualities[group], field),
                yardsticks={kind: getattr(each[group], field) for kind, each in marks.items()},
                reading=f'{against}: {reading}.',
                detail=f'higher is better, n = {own.images}',
            )
            scores.append(Score(metric, own.images, known))
    return scores
