"""Scores of one pair that cost little: its void, crumbs and things, what its caption names, and
how far image and map agree.

`quality/expression.py` keeps pairs by them, `quality/summary.py` sums them up over a whole set.
`scoring/` compares sets of pairs with real images instead.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from panoptic_jax.data.categories import things_of
from panoptic_jax.data.example import Category
from panoptic_jax.quality import agreement, areas, words

# Share of the map, 82 pixels of a map of 128 x 128. Things of scenes show three times as much.
CRUMB = 0.005
# Share of the map that a category takes to be there: that of `sample.min_area`, below which areas
# are removed.
LEAST = 0.0005

Scores = dict[str, float | None]
"""{name: value}; None stands for what could not be measured of this pair."""


class Kind(NamedTuple):
    """What a score says.

    Attributes:
      meaning: In words.
      better: 1 where more is better, -1 where less is, 0 where neither is.
    """

    meaning: str
    better: int


KINDS: Mapping[str, Kind] = {
    'void': Kind('share of the map that is void', -1),
    'crumbs': Kind('share of the map in areas of less than 0.5 % of it', -1),
    'things': Kind('number of things', 0),
    'captioned': Kind('share of what the caption names that the map shows', 1),
    'agreement': Kind('share of the map that says the same as the image', 1),
    'iou': Kind('the same as mean IoU of the categories; needs a second map', 1),
    'clip': Kind('CLIP score of image and caption', 1),
}


class Pair(NamedTuple):
    """What is scored.

    Attributes:
      image: (H, W, 3) uint8.
      category: (h, w) uint8 ids of the model's map, 0 for void, before it is enlarged for PNGs:
        the result is the same, and it costs less.
      instance: (h, w) unsigned numbers of the things, 0 for none; None where each connected area
        of a thing's category is a thing.
      caption: What the pair was drawn from; '' for none.
    """

    image: np.ndarray
    category: np.ndarray
    instance: np.ndarray | None
    caption: str


Oracle = Callable[[np.ndarray, np.ndarray, str], float | None]


@dataclasses.dataclass(frozen=True)
class Measures:
    """What pairs of one data set are scored with.

    Attributes:
      categories: What the maps' ids stand for.
      vocabulary: The categories by the words of captions; see `words.vocabulary_of`.
      oracle: (image, category, caption) -> agreement, where the data have an oracle, such as
        `agreement.by_scene`.
    """

    categories: tuple[Category, ...]
    vocabulary: words.Vocabulary
    oracle: Oracle | None = None

    @functools.cached_property
    def thing_ids(self) -> frozenset[int]:
        """The categories that are things."""
        return things_of(self.categories)


def measures_of(categories: Sequence[Category], *, is_scenes: bool, synonyms: str = '') -> Measures:
    """The measures of a data set.

    Args:
      categories: Those of the maps.
      is_scenes: Whether they are the embedded scenes, which have words and an oracle of their own.
      synonyms: The user's file, see `words.read`; '' for the package's own words.

    Raises:
      FileNotFoundError, ValueError: the errors of `words.read`.
    """
    return Measures(
        categories=tuple(categories),
        vocabulary=words.vocabulary_of(categories, is_scenes=is_scenes, path=synonyms),
        oracle=agreement.by_scene if is_scenes else None,
    )


def lacking_of(
    measures: Measures, *, has_map: bool, has_second_map: bool, clip: str
) -> dict[str, str]:
    """{score: why no pair of a job has it}, known before the first pair is drawn.

    Args:
      measures: What its pairs are scored with.
      has_map: Whether pairs have maps.
      has_second_map: Whether a second map is drawn for each image.
      clip: Why there is no CLIP, such as 'evaluate.clip names none'; '' where there is one.
    """
    lacking = {'clip': clip} if clip else {}
    if not has_map:
        no_map = 'the model draws no maps'
        return lacking | {name: no_map for name in KINDS if name != 'clip'}
    if not has_second_map:
        second = 'no second map is drawn for the image'
        lacking['iou'] = second
        if not measures.oracle:
            lacking['agreement'] = f'{second}, and only scenes have an oracle'
    return lacking


def score(
    pair: Pair, measures: Measures, *, again: np.ndarray | None = None, clip: float | None = None
) -> Scores:
    """The scores of a pair: all names of `KINDS`.

    Args:
      pair: Image, map and caption.
      measures: What they are scored with.
      again: (h, w) uint8, the map that the same weights draw for the finished image; None for none.
        It decides the agreement where there is one.
      clip: The pair's CLIP score, see `clip_score.clip_scores`; None without a CLIP.
    """
    scores: Scores = dict.fromkeys(KINDS)
    scores |= of_map(pair.category, pair.instance, measures.thing_ids)
    scores['captioned'] = captioned(pair.category, measures.vocabulary.named(pair.caption))
    if again is not None:
        scores |= agreement.of_maps(pair.category, again)
    elif measures.oracle:
        scores['agreement'] = measures.oracle(pair.image, pair.category, pair.caption)
    scores['clip'] = clip
    return scores


def of_map(
    category: np.ndarray, instance: np.ndarray | None, thing_ids: frozenset[int]
) -> dict[str, float]:
    """'void', 'crumbs' and 'things' of a map.

    A crumb is an area of one segment, connected by sides, of less than `CRUMB` of the map. Void has
    a score of its own, so that its areas are no crumbs.
    """
    segments = (category,) if instance is None else (category, instance)
    sizes = areas.connected(*segments)
    crumbs = sizes[sizes < CRUMB * category.size].sum()
    return {
        'void': float(np.mean(category == 0)),
        'crumbs': float(crumbs / category.size),
        'things': float(len(areas.of_things(category, instance, thing_ids))),
    }


def captioned(category: np.ndarray, named: Sequence[frozenset[int]]) -> float | None:
    """The share of a caption's words that a map shows; None where the caption names nothing.

    Args:
      category: (h, w) uint8 ids.
      named: From `Vocabulary.named`; each word is shown by any category that it may stand for.
    """
    if not named:
        return None
    counts = np.bincount(category.ravel(), minlength=256)
    least = LEAST * category.size
    shown = [counts[list(ids)].sum() >= least for ids in named]
    return float(np.mean(shown))
