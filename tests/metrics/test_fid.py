"""FID: statistics in blocks, the distance against scipy and closed forms, files, refusals."""

import numpy as np
import pytest
import scipy.linalg

from panoptic_jax.metrics import fid


def random_features(seed, count, size=24):
    rng = np.random.default_rng(seed)
    return rng.normal(1, 1, (count, size)) @ rng.normal(0, 0.5, (size, size)) + rng.normal(
        size=size
    )


def test_statistics_in_blocks_are_numpys():
    features = random_features(0, 1000) + 1e4  # far from zero, where naive sums of squares fail
    found = fid.statistics(np.float32(features[i : i + 77]) for i in range(0, 1000, 77))
    features = np.float64(np.float32(features))
    assert found.count == 1000
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.T), rtol=1e-7, atol=1e-9)


def test_distance_equals_scipys():
    for seed in range(5):
        one, other = (fid.statistics([random_features(2 * seed + i, 500)]) for i in (0, 1))
        root = scipy.linalg.sqrtm(one.covariance @ other.covariance).real
        expected = np.sum((one.mean - other.mean) ** 2)
        expected += np.trace(one.covariance + other.covariance - 2 * root)
        assert fid.frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
        assert fid.frechet_distance(other, one) == pytest.approx(expected, rel=1e-6)


def test_distance_of_commuting_covariances_is_known():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    a, b = rng.uniform(0.1, 4, 16), rng.uniform(0.1, 4, 16)
    b[:4] = 0  # a singular one
    means = rng.normal(size=(2, 16))
    one = fid.Statistics(9, means[0], (axes * a) @ axes.T)
    other = fid.Statistics(9, means[1], (axes * b) @ axes.T)
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert fid.frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('count', [20, 3000])
def test_set_against_itself_is_zero(count):
    """Also with fewer images than features, where the covariance is singular."""
    features = np.abs(random_features(0, count, 256))
    found = fid.statistics([features])
    assert abs(fid.frechet_distance(found, found)) < 1e-3
    assert fid.frechet_distance(found, fid.statistics([features + 0.1])) == pytest.approx(2.56)


def test_too_few_images_are_refused():
    for count in (0, 1):
        with pytest.raises(ValueError, match=rf'{count} image\(s\); it needs at least 2, and 2049'):
            fid.statistics([random_features(0, count)])
    one, other = (fid.statistics([random_features(0, 9, size)]) for size in (4, 5))
    with pytest.raises(ValueError, match='of 4 and of 5 features'):
        fid.frechet_distance(one, other)


def test_files_keep_statistics_and_where_they_are_from(tmp_path):
    values = fid.statistics([random_features(0, 100)])
    path = tmp_path / 'deep' / 'reference.npz'
    fid.write(path, values, {'split': 'validation', 'images': 100})
    found, provenance = fid.read(path)
    assert provenance == {'split': 'validation', 'images': 100}
    assert found.count == 100
    np.testing.assert_array_equal(found.mean, values.mean)
    np.testing.assert_array_equal(found.covariance, values.covariance)
    np.savez(tmp_path / 'uvit.npz', mu=values.mean, sigma=values.covariance)  # as U-ViT's
    found, provenance = fid.read(tmp_path / 'uvit.npz')
    assert (found.count, provenance) == (0, {})


def test_files_that_are_no_statistics_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no file of reference statistics'):
        fid.read(tmp_path / 'nowhere.npz')
    (tmp_path / 'text.npz').write_text('nothing')
    np.savez(tmp_path / 'other.npz', mean=np.random.default_rng(0).normal(size=3))
    np.savez(tmp_path / 'pickle.npz', mu=np.array([{}], object), sigma=np.array([{}], object))
    rng = np.random.default_rng(1)
    np.savez(tmp_path / 'whole.npz', mu=rng.normal(size=99), sigma=rng.normal(size=(99, 99)))
    whole = (tmp_path / 'whole.npz').read_bytes()
    (tmp_path / 'cut.npz').write_bytes(whole[: len(whole) // 2])
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    (tmp_path / 'damaged.npz').write_bytes(damaged)
    with (tmp_path / 'array.npz').open('wb') as file:
        np.save(file, rng.normal(size=(3, 3)))
    for name in ('text', 'other', 'pickle', 'cut', 'damaged', 'array'):
        with pytest.raises(ValueError, match=f'{name}.npz is not a file of reference statistics'):
            fid.read(tmp_path / f'{name}.npz')
    np.savez(tmp_path / 'infinite.npz', mu=[rng.normal(), np.inf], sigma=rng.normal(size=(2, 2)))
    with pytest.raises(ValueError, match='is not finite; make the statistics again'):
        fid.read(tmp_path / 'infinite.npz')
    np.savez(tmp_path / 'shape.npz', mu=np.zeros(3), sigma=np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"'mu' has shape \(3,\) and 'sigma' \(3, 4\)"):
        fid.read(tmp_path / 'shape.npz')
