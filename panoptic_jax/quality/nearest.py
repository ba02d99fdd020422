"""The nearest training image of each pair, and which pairs are nearly copies of one.

The search is exact and looks at all training images, in blocks: memory holds the pairs' features, a
block, and a table of distances of a bounded size. `quality/looks.py` has features that need no
network.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

_TABLE = 4_000_000  # distances at once, 16 MB
# Of true images, this share lies as near to another one as what counts as a copy.
QUANTILE = 0.01
# The distance where pixels cannot tell two images apart: about one grey level in 255.
ALIKE = 0.004


class Found(NamedTuple):
    """The nearest training image of each of n pairs.

    Attributes:
      distances: (n,) float32; infinite where there is none.
      numbers: (n,) int64, its number; -1 where there is none.
      mirrored: (n,) bool, whether its mirror image is meant.
    """

    distances: np.ndarray
    numbers: np.ndarray
    mirrored: np.ndarray


class Near(NamedTuple):
    """What counts as nearly a copy.

    Attributes:
      limit: A pair at this distance or nearer is one.
      quantile: The share of training images that have another one so near.
      measured: Training images that this was measured of.
    """

    limit: float
    quantile: float
    measured: int

    def copies(self, found: Found) -> np.ndarray:
        """(n,) bool: the pairs that are nearly copies."""
        return found.distances <= self.limit

    def to_json(self, found: Found) -> dict[str, Any]:
        """How many pairs are nearly copies, and how many would be without any copying."""
        return {
            'pairs': len(found.distances),
            'near_copies': int(self.copies(found).sum()),
            'mirrored': int((self.copies(found) & found.mirrored).sum()),
            # True images, too, have neighbours: so many pairs are no sign of copying.
            'expected_of_true_images': self.quantile * len(found.distances),
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
    found = Found(
        np.full(count, np.inf, np.float32), np.full(count, -1), np.zeros(count, bool)
    )  # fmt: skip
    forms = [(looks, False)] + ([(mirror(looks), True)] if mirror else [])
    first = 0
    for block in blocks:
        block = np.float32(block)
        rows = max(1, _TABLE // max(len(block), 1))
        for start in range(0, count if len(block) else 0, rows):
            part = slice(start, start + rows)
            for features, is_mirrored in forms:
                left_out = None if own is None else own[part] - first
                better = _nearest(features[part], block, left_out)
                _keep_nearer(found, part, better, first=first, is_mirrored=is_mirrored)
        first += len(block)
    return found


def _nearest(
    features: np.ndarray, block: np.ndarray, left_out: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) distances and (n,) rows of the nearest features of a block."""
    # |a - b|^2 without |a|^2, which all distances of a row share.
    table = np.sum(block * block, axis=1) - 2 * features @ block.T  # (n, m)
    if left_out is not None:
        inside = np.flatnonzero((left_out >= 0) & (left_out < len(block)))
        table[inside, left_out[inside]] = np.inf
    rows = np.argmin(table, axis=1)
    # The differences themselves: those of large squares would leave copies far from zero.
    distances = np.linalg.norm(features - block[rows], axis=1)
    nothing = np.isinf(table[np.arange(len(rows)), rows])
    return np.where(nothing, np.inf, distances), rows


def _keep_nearer(
    found: Found,
    part: slice,
    better: tuple[np.ndarray, np.ndarray],
    *,
    first: int,
    is_mirrored: bool,
) -> None:
    """Puts what is nearer than before into its place."""
    distances, rows = better
    nearer = distances < found.distances[part]
    found.distances[part][nearer] = distances[nearer]
    found.numbers[part][nearer] = first + rows[nearer]
    found.mirrored[part][nearer] = is_mirrored


def near(own_distances: np.ndarray, quantile: float = QUANTILE) -> Near:
    """What counts as nearly a copy, judged by how near true images lie to each other.

    Were pairs new images of the same kind, about this share of them would count. Where some
    training images are copies of each other, that distance is zero and would find exact copies
    alone; so images that pixels cannot tell apart always count.

    Args:
      own_distances: Distances of training images to their nearest other one, from `search`.
      quantile: The share of them that counts, from the nearest.

    Raises:
      ValueError: there are less than two training images.
    """
    measured = own_distances[np.isfinite(own_distances)]
    if not len(measured):
        raise ValueError(
            'Near copies cannot be told with less than two training images; how near true images '
            'lie to each other decides.'
        )
    # At least one image has another one so near, also among few.
    place = max(math.ceil(quantile * len(measured)), 1) - 1
    limit = max(float(np.sort(measured)[place]), ALIKE)
    return Near(limit, quantile, len(measured))


def reason(number: int | str) -> str:
    """Why a pair is dropped, in words."""
    return f'nearly a copy of training image {number}'
