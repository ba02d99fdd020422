"""What a set of pairs holds: categories, things, scores and how different the pairs are.

A summary takes pairs one at a time and keeps sums alone, so that its memory does not grow with the
set; those of several shards or processes add up, in any order. `quality/comparison.py` makes
figures of it, beside those of real data.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from panoptic_jax.quality import areas
from panoptic_jax.quality.scores import Scores

_IDS = 256
# COCO's bounds of small, medium and large things, in pixels of the image.
SMALL, MEDIUM = 32**2, 96**2
SIZES = ('small', 'medium', 'large')
# Decimals of the scores that are counted: so quantiles are exact but for this rounding, and there
# are no more than ten thousand different shares, however many pairs there are.
DECIMALS = 4


@dataclasses.dataclass
class Summary:
    """Sums over pairs, or over the true maps that pairs are compared with.

    Attributes:
      thing_ids: The categories that are things.
      pairs: How many were added.
      shares: (256,) float64: each category's share of the pixels, added up; 0 is void.
      holding: (256,) int64: pairs with at least a pixel of each category.
      things: {number of things: pairs}.
      sizes: (3,) int64: things by `SIZES`.
      values: {score: {value rounded to `DECIMALS`: pairs}}; None counts what was not measured.
      looks: Pairs with features.
      look_sum: (d,) float64, the features added up; (0,) before the first ones.
      look_squares: Their squared lengths, added up.
    """

    thing_ids: frozenset[int]
    pairs: int = 0
    shares: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(_IDS))
    holding: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(_IDS, np.int64))
    things: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    sizes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3, np.int64))
    values: dict[str, collections.Counter[float | None]] = dataclasses.field(default_factory=dict)
    looks: int = 0
    look_sum: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    look_squares: float = 0.0

    def add(
        self,
        category: np.ndarray,
        instance: np.ndarray | None,
        image_size: tuple[int, int],
        *,
        scores: Scores | None = None,
        look: np.ndarray | None = None,
    ) -> None:
        """Adds a pair.

        Args:
          category: (h, w) uint8 ids, 0 for void.
          instance: (h, w) numbers of the things, as in `scores.Pair`.
          image_size: Height and width of the image, at which things are small or large.
          scores: Its scores; None for a true map.
          look: (d,) its features, such as those of `looks.look`; None for none.
        """
        counts = np.bincount(category.ravel(), minlength=_IDS)
        self.pairs += 1
        self.shares += counts / category.size
        self.holding += counts > 0
        things = areas.of_things(category, instance, self.thing_ids)
        self.things[len(things)] += 1
        height, width = image_size
        pixels = things * (height * width / category.size)
        self.sizes += np.bincount(np.digitize(pixels, [SMALL, MEDIUM]), minlength=3)
        for name, value in (scores or {}).items():
            rounded = None if value is None else round(value, DECIMALS)
            self.values.setdefault(name, collections.Counter())[rounded] += 1
        if look is not None:
            self._add_looks(1, np.float64(look), float(np.sum(np.square(np.float64(look)))))

    def _add_looks(self, count: int, total: np.ndarray, squares: float) -> None:
        self.looks += count
        self.look_sum = self.look_sum + total if self.look_sum.size else np.array(total)
        self.look_squares += squares

    def merge(self, other: 'Summary') -> None:
        """Adds the pairs of another shard.

        Raises:
          ValueError: the features have another length.
        """
        lengths = {each.look_sum.size for each in (self, other)} - {0}
        if len(lengths) > 1:
            raise ValueError(
                f'Features of {" and of ".join(map(str, sorted(lengths)))} numbers do not add up; '
                'summarise all parts with the same features.'
            )
        self.pairs += other.pairs
        self.shares = self.shares + other.shares
        self.holding = self.holding + other.holding
        self.things.update(other.things)
        self.sizes = self.sizes + other.sizes
        for name, counts in other.values.items():
            self.values.setdefault(name, collections.Counter()).update(counts)
        if other.looks:
            self._add_looks(other.looks, other.look_sum, other.look_squares)

    def diversity(self) -> float | None:
        """How far two pairs of the set lie apart in their features; None for less than two.

        The root of the mean squared distance over all pairs of pairs. Twice the sum of squares less
        the squared sum, over n (n - 1), is that mean, so that no two features are ever compared.
        """
        n = self.looks
        if n < 2:
            return None
        mean = 2 * (n * self.look_squares - self.look_sum @ self.look_sum) / (n * (n - 1))
        return float(np.sqrt(max(mean, 0.0)))  # of equal pairs rounding may leave less than nothing

    def to_json(self) -> dict[str, Any]:
        """All sums, JSON-able, for other processes; `comparison.figures` is for people."""
        return {
            'thing_ids': sorted(self.thing_ids),
            'pairs': self.pairs,
            'shares': self.shares.tolist(),
            'holding': self.holding.tolist(),
            # JSON has no keys but texts.
            'things': sorted(self.things.items()),
            'sizes': self.sizes.tolist(),
            'values': {name: list(counts.items()) for name, counts in self.values.items()},
            'looks': self.looks,
            'look_sum': self.look_sum.tolist(),
            'look_squares': self.look_squares,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> 'Summary':
        """Reads what `to_json` made."""
        values = {name: collections.Counter(dict(each)) for name, each in content['values'].items()}
        arrays = {name: np.array(content[name], np.int64) for name in ('holding', 'sizes')}
        return cls(
            thing_ids=frozenset(content['thing_ids']),
            pairs=content['pairs'],
            shares=np.array(content['shares']),
            things=collections.Counter(dict(content['things'])),
            values=values,
            looks=content['looks'],
            look_sum=np.array(content['look_sum']),
            look_squares=content['look_squares'],
            **arrays,
        )
