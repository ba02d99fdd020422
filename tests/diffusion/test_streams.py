"""Streams: kinds of predictions stand for one another at every noise and every std."""

import dataclasses

import numpy as np
import pytest

from panoptic_jax.diffusion import schedule, streams
from panoptic_jax.diffusion.streams import PREDICTIONS, Stream

STDS = (0.25, 1.0, 2.0, 10.0)


@pytest.mark.parametrize('std', STDS)
@pytest.mark.parametrize('prediction', PREDICTIONS)
def test_a_perfect_prediction_stands_for_the_clean_stream(prediction, std):
    rng = np.random.default_rng(0)
    clean, noise = rng.normal(size=(2, 7, 4, 4, 3))
    alpha, sigma = (a.reshape(-1, 1, 1, 1) for a in schedule.alpha_sigma(np.linspace(0.001, 1, 7)))
    noisy = alpha * clean + sigma * std * noise
    stream = Stream(std, prediction)
    said = streams.target(stream, clean, noise, alpha=alpha, sigma=sigma)
    found = streams.data_of(stream, said, noisy, alpha=alpha, sigma=sigma)
    np.testing.assert_allclose(found, clean, rtol=1e-9, atol=1e-9)
    again = streams.noise_of(stream, found, noisy, alpha=alpha, sigma=sigma)
    np.testing.assert_allclose(again, noise, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('std', STDS)
def test_noise_data_velocity_and_noise_again(std):
    rng = np.random.default_rng(1)
    noisy, noise = rng.normal(size=(2, 5, 3, 3, 2))  # any numbers, not those of a clean stream
    alpha, sigma = (a.reshape(-1, 1, 1, 1) for a in schedule.alpha_sigma(np.linspace(0.01, 1, 5)))
    at = {'alpha': alpha, 'sigma': sigma}
    data = streams.data_of(Stream(std, 'noise'), noise, noisy, **at)
    velocity = streams.target(Stream(std, 'velocity'), data, noise, **at)
    data_again = streams.data_of(Stream(std, 'velocity'), velocity, noisy, **at)
    np.testing.assert_allclose(data_again, data, rtol=1e-9, atol=1e-9)
    found = streams.noise_of(Stream(std, 'velocity'), data_again, noisy, **at)
    np.testing.assert_allclose(found, noise, rtol=1e-7, atol=1e-7)


def test_any_std_is_std_one_of_the_scaled_stream():
    rng = np.random.default_rng(2)
    clean, noise = rng.normal(size=(2, 6))
    alpha, sigma = 0.6, 0.8
    for prediction in ('noise', 'velocity'):
        scaled = streams.target(Stream(3.0, prediction), clean, noise, alpha=alpha, sigma=sigma)
        one = streams.target(Stream(1.0, prediction), clean / 3, noise, alpha=alpha, sigma=sigma)
        np.testing.assert_allclose(scaled, one, rtol=1e-12)


def test_a_clean_stream_is_its_own_data_whatever_is_said():
    alpha, sigma = schedule.alpha_sigma(np.zeros(1))
    assert (alpha, sigma) == (1, 0)
    noisy, said = np.random.default_rng(3).normal(size=(2, 4))
    for prediction in ('noise', 'velocity'):
        found = streams.data_of(Stream(2.0, prediction), said, noisy, alpha=alpha, sigma=sigma)
        np.testing.assert_array_equal(found, noisy)


@pytest.mark.parametrize('wrong', [{'prediction': 'score'}, {'noise_std': 0.0}])
def test_what_is_no_stream_is_refused(wrong):
    with pytest.raises(ValueError, match='must be'):
        Stream(**(dataclasses.asdict(streams.PAPER['map']) | wrong))
    with pytest.raises(ValueError, match='must be'):
        streams.of_settings({'image': {'noise_std': 1.0, 'prediction': 'noise'} | wrong})


def test_unit_input_has_unit_size_at_all_times():
    rng = np.random.default_rng(4)
    clean, noise = rng.normal(size=(2, 5, 100_000))
    alpha, sigma = (a[:, None] for a in schedule.alpha_sigma(np.array([0, 0.1, 0.5, 0.9, 1])))
    for std in (1.0, 4.0):
        stream = Stream(std, 'data', unit_input=True)
        noisy = alpha * clean + sigma * std * noise
        seen = np.asarray(streams.network_input(stream, noisy, alpha=alpha, sigma=sigma))
        np.testing.assert_allclose(seen.std(axis=-1), 1, atol=0.02)
        np.testing.assert_allclose(seen * np.sqrt(alpha**2 + (sigma * std) ** 2), noisy, rtol=1e-5)
        same = streams.network_input(Stream(std, 'data'), noisy, alpha=alpha, sigma=sigma)
        assert same is noisy
