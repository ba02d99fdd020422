"""CLIP score and CMMD on hand-made embeddings and against their formulas."""

import numpy as np
import pytest

from panoptic_jax.metrics import clip_score, cmmd


def test_clip_score_of_known_angles():
    images = np.array([[3.0, 0.0], [0.0, 0.5]])
    captions = [np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [0.0, -7.0], [0, 1]])]
    scores = clip_score.clip_scores(images, captions)
    np.testing.assert_allclose(scores, [50, 100 * (np.sqrt(0.5) - 1 + 1) / 3])


@pytest.mark.parametrize(
    ('images', 'captions'),
    [(np.ones((2, 3)), [np.ones((1, 3))]), (np.ones((0, 3)), [])],
    ids=['too few captions', 'no images'],
)
def test_clip_score_needs_captions_of_each_image(images, captions):
    with pytest.raises(ValueError, match='needs at least one image and the captions of each'):
        clip_score.clip_scores(images, captions)


def test_clip_score_says_which_image_has_no_caption():
    embeddings = np.random.default_rng(0).normal(size=(3, 4))
    captions = [embeddings, embeddings[:0], embeddings[:1]]
    with pytest.raises(ValueError, match='1 have no caption, the first number 1; each needs'):
        clip_score.clip_scores(embeddings, captions)


def direct_cmmd(one, other):
    """The definition, pair by pair."""

    def mean_kernel(a, b):
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
        distances = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.exp(-distances / (2 * 10**2)).mean()

    within = mean_kernel(one, one) + mean_kernel(other, other)
    return 1000 * (within - 2 * mean_kernel(one, other))


def test_cmmd_equals_its_definition():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.5, 1, (70, 16)), rng.normal(-0.5, 1, (41, 16))
    expected = direct_cmmd(one, other)
    assert expected > 0.1
    assert cmmd.cmmd(one, other) == pytest.approx(expected, rel=1e-9)
    # Blocks that divide neither set, and the sets exchanged.
    assert cmmd.cmmd(other, one, block=8) == pytest.approx(expected, rel=1e-9)


def test_cmmd_of_opposite_points_is_known():
    """Two sets of one point each, opposite ends of the sphere: 2 (1 - exp(-4/200))."""
    one = np.repeat([[2.0, 0.0, 0.0]], 3, axis=0)
    assert cmmd.cmmd(one, -one) == pytest.approx(2000 * (1 - np.exp(-0.02)))
    assert cmmd.cmmd(one, 5 * one) == pytest.approx(0, abs=1e-12)


def test_cmmd_needs_two_images():
    with pytest.raises(ValueError, match='1 images against 5; each set needs at least 2'):
        cmmd.cmmd(np.ones((1, 4)), np.ones((5, 4)))


@pytest.mark.parametrize('value', [0.0, np.nan, np.inf])
def test_embeddings_without_direction_are_refused(value):
    embeddings = np.random.default_rng(0).normal(size=(3, 4))
    embeddings[1] = value
    with pytest.raises(ValueError, match='An embedding of CLIP is zero or not finite'):
        cmmd.cmmd(embeddings, embeddings)
