"""The law of training times: one time, or shares of the batch with own times."""

import jax
import numpy as np
import pytest

from panoptic_jax.diffusion import times

KEY = jax.random.key(5)


def test_one_time_is_uniform_and_the_same_for_both():
    drawn = times.draw(KEY, 20_000)
    np.testing.assert_array_equal(drawn['image'], drawn['map'])
    values = np.asarray(drawn['image'])
    assert (values.min(), values.max()) == (1, 1000)
    counts = np.histogram(values, 10, (1, 1001))[0] / len(values)
    np.testing.assert_allclose(counts, 0.1, atol=0.01)


def test_own_times_have_their_shares():
    shares = times.Shares(shared=0.4, clean_image=0.2, clean_map=0.1)
    drawn = {name: np.asarray(t) for name, t in times.draw(KEY, 20_000, shares).items()}
    image, map_ = drawn['image'], drawn['map']
    assert np.mean(image == 0) == pytest.approx(0.2, abs=0.01)
    assert np.mean(map_ == 0) == pytest.approx(0.1, abs=0.01)
    assert np.mean(image == map_) == pytest.approx(0.4, abs=0.01)
    assert not np.any((image == 0) & (map_ == 0))  # nothing would be learnt of it
    free = (image != map_) & (image > 0) & (map_ > 0)
    assert np.mean(free) == pytest.approx(0.3, abs=0.01)
    assert abs(np.corrcoef(image[free], map_[free])[0, 1]) < 0.05
    for t in (image[image > 0], map_[map_ > 0]):
        np.testing.assert_allclose(np.histogram(t, 5, (1, 1001))[0] / len(t), 0.2, atol=0.015)


@pytest.mark.parametrize('power', [0.2, 1.7])
def test_a_power_moves_times_to_one_end(power):
    """Closed form: a time is below 1000 x with probability x^(1 / power)."""
    shares = times.Shares(shared=0.3, clean_image=0.1, clean_map=0.1, power=power)
    for t in times.draw(KEY, 20_000, shares).values():
        noisy = np.asarray(t)[np.asarray(t) > 0]
        assert noisy.min() >= 1
        assert noisy.max() <= 1000
        for x in (0.1, 0.3, 0.8):
            assert np.mean(noisy <= 1000 * x) == pytest.approx(x ** (1 / power), abs=0.02)
