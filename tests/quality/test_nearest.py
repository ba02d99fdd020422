"""The nearest training image against brute force, copies and mirrored copies."""

import numpy as np
import pytest

from panoptic_jax.data import scenes
from panoptic_jax.quality import looks, nearest


def slowly(queries, training):
    """(n, m) distances, in float64."""
    return np.linalg.norm(queries[:, None].astype(float) - training[None], axis=-1)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('size', [1, 7, 1000])
@pytest.mark.parametrize('share', [1, 8, 1000])
def test_search_is_exact_in_blocks_of_any_size(seed, size, share, monkeypatch):
    monkeypatch.setattr(nearest, '_NEIGHBOUR_SHARE', share)
    neighbours = {1: 40, 8: 5, 1000: 2}[share]
    generator = np.random.default_rng(seed)
    monkeypatch.setattr(nearest, '_TABLE', int(generator.integers(1, 300)))
    queries, training = generator.random((23, 12)), generator.random((40, 12))
    blocks = [training[first : first + size] for first in range(0, 40, size)]
    found = nearest.search(queries, [*blocks, training[:0]])
    table = slowly(queries, training)
    np.testing.assert_array_equal(found.numbers, table.argmin(axis=1))
    np.testing.assert_allclose(found.distances, table.min(axis=1), rtol=1e-5)
    assert not found.mirrored.any()
    around = np.sort(table, axis=1)[:, :neighbours].mean(axis=1)
    np.testing.assert_allclose(found.around, around, rtol=1e-5)
    np.testing.assert_allclose(found.ratios, table.min(axis=1) / around, rtol=1e-5)
    # With mirror images, here of the order of the features.
    both = nearest.search(queries, blocks, mirror=lambda features: features[:, ::-1])
    other = slowly(queries[:, ::-1], training)
    np.testing.assert_allclose(
        both.distances, np.minimum(table.min(axis=1), other.min(axis=1)), rtol=1e-5
    )
    np.testing.assert_array_equal(both.mirrored, other.min(axis=1) < table.min(axis=1))
    nearby = np.sort(np.concatenate([table, other], axis=1))[:, :neighbours]
    np.testing.assert_allclose(both.around, nearby.mean(axis=1), rtol=1e-5)
    # Training images among themselves.
    numbers = np.arange(10, 33)
    self_found = nearest.search(training[10:33], blocks, own=numbers)
    own = slowly(training[10:33], training)
    own[np.arange(23), numbers] = np.inf
    np.testing.assert_array_equal(self_found.numbers, own.argmin(axis=1))


def test_nothing_is_near_nothing():
    found = nearest.search(np.ones((3, 4)), [])
    assert np.isinf(found.distances).all()
    assert (found.numbers == -1).all()
    alone = nearest.search(np.ones((1, 4)), [np.ones((1, 4))], own=np.array([0]))
    assert np.isinf(alone.distances).all()
    with pytest.raises(ValueError, match='less than two training images'):
        nearest.near(alone)
    assert alone.ratios.tolist() == [1]


@pytest.fixture(scope='module')
def drawn():
    """(image, map) of scenes, and their looks."""
    source = scenes.Scenes(0, 60, 'train')
    examples = [source[number] for number in range(60)]
    pairs = [(example.image, example.category) for example in examples]
    return pairs, np.stack([looks.look(*pair) for pair in pairs])


def test_looks_are_thumbnails_and_shares(drawn):
    pairs, features = drawn
    for one, other in ((0, 1), (3, 8)):
        thumbnails = [
            np.float64(pairs[n][0]).reshape(16, 16, 16, 16, 3).mean(axis=(1, 3)) / 255
            for n in (one, other)
        ]
        shares = [
            np.bincount(pairs[n][1].ravel(), minlength=256) / pairs[n][1].size for n in (one, other)
        ]
        squared = np.mean((thumbnails[0] - thumbnails[1]) ** 2)
        squared += 0.25 * np.sum((shares[0] - shares[1]) ** 2)
        assert np.sum((features[one] - features[other]) ** 2) == pytest.approx(squared, rel=1e-3)
    flipped = [looks.look(image[:, ::-1], category[:, ::-1]) for image, category in pairs]
    np.testing.assert_allclose(looks.mirrored(features), flipped, atol=1e-6)
    assert looks.look(pairs[0][0], None)[768:].sum() == 0
    larger = np.asarray(pairs[0][0]).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(looks.look(larger, pairs[0][1]), features[0], atol=1e-3)


def test_copies_are_found_and_other_images_are_none(drawn):
    pairs, features = drawn
    training = features[:50]
    own = nearest.search(training, [training], own=np.arange(50), mirror=looks.mirrored)
    near = nearest.near(own)
    assert near == (nearest.HIGHEST, 0, 50)
    generator = np.random.default_rng(0)

    def noisy(number, flip):
        image, category = pairs[number]
        image = np.clip(image + generator.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        return looks.look(*((image[:, ::-1], category[:, ::-1]) if flip else (image, category)))

    asked = np.stack([noisy(4, flip=False), noisy(9, flip=True), *features[50:]])
    found = nearest.search(asked, [training[:20], training[20:]], mirror=looks.mirrored)
    assert found.numbers[:2].tolist() == [4, 9]
    assert found.mirrored[:2].tolist() == [False, True]
    assert near.copies(found).tolist() == [True, True] + [False] * 10
    content = near.to_json(found)
    assert (content['pairs'], content['near_copies'], content['mirrored']) == (12, 2, 1)
    assert content['expected_of_true_images'] == 0


def test_a_plain_picture_near_to_many_is_no_copy_of_any():
    generator = np.random.default_rng(0)
    # Half of the training images lie close together, as pictures of a sky do.
    training = generator.normal(size=(400, 12))
    training[:200] *= 0.05
    own = nearest.search(training, [training], own=np.arange(400))
    near = nearest.near(own)
    plain = 0.05 * generator.normal(size=(200, 12))
    found = nearest.search(plain, [training])
    # A limit of the distance alone would take them all for copies.
    assert (found.distances <= np.quantile(own.distances, 0.5)).mean() > 0.9
    assert near.copies(found).mean() < 0.02
    copies = training + 0.001 * generator.normal(size=training.shape)
    assert near.copies(nearest.search(copies, [training])).all()


@pytest.mark.parametrize('doubles', [0, 2, 40, 400])
def test_data_full_of_doubles_lower_the_limit(doubles):
    generator = np.random.default_rng(doubles)
    training = generator.normal(size=(400, 12))
    # The second half repeats some of the first, each one less exactly than the one before.
    copied = np.arange(doubles // 2)
    errors = generator.normal(size=(len(copied), 12)) * np.linspace(0, 0.2, len(copied))[:, None]
    training[200 + copied] = training[copied] + errors
    near = nearest.near(nearest.search(training, [training], own=np.arange(400)))
    assert near.limit <= nearest.HIGHEST
    assert near.share <= max(nearest.QUANTILE, 2 / 400)
    assert (near.limit < nearest.HIGHEST) == (doubles > 2)


def test_what_pixels_cannot_tell_apart_is_always_a_copy():
    """Also where the training images have many doubles, beside which no copy stands out."""
    training = np.zeros((60, 4))
    found = nearest.search(np.full((2, 4), [[0.0], [0.5]]), [training])
    near = nearest.near(nearest.search(training, [training], own=np.arange(60)))
    assert near.copies(found)[0]
    assert found.ratios.tolist() == [1, 1]
