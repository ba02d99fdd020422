"""Scores the pairs of a sampling job as they are drawn, and says which of them are kept.

`quality/selection.py` has the rules, and `export/sample_selection.py` puts pairs where they belong.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from panoptic_jax.data import scene_words
from panoptic_jax.data.example import Category
from panoptic_jax.quality import folder, looks, scores, selection
from panoptic_jax.quality.training import Training


class Judge(NamedTuple):
    """What a job's pairs are scored with, and what they have to pass.

    Attributes:
      measures: What pairs are scored with.
      gate: What is kept.
      training: The training images; None where near copies of them may stay.
    """

    measures: scores.Measures
    gate: selection.Gate
    training: Training | None = None


class Judged(NamedTuple):
    """What is known of one pair.

    Attributes:
      scores: {name: value} of what could be measured.
      nearest: The training image that is nearest, see `folder.nearest_of`; None if none was looked
        for.
    """

    scores: dict[str, float]
    nearest: dict[str, Any] | None = None


def judge_of(
    categories: Sequence[Category],
    *,
    keep: str,
    best_of: str,
    synonyms: str,
    maps: int,
    training: Training | None = None,
) -> Judge:
    """The judge of a job.

    Args:
      categories: The model's.
      keep: The setting sample.keep.
      best_of: The setting sample.best_of.
      synonyms: A user's file of words, see `words.read`; ''.
      maps: How many maps a pair has: 0, 1, or 2 where one is drawn again for its image.
      training: See `Judge`.

    Raises:
      FileNotFoundError, ValueError: the errors of `words.read` and `selection.gate_of`.
    """
    # A job over prompts has no data at hand that could say it.
    is_scenes = tuple(categories) == tuple(scene_words.categories())
    measures = scores.measures_of(categories, is_scenes=is_scenes, synonyms=synonyms)
    lacking = scores.lacking_of(
        measures,
        has_map=maps > 0,
        has_second_map=maps > 1,
        clip='a job has no CLIP, and evaluate.clip scores a finished folder',
    )
    return Judge(measures, selection.gate_of(keep, best_of, lacking), training)


def judged(
    judge: Judge,
    drawn: tuple[np.ndarray, np.ndarray | None, np.ndarray | None],
    captions: Sequence[str],
    again: Any = None,
) -> list[Judged]:
    """Scores a batch.

    Args:
      judge: The job's.
      drawn: Images (B, H, W, 3) uint8; category ids (B, h, w) uint8, None for a model without maps,
        whose pairs have no scores; numbers of things (B, h, w), None as in `scores.Pair`.
      captions: Those of the first rows, which are scored.
      again: (B, kh, kw) uint8, second maps for the finished images; None where there are none.
    """
    images, ids, instances = drawn
    if ids is None:
        return [Judged({})] * len(captions)
    found = []
    for row, caption in enumerate(captions):
        own = None if instances is None else instances[row]
        pair = scores.Pair(images[row], ids[row], own, caption)
        second = None if again is None else _of_size(np.asarray(again[row]), len(pair.category))
        measured = scores.score(pair, judge.measures, again=second)
        found.append({name: value for name, value in measured.items() if value is not None})
    if judge.training is None:
        return [Judged(each) for each in found]
    own_looks = [looks.look(images[row], ids[row]) for row in range(len(captions))]
    nearest = folder.nearest_of(judge.training.search(np.stack(own_looks)), judge.training)
    return [Judged(*both) for both in zip(found, nearest, strict=True)]


def _of_size(category: np.ndarray, side: int) -> np.ndarray:
    # The pair's own map may have been enlarged to the size of its image.
    factor = side // len(category)
    return category.repeat(factor, axis=0).repeat(factor, axis=1)


def choice(
    judge: Judge,
    copies: Sequence[Mapping[str, float]],
    nearest: Sequence[Mapping[str, Any] | None],
) -> selection.Choice:
    """What becomes of the pairs that were drawn for one request."""
    every = [dict.fromkeys(scores.KINDS) | dict(each) for each in copies]
    dropped = []
    if judge.training is not None:
        dropped = [selection.NEAR_COPY if near and near['near_copy'] else '' for near in nearest]
    return selection.best(every, judge.gate, dropped)
