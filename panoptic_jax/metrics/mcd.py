"""Mean category difference (MCD) between maps, and the yardsticks that it must be read beside.

Everything is numpy in float64 on whole arrays of maps. Maps are category ids, void (0) counted like
any other; `method.md` ("Evaluation in the paper") gives the definition and the known values.
No files and no samples here: `evaluate.py` brings both.
"""

from collections.abc import Sequence

import numpy as np

_BLOCK = 1024  # maps counted at once: bounds the memory of `histograms`


def histograms(maps: np.ndarray, bins: int = 256) -> np.ndarray:
    """Area share of each category in each map.

    Args:
      maps: (N, H, W) uint8 category ids.
      bins: ids at or above it are not counted, so rows may sum to less than 1. The authors' code
        counts 201.

    Returns:
      (N, bins) float64; with 256 bins every row sums to 1.

    Raises:
      ValueError: maps are not (N, H, W) uint8.
    """
    maps = np.asarray(maps)
    if maps.ndim != 3 or maps.dtype != np.uint8:
        raise ValueError(
            f'maps have shape {maps.shape} and type {maps.dtype}; expected (N, H, W) uint8 '
            'category ids'
        )
    shares = np.empty((len(maps), bins))
    for start in range(0, len(maps), _BLOCK):
        block = maps[start : start + _BLOCK].reshape(-1, maps[0].size)
        ids = block + 256 * np.arange(len(block))[:, None]
        counts = np.bincount(ids.ravel(), minlength=256 * len(block)).reshape(-1, 256)
        shares[start : start + _BLOCK] = counts[:, :bins] / maps[0].size
    return shares


def mcd(generated: np.ndarray, truth: np.ndarray, bins: int = 256) -> np.ndarray:
    """Category difference per image: sum_b |bincount(truth) - bincount(generated)| / (H W).

    The paper's MCD is the mean of the result.

    Args:
      generated: (N, H, W) uint8 category ids.
      truth: (N, H', W') uint8; map n belongs with generated map n. The sizes may differ: areas are
        compared as shares.
      bins: see `histograms`.

    Returns:
      (N,) float64 in [0, 2]; 0: equal areas, 2: no category in common.

    Raises:
      ValueError: different numbers of maps, or maps that are not (N, H, W) uint8.
    """
    if len(generated) != len(truth):
        raise ValueError(
            f'{len(generated)} generated maps but {len(truth)} true ones; expected one true map '
            'per generated map, in the same order'
        )
    return np.abs(histograms(generated, bins) - histograms(truth, bins)).sum(axis=1)


def chance(truth_histograms: np.ndarray) -> float:
    """MCD between unrelated images: the mean over all ordered pairs i != j, exactly.

    Sorting each bin avoids forming the pairs: of n sorted values the k-th is
    the larger one of k pairs and the smaller one of n - 1 - k.

    Args:
      truth_histograms: (N, bins) from `histograms`, one row per image (no image twice), N >= 2.

    Raises:
      ValueError: fewer than two images.
    """
    count = len(truth_histograms)
    if count < 2:
        raise ValueError(f'{count} true map(s); chance needs the maps of at least 2 images')
    return _sum_over_pairs(truth_histograms) / (count * (count - 1) / 2)


def fixed_map(truth_histograms: np.ndarray) -> np.ndarray:
    """The one histogram with the smallest mean L1 distance to the given ones.

    Solves min_p sum_i sum_b |p_b - h_ib| subject to sum_b p_b = 1, p >= 0, exactly. Per bin the
    slope of the cost after the k-th smallest of n values is 2 k - n, so all bins grow together:
    the Lagrange multiplier picks one quantile level k for every bin, and the sum of the k-th
    smallest values (0 for k = 0, at least 1 for k = n) passes 1 between two levels, at the point
    that is returned. Without the constraint the answer would be the median per bin, whose sum is
    below 1.

    Args:
      truth_histograms: (N, bins) rows that sum to 1, N >= 1.

    Returns:
      (bins,) float64 that sums to 1.
    """
    levels = np.sort(truth_histograms, axis=0)
    levels = np.concatenate([np.zeros_like(levels[:1]), levels])
    sums = levels.sum(axis=1)
    upper = int(np.argmax(sums >= 1.0 - 1e-12))
    below, above = levels[upper - 1], levels[upper]
    return below + (above - below) * (1.0 - sums[upper - 1]) / (sums[upper] - sums[upper - 1])


def best_fixed_map(truth_histograms: np.ndarray) -> float:
    """MCD of the best constant map, one that ignores the caption, on images it was not fitted to.

    Fitted to the even rows and scored on the odd ones, then the other way round; the mean over all
    rows. A model that is no better has learnt nothing from its captions.

    Args:
      truth_histograms: (N, bins) from `histograms`, one row per image (no image twice), N >= 2.

    Raises:
      ValueError: fewer than two images.
    """
    count = len(truth_histograms)
    if count < 2:
        raise ValueError(f'{count} true map(s); the best fixed map needs at least 2 images')
    halves = truth_histograms[::2], truth_histograms[1::2]
    total = sum(
        np.abs(scored - fixed_map(fitted)).sum() for fitted, scored in (halves, halves[::-1])
    )
    return float(total / count)


def same_caption_floor(
    truth_histograms: np.ndarray, captions: Sequence[str | Sequence[str]]
) -> float | None:
    """MCD between different images that share a caption: what the caption leaves open.

    No model that sees only the caption can be expected below it.

    Args:
      truth_histograms: (N, bins) from `histograms`, one row per image (no image twice).
      captions: per image its caption or captions.

    Returns:
      Mean over all captions and all pairs of different images that carry the caption; None where
      no caption is shared.

    Raises:
      ValueError: not as many captions as images.
    """
    if len(captions) != len(truth_histograms):
        raise ValueError(
            f'captions of {len(captions)} images but {len(truth_histograms)} true maps; expected '
            'one entry per image'
        )
    owners: dict[str, list[int]] = {}
    for image, own in enumerate(captions):
        for caption in {own} if isinstance(own, str) else set(own):
            owners.setdefault(caption, []).append(image)
    groups = [images for images in owners.values() if len(images) > 1]
    if not groups:
        return None
    pairs = sum(len(images) * (len(images) - 1) // 2 for images in groups)
    return sum(_sum_over_pairs(truth_histograms[images]) for images in groups) / pairs


def _sum_over_pairs(rows: np.ndarray) -> float:
    """Sum of the L1 distance over all unordered pairs of rows, without forming the pairs."""
    count = len(rows)
    weights = 2 * np.arange(count) - (count - 1)
    return float((weights @ np.sort(rows, axis=0)).sum())
