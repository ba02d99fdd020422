"""CLIP score and CMMD on hand-made embeddings and against their formulas."""

import numpy as np
import pytest

from panoptic_jax.metrics import clip_score, cmmd


def test_clip_score_of_known_angles():
    images = np.array([[3.0, 0.0], [0.0, 0.5]])
    captions = [np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [0.0, -7.0], [0, 1]])]
    found = clip_score.clip_scores(images, captions)
    np.testing.assert_allclose(found, [50, 100 * (np.sqrt(0.5) - 1 + 1) / 3])


def test_clip_score_needs_captions():
    for images, captions in ((np.ones((2, 3)), [np.ones((1, 3))]), (np.ones((0, 3)), [])):
        with pytest.raises(ValueError, match='needs at least one image and the captions of each'):
            clip_score.clip_scores(images, captions)
    some = np.random.default_rng(0).normal(size=(3, 4))
    with pytest.raises(ValueError, match='1 have no caption, the first number 1; each needs'):
        clip_score.clip_scores(some, [some, some[:0], some[:1]])


def direct(one, other):
    """The definition, pair by pair."""

    def mean(a, b):
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
        distances = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.exp(-distances / (2 * 10**2)).mean()

    return 1000 * (mean(one, one) + mean(other, other) - 2 * mean(one, other))


def test_cmmd_equals_its_definition(monkeypatch):
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.5, 1, (70, 16)), rng.normal(-0.5, 1, (41, 16))
    expected = direct(one, other)
    assert expected > 0.1
    assert cmmd.cmmd(one, other) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(cmmd, '_BLOCK', 8)
    assert cmmd.cmmd(other, one) == pytest.approx(expected, rel=1e-9)


def test_cmmd_of_opposite_points_is_known():
    """Two sets of one point each, opposite ends of the sphere: 2 (1 - exp(-4/200))."""
    one = np.repeat([[2.0, 0.0, 0.0]], 3, axis=0)
    assert cmmd.cmmd(one, -one) == pytest.approx(2000 * (1 - np.exp(-0.02)))
    assert cmmd.cmmd(one, 5 * one) == pytest.approx(0, abs=1e-12)


def test_cmmd_needs_two_images():
    with pytest.raises(ValueError, match='1 images against 5; each set needs at least 2'):
        cmmd.cmmd(np.ones((1, 4)), np.ones((5, 4)))
