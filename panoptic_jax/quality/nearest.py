"""The nearest training image of each pair, and which pairs are nearly copies of one.

The search is exact and looks at all training images, in blocks: memory holds the pairs' features, a
block, and a table of distances of a bounded size. `quality/looks.py` has features that need no
network.

A plain picture, such as a sky over a sea, is near to many others without being a copy of any. So a
distance is judged by those to the next neighbours, as by Carlini et al. ("Extracting Training Data
from Diffusion Models", 2023): a copy is much nearer to one image than to all the others.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

_TABLE = 4_000_000  # distances at once, 16 MB
NEIGHBOURS = 50  # at most, that a distance is judged by
_NEIGHBOUR_SHARE = 40  # one of so many training images; where there are few, 50 are far away
# A copy's ratio, at most. On scenes, copies with noise of 20 grey levels and moved by 4 pixels have
# 0.18 to 0.28, and of 2000 true images none is below 0.49; nor are a small model's plain skies,
# which lack their things. (Carlini et al. take 0.5.)
HIGHEST = 0.4
# At most this share of true images may count as copies of each other; where data are full of
# doubles, the ratio falls until no more of them count.
QUANTILE = 0.01
# The distance where pixels cannot tell two images apart: about one grey level in 255.
ALIKE = 0.004


class Found(NamedTuple):
    """The nearest training image of each of n pairs.

    Attributes:
      distances: (n,) float32; infinite where there is none.
      numbers: (n,) int64, its number; -1 where there is none.
      mirrored: (n,) bool, whether its mirror image is meant.
      around: (n,) float32, the mean distance of the nearest ones: `NEIGHBOURS`, or fewer where
        there are few training images, but 2 at least.
    """

    distances: np.ndarray
    numbers: np.ndarray
    mirrored: np.ndarray
    around: np.ndarray

    @property
    def ratios(self) -> np.ndarray:
        """(n,) how near the nearest one is among its neighbours: 0 for a copy, up to 1."""
        # Where all are copies, none of them stands out.
        known = np.isfinite(self.distances) & (self.around > 0)
        return np.where(known, self.distances / np.where(known, self.around, 1), 1)


class Near(NamedTuple):
    """What counts as nearly a copy.

    Attributes:
      limit: A pair with this ratio or a smaller one is one, see `Found.ratios`.
      share: The share of training images that have another one so near.
      measured: Training images that this was measured of.
    """

    limit: float
    share: float
    measured: int

    def copies(self, found: Found) -> np.ndarray:
        """(n,) bool: the pairs that are nearly copies."""
        return (found.ratios <= self.limit) | (found.distances <= ALIKE)

    def to_json(self, found: Found) -> dict[str, Any]:
        """How many pairs are nearly copies, and how many would be without any copying."""
        return {
            'pairs': len(found.distances),
            'near_copies': int(self.copies(found).sum()),
            'mirrored': int((self.copies(found) & found.mirrored).sum()),
            # True images, too, have neighbours: so many pairs are no sign of copying.
            'expected_of_true_images': self.share * len(found.distances),
            **self._asdict(),
        }


def search(
    looks: np.ndarray,
    blocks: Iterable[np.ndarray],
    *,
    own: np.ndarray | None = None,
    mirror: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Found:
    """The nearest of all training images by Euclidean distance; the first one of equals.

    Args:
      looks: (n, d) features of the pairs.
      blocks: (m, d) features of the training images, in order and in blocks of any size.
      own: (n,) numbers of training images that are left out for each pair, for looks that are
        training images themselves; None for none.
      mirror: Features -> those of the mirror images, as `looks.mirrored`; None to pass these over.
    """
    looks = np.float32(looks)
    count = len(looks)
    nearest = _Nearest(
        distances=np.full(count, np.inf, np.float32),
        numbers=np.full(count, -1),
        mirrored=np.zeros(count, bool),
        neighbours=np.full((count, NEIGHBOURS), np.inf, np.float32),
    )
    forms = [(looks, False)] + ([(mirror(looks), True)] if mirror else [])
    first = 0
    for block in blocks:
        block = np.float32(block)
        rows = max(1, _TABLE // max(len(block), 1))
        for start in range(0, count if len(block) else 0, rows):
            part = slice(start, start + rows)
            # Views: what is put into them is put into the whole.
            own_part = _Nearest(*(each[part] for each in nearest))
            for features, is_mirrored in forms:
                table = _table(features[part], block, None if own is None else own[part] - first)
                own_part.take(features[part], block, table, first=first, mirrored=is_mirrored)
        first += len(block)
    few = min(max(first // _NEIGHBOUR_SHARE, 2), NEIGHBOURS)
    neighbours = np.sort(nearest.neighbours, axis=1)[:, :few]
    is_there = np.isfinite(neighbours)
    sums = np.where(is_there, neighbours, 0).sum(axis=1)
    return Found(*nearest[:3], around=sums / np.maximum(is_there.sum(axis=1), 1))


def _table(features: np.ndarray, block: np.ndarray, left_out: np.ndarray | None) -> np.ndarray:
    """(n, m) squared distances from a block; infinite from what is left out."""
    lengths = np.sum(features * features, axis=1)[:, None]
    table = lengths + np.sum(block * block, axis=1) - 2 * features @ block.T
    if left_out is not None:
        inside = np.flatnonzero((left_out >= 0) & (left_out < len(block)))
        table[inside, left_out[inside]] = np.inf
    return table


class _Nearest(NamedTuple):
    """The nearest images so far: `Found`'s arrays, and all neighbours (n, `NEIGHBOURS`)."""

    distances: np.ndarray
    numbers: np.ndarray
    mirrored: np.ndarray
    neighbours: np.ndarray

    def take(
        self,
        features: np.ndarray,
        block: np.ndarray,
        table: np.ndarray,
        *,
        first: int,
        mirrored: bool,
    ) -> None:
        """Puts what is nearer than before into its place; the block begins at number `first`."""
        rows = np.argmin(table, axis=1)
        # The differences themselves: those of large squares would leave copies far from zero.
        distances = np.linalg.norm(features - block[rows], axis=1)
        there = np.isfinite(table[np.arange(len(rows)), rows])
        nearer = there & (distances < self.distances)
        self.distances[nearer] = distances[nearer]
        self.numbers[nearer] = first + rows[nearer]
        self.mirrored[nearer] = mirrored
        joined = np.concatenate([self.neighbours, np.sqrt(np.maximum(table, 0))], axis=1)
        self.neighbours[:] = np.partition(joined, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]


def near(own: Found) -> Near:
    """What counts as nearly a copy, judged by how true images stand among their neighbours.

    Args:
      own: Training images among the others, from `search` with `own`.

    Raises:
      ValueError: there are less than two training images.
    """
    ratios = np.sort(own.ratios[np.isfinite(own.distances)])
    if not len(ratios):
        raise ValueError(
            'Near copies cannot be told with less than two training images; how near true images '
            'lie to each other decides.'
        )
    limit = min(HIGHEST, float(ratios[math.ceil(QUANTILE * len(ratios)) - 1]))
    return Near(limit, float(np.mean(ratios <= limit)), len(ratios))
