"""FID: statistics in blocks, the distance against scipy and closed forms, files, refusals."""

import numpy as np
import pytest
import scipy.linalg

from panoptic_jax.metrics import fid


def random_features(seed, count, size=24):
    """(count, size) correlated features with means that are not zero."""
    rng = np.random.default_rng(seed)
    independent = rng.normal(1, 1, (count, size))
    return independent @ rng.normal(0, 0.5, (size, size)) + rng.normal(size=size)


def test_statistics_in_blocks_are_numpys():
    features = random_features(0, 1000) + 1e4  # far from zero, where naive sums of squares fail
    statistics = fid.statistics(np.float32(features[i : i + 77]) for i in range(0, 1000, 77))
    features = np.float64(np.float32(features))
    assert statistics.count == 1000
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-12)
    expected = np.cov(features.T)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize('seed', range(5))
def test_distance_equals_scipys(seed):
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
    b[:4] = 0  # a singular covariance
    means = rng.normal(size=(2, 16))
    one = fid.Statistics(count=9, mean=means[0], covariance=(axes * a) @ axes.T)
    other = fid.Statistics(count=9, mean=means[1], covariance=(axes * b) @ axes.T)
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert fid.frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('count', [20, 3000])
def test_set_against_itself_is_zero(count):
    """Also with fewer images than features, where the covariance is singular."""
    statistics = fid.statistics([np.abs(random_features(0, count, 256))])
    assert abs(fid.frechet_distance(statistics, statistics)) < 1e-3


@pytest.mark.parametrize('count', [20, 3000])
def test_shifted_set_is_as_far_as_the_shift(count):
    features = np.abs(random_features(0, count, 256))
    one, other = fid.statistics([features]), fid.statistics([features + 0.1])
    assert fid.frechet_distance(one, other) == pytest.approx(2.56)


@pytest.mark.parametrize('count', [0, 1])
def test_too_few_images_are_refused(count):
    with pytest.raises(ValueError, match=rf'{count} image\(s\); it needs at least 2, and 2049'):
        fid.statistics([random_features(0, count)])


def test_features_of_different_lengths_are_refused():
    one, other = (fid.statistics([random_features(0, 9, size)]) for size in (4, 5))
    with pytest.raises(ValueError, match='of 4 and of 5 features'):
        fid.frechet_distance(one, other)


def test_files_keep_statistics_and_where_they_are_from(tmp_path):
    values = fid.statistics([random_features(0, 100)])
    path = tmp_path / 'deep' / 'reference.npz'
    fid.write(path, values, {'split': 'validation', 'images': 100})
    read, provenance = fid.read(path)
    assert provenance == {'split': 'validation', 'images': 100}
    assert read.count == 100
    np.testing.assert_array_equal(read.mean, values.mean)
    np.testing.assert_array_equal(read.covariance, values.covariance)


def test_files_of_uvit_are_read(tmp_path):
    values = fid.statistics([random_features(0, 100)])
    np.savez(tmp_path / 'uvit.npz', mu=values.mean, sigma=values.covariance)
    read, provenance = fid.read(tmp_path / 'uvit.npz')
    assert (read.count, provenance) == (0, {})


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no file of reference statistics'):
        fid.read(tmp_path / 'nowhere.npz')


def write_text(path):
    path.write_text('nothing')


def write_other_names(path):
    np.savez(path, mean=np.random.default_rng(0).normal(size=3))


def write_pickles(path):
    np.savez(path, mu=np.array([{}], object), sigma=np.array([{}], object))


def write_cut_off(path):
    content = _whole_file(path)
    path.write_bytes(content[: len(content) // 2])


def write_damaged(path):
    content = bytearray(_whole_file(path))
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def write_complex_numbers(path):
    rng = np.random.default_rng(1)
    np.savez(path, mu=rng.normal(size=3) + 1j, sigma=np.eye(3))


def write_marked_as_encrypted(path):
    content = bytearray(_whole_file(path))
    # The general purpose flags of every entry, in the file and in its list.
    for mark, offset in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
        place = content.find(mark)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(mark, place + 1)
    path.write_bytes(content)


def write_plain_array(path):
    with path.open('wb') as file:
        np.save(file, np.random.default_rng(1).normal(size=(3, 3)))


def _whole_file(path):
    """The content of a right file of statistics."""
    rng = np.random.default_rng(1)
    np.savez(path, mu=rng.normal(size=99), sigma=rng.normal(size=(99, 99)))
    return path.read_bytes()


@pytest.mark.parametrize(
    'write',
    [
        write_text,
        write_other_names,
        write_pickles,
        write_cut_off,
        write_damaged,
        write_plain_array,
        write_complex_numbers,
        write_marked_as_encrypted,
    ],
)
def test_files_that_are_no_statistics_are_refused(tmp_path, write):
    path = tmp_path / 'reference.npz'
    write(path)
    with pytest.raises(ValueError, match=r'reference\.npz is not a file of reference statistics'):
        fid.read(path)


def test_statistics_that_are_not_finite_are_refused(tmp_path):
    rng = np.random.default_rng(1)
    np.savez(tmp_path / 'infinite.npz', mu=[rng.normal(), np.inf], sigma=rng.normal(size=(2, 2)))
    with pytest.raises(ValueError, match='is not finite; make the statistics again'):
        fid.read(tmp_path / 'infinite.npz')


def test_statistics_of_wrong_shapes_are_refused(tmp_path):
    np.savez(tmp_path / 'shape.npz', mu=np.zeros(3), sigma=np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"'mu' has shape \(3,\) and 'sigma' \(3, 4\)"):
        fid.read(tmp_path / 'shape.npz')


def test_covariances_that_are_not_symmetric_are_refused(tmp_path):
    sigma = np.cov(random_features(0, 100).T)
    np.savez(tmp_path / 'right.npz', mu=np.arange(24), sigma=np.float32(sigma))
    fid.read(tmp_path / 'right.npz')
    sigma[3, 5] += 0.1
    np.savez(tmp_path / 'uneven.npz', mu=np.arange(24), sigma=sigma)
    with pytest.raises(ValueError, match=r"'sigma' is not symmetric .* differ by 0\.1\)"):
        fid.read(tmp_path / 'uneven.npz')


def test_statistics_of_another_network_are_refused(tmp_path):
    fid.write(tmp_path / 'small.npz', fid.statistics([random_features(0, 100)]), {})
    fid.read(tmp_path / 'small.npz', 24)
    with pytest.raises(ValueError, match='the statistics of 24 features; FID compares 2048'):
        fid.read(tmp_path / 'small.npz', fid.FEATURES)


@pytest.mark.parametrize('side', [0, 1])
def test_variances_below_zero_are_refused(side):
    right = fid.statistics([random_features(0, 100)])
    values = np.linspace(-0.5, 3, 24)
    axes = np.linalg.qr(random_features(1, 24))[0]
    wrong = right._replace(covariance=(axes * values) @ axes.T)
    with pytest.raises(ValueError, match='whose eigenvalues are not negative; one here is -'):
        fid.frechet_distance(*((right, wrong) if side else (wrong, right)))


@pytest.mark.parametrize('field', ['mean', 'covariance'])
def test_a_distance_that_is_not_finite_is_refused(field):
    right = fid.statistics([random_features(0, 100)])
    value = getattr(right, field).copy()
    value.flat[7] = np.nan
    with pytest.raises(ValueError, match="FID's mean or covariance is not finite"):
        fid.frechet_distance(right, right._replace(**{field: value}))
