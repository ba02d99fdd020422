"""The paper's MCD between maps (section 3.6), and the yardsticks that it must be read beside.

The paper calls it Mean Count Difference: how much the areas of the categories differ between a
generated and a true map. Its values mean little alone, since unrelated maps stay below 2. So this
module also measures what chance, one fixed map and images of the same caption reach.

Everything is numpy in float64 on whole arrays of maps. Maps are category ids, and void (0) counts
like any other category. `scoring/maps.py` brings the maps; nothing here reads files.
"""

from collections.abc import Sequence

import numpy as np

BINS = 256  # ids that there are
_BLOCK = 1024  # maps counted at once; bounds the memory of `histograms`


def histograms(maps: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The share of the area that each category takes in each map.

    Args:
      maps: (N, H, W) uint8 category ids.
      bins: Number of ids that are counted, 1 to `BINS`. Ids at or above it are left out, so rows
        may sum to less than 1. The authors' code counts 201.

    Returns:
      (N, bins) float64; with `BINS` bins every row sums to 1.

    Raises:
      ValueError: maps are not (N, H, W) uint8, or the number of bins is impossible.
    """
    if not 1 <= bins <= BINS:
        raise ValueError(
            f'MCD was asked to count {bins} category ids; it must be 1 to {BINS}, since ids are '
            'uint8.'
        )
    maps = np.asarray(maps)
    if maps.ndim != 3 or maps.dtype != np.uint8:
        raise ValueError(
            f'maps have shape {maps.shape} and type {maps.dtype}; expected (N, H, W) uint8 '
            'category ids'
        )
    shares = np.empty((len(maps), bins))
    for start in range(0, len(maps), _BLOCK):
        block = maps[start : start + _BLOCK].reshape(-1, maps[0].size)  # (n, H W)
        # Each map counts into 256 bins of its own, so one call counts all maps of the block.
        offsets = 256 * np.arange(len(block))[:, None]  # (n, 1)
        flat = (block + offsets).ravel()
        counts = np.bincount(flat, minlength=256 * len(block)).reshape(-1, 256)  # (n, 256)
        shares[start : start + _BLOCK] = counts[:, :bins] / maps[0].size
    return shares


def mcd(generated: np.ndarray, truth: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Category difference of each image (section 3.6 of the paper).

        sum_b |bincount(truth)_b - bincount(generated)_b| / (H W)

    The paper's MCD is the mean of the result.

    Args:
      generated: (N, H, W) uint8 category ids.
      truth: (N, H', W') uint8; map n belongs to generated map n. The sizes may differ, because
        areas are compared as shares.
      bins: Number of ids that are counted, see `histograms`.

    Returns:
      (N,) float64 in [0, 2]; 0 for equal areas, 2 for no category in common.

    Raises:
      ValueError: different numbers of maps, or what `histograms` refuses.
    """
    if len(generated) != len(truth):
        raise ValueError(
            f'{len(generated)} generated maps but {len(truth)} true ones; expected one true map '
            'per generated map, in the same order'
        )
    differences = histograms(generated, bins) - histograms(truth, bins)  # (N, bins)
    return np.abs(differences).sum(axis=1)  # (N,), section 3.6


def chance(truth_histograms: np.ndarray) -> float:
    """MCD between unrelated images: the mean over all pairs of different images, exactly.

    Args:
      truth_histograms: (N, bins) from `histograms`, one row for each image (no image twice),
        N >= 2.

    Raises:
      ValueError: there are fewer than two images.
    """
    count = len(truth_histograms)
    if count < 2:
        raise ValueError(f'{count} true map(s); chance needs the maps of at least 2 images')
    pairs = count * (count - 1) / 2
    return _sum_over_pairs(truth_histograms) / pairs


def fixed_map(truth_histograms: np.ndarray) -> np.ndarray:
    """The one histogram with the smallest mean L1 distance to the given ones.

    It solves min_p sum_i sum_b |p_b - h_ib| subject to sum_b p_b = 1, p >= 0, exactly. Without the
    constraint the answer would be the median of each bin, and the medians sum to less than 1.

    Behind the k-th smallest of n values of a bin the cost has the slope 2 k - n. So all bins grow
    together: the Lagrange multiplier picks one level k for every bin. The k-th smallest values of
    all bins sum to 0 for k = 0 and to at least 1 for k = n. Between two levels the sum passes 1,
    and at that point lies the answer.

    Where a row sums to less than 1, there are categories that `histograms` does not count. The map
    may leave area to them, which costs nothing, so that the constraint is sum_b p_b <= 1. Then the
    growth may also end at the medians, behind which the slope is no longer negative.

    Args:
      truth_histograms: (N, bins) rows that sum to at most 1, N >= 1.

    Returns:
      (bins,) float64 that sums to 1, or to less where a row does.
    """
    levels = np.sort(truth_histograms, axis=0)
    levels = np.concatenate([np.zeros_like(levels[:1]), levels])  # (N + 1, bins)
    sums = levels.sum(axis=1)  # (N + 1,)
    # Rounding may leave a sum a little below 1.
    enough = 1.0 - 1e-12
    medians = (len(truth_histograms) + 1) // 2
    if sums[medians] < enough and truth_histograms.sum(axis=1).min() < enough:
        return levels[medians]
    upper = int(np.argmax(sums >= enough))
    below, above = levels[upper - 1], levels[upper]  # (bins,)
    step = sums[upper] - sums[upper - 1]
    return below + (above - below) * (1.0 - sums[upper - 1]) / step


def best_fixed_map(truth_histograms: np.ndarray) -> float:
    """MCD of the best constant map, one that ignores the caption, on images it was not fitted to.

    The map is fitted to the even rows and scored on the odd rows, then the other way round; the
    result is the mean over all rows. A model that is no better has learnt nothing from its
    captions.

    Args:
      truth_histograms: (N, bins) from `histograms`, one row for each image (no image twice),
        N >= 2.

    Raises:
      ValueError: there are fewer than two images.
    """
    count = len(truth_histograms)
    if count < 2:
        raise ValueError(f'{count} true map(s); the best fixed map needs at least 2 images')
    even, odd = truth_histograms[::2], truth_histograms[1::2]
    on_odd = np.abs(odd - fixed_map(even)).sum()
    on_even = np.abs(even - fixed_map(odd)).sum()
    return float((on_odd + on_even) / count)


def same_caption_floor(
    truth_histograms: np.ndarray, captions: Sequence[str | Sequence[str]]
) -> float | None:
    """MCD between different images that share a caption: what the caption leaves open.

    No model that sees only the caption can be expected below it.

    Args:
      truth_histograms: (N, bins) from `histograms`, one row for each image (no image twice).
      captions: For each image its caption or captions.

    Returns:
      Mean over all captions and all pairs of different images that carry the caption; None where
      no caption is shared.

    Raises:
      ValueError: there are not as many captions as images.
    """
    if len(captions) != len(truth_histograms):
        raise ValueError(
            f'captions of {len(captions)} images but {len(truth_histograms)} true maps; expected '
            'one entry per image'
        )
    images_of: dict[str, list[int]] = {}
    for image, own_captions in enumerate(captions):
        # A set, because people write the same sentence twice for one image.
        unique = {own_captions} if isinstance(own_captions, str) else set(own_captions)
        for caption in unique:
            images_of.setdefault(caption, []).append(image)
    groups = [images for images in images_of.values() if len(images) > 1]
    if not groups:
        return None
    pairs = sum(len(images) * (len(images) - 1) // 2 for images in groups)
    distances = sum(_sum_over_pairs(truth_histograms[images]) for images in groups)
    return distances / pairs


def normalised(value: float, *, chance: float, floor: float | None) -> float | None:
    """An MCD on the scale from 0, what the caption leaves open, to 1, unrelated images.

    Args:
      value: The MCD.
      chance: From `chance`.
      floor: From `same_caption_floor`; where no caption is shared, 0 stands for equal areas.

    Returns:
      It may be below 0 or above 1; None where chance is no worse than the floor.
    """
    floor = floor or 0.0
    if chance <= floor:
        return None
    return (value - floor) / (chance - floor)


def _sum_over_pairs(rows: np.ndarray) -> float:
    """Sum of the L1 distance over all unordered pairs of rows, without forming the pairs.

    The k-th of n sorted values, counted from 0, is the larger one of k pairs and the smaller
    one of n - 1 - k pairs. So it counts 2 k - (n - 1) times.
    """
    count = len(rows)
    weights = 2 * np.arange(count) - (count - 1)  # (n,)
    return float((weights @ np.sort(rows, axis=0)).sum())
