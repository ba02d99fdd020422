"""Pixel accuracy and mean IoU against a literal count, on random maps."""

import numpy as np
import pytest

from panoptic_jax.metrics import semantic


def test_both_equal_a_literal_count():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (3, 8, 8)).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 7, truth.shape))
    prediction = prediction.astype(np.uint8)
    counts = sum(semantic.confusion(*pair) for pair in zip(truth, prediction, strict=True))
    known = truth > 0
    assert semantic.pixel_accuracy(counts) == pytest.approx(np.mean((truth == prediction)[known]))
    shares = []
    for category in range(1, 256):
        one, other = (truth == category) & known, (prediction == category) & known
        if (one | other).any():
            shares.append((one & other).sum() / (one | other).sum())
    assert len(shares) == 6
    assert semantic.mean_iou(counts) == pytest.approx(np.mean(shares))


def test_perfect_and_void_maps():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 200, (16, 16)).astype(np.uint8)
    counts = semantic.confusion(truth, truth)
    assert semantic.pixel_accuracy(counts) == semantic.mean_iou(counts) == 1
    nothing = semantic.confusion(np.zeros_like(truth), truth)
    assert semantic.pixel_accuracy(nothing) == semantic.mean_iou(nothing) == 0
