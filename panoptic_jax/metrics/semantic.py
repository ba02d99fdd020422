"""Pixel accuracy and mean IoU of category maps, as semantic segmentation is measured.

Void of the truth is not counted. Instances are compared in `metrics/pq.py`.
"""

import numpy as np

_IDS = 256  # category ids are uint8


def confusion(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(256, 256) int64: pixels by true category (row) and predicted one; images add up.

    Args:
      truth: (...) uint8 category ids, 0 = void.
      prediction: The same of the predicted map.
    """
    pairs = truth.astype(np.int64).ravel() * _IDS + prediction.ravel()
    return np.bincount(pairs, minlength=_IDS * _IDS).reshape(_IDS, _IDS)


def pixel_accuracy(counts: np.ndarray) -> float:
    """The share of pixels with the true category; 0 where the truth is void throughout."""
    known = counts[1:]
    return float(np.trace(counts[1:, 1:]) / max(known.sum(), 1))


def mean_iou(counts: np.ndarray) -> float:
    """Intersection over union, mean of the categories that truth or prediction has.

    A category that is predicted only where the truth is void does not count.
    """
    known = counts[1:].copy()
    matched = np.diagonal(counts)[1:]
    unions = known.sum(axis=1) + known.sum(axis=0)[1:] - matched
    is_there = unions > 0
    if not is_there.any():
        return 0.0
    return float(np.mean(matched[is_there] / unions[is_there]))
