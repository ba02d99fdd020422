"""The caption probe, with networks whose errors are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.diffusion import loss, probe, schedule, streams

SIZE = 5


def drawn(seed=0):
    """Random inputs whose pictures are written in their texts."""
    keys = jax.random.split(jax.random.key(seed), 4)
    text = jax.random.normal(keys[0], (SIZE, 3, 2))
    level = text[:, 0, 0][:, None, None, None]
    clean = {
        'image': level * jnp.ones((SIZE, 4, 4, 2)),
        'map': jnp.sign(level) * jnp.ones((SIZE, 8, 8, 8)),
    }
    noise = {name: jax.random.normal(keys[1], a.shape) for name, a in clean.items()}
    t = {name: jax.random.randint(keys[2], (SIZE,), 0, 1001) for name in clean}
    return loss.Inputs(clean, noise, t, text)


def reader(described, share):
    """A network that reads `share` of the clean image from its text and the rest as zeros."""

    def predict(x, m, text, t):
        level = share * text[:, 0, 0][:, None, None, None]
        alpha, sigma = schedule.alpha_sigma(np.float64(probe.TIME / 1000))
        said = []
        for stream, noisy, data in (
            (described['image'], x, level * jnp.ones_like(x)),
            (described['map'], m, share * jnp.sign(level) * jnp.ones_like(m)),
        ):
            noise = streams.noise_of(stream, data, noisy, alpha=alpha, sigma=sigma)
            said.append(streams.target(stream, data, noise, alpha=alpha, sigma=sigma))
        return tuple(said)

    return predict


def ratios(described, share, **options):
    objective = loss.Objective(described, weights={'image': 0.0, 'map': 3.0})
    errors = probe.caption_errors(reader(described, share), drawn(), objective, **options)
    return {name: float(right / wrong) for name, (right, wrong) in errors.items()}


@pytest.mark.parametrize('prediction', streams.PREDICTIONS)
def test_the_ratio_is_that_of_the_data_whatever_is_predicted(prediction):
    described = {'image': streams.Stream(1.5, prediction), 'map': streams.Stream(3.0, prediction)}
    level = np.asarray(drawn().text[:, 0, 0], np.float64)
    wrong = np.roll(level, -1)
    expected = {'image': np.sum(level**2) / 4 / np.sum((level - wrong / 2) ** 2)}
    sign, other = np.sign(level), np.sign(wrong)
    expected['map'] = np.sum(sign**2) / 4 / np.sum((sign - other / 2) ** 2)
    found = ratios(described, share=0.5)
    assert found == pytest.approx(expected, rel=1e-4)
    assert ratios(described, share=0.0) == pytest.approx({'image': 1.0, 'map': 1.0})


def test_both_streams_are_at_the_probes_time_and_a_given_map_is_clean():
    seen = []

    def predict(x, m, text, t):
        jax.debug.callback(lambda *a: seen.append([np.asarray(b) for b in a]), t, m)
        return jnp.zeros_like(x), None

    objective = loss.Objective(streams.PAPER, own_times=True)
    inputs = drawn()
    errors = probe.caption_errors(predict, inputs, objective, given_map=True)
    jax.effects_barrier()
    assert errors.keys() == {'image'}
    assert len(seen) == 2  # the right captions and the wrong ones
    for t, m in seen:
        np.testing.assert_array_equal(t, [[probe.TIME, 0]] * SIZE)
        np.testing.assert_allclose(m, inputs.clean['map'], atol=1e-6)


def test_neighbours_of_one_caption_are_left_out():
    inputs = drawn()
    same = inputs._replace(text=jnp.broadcast_to(inputs.text[:1], inputs.text.shape))
    predict = reader(streams.PAPER, 0.5)
    errors = probe.caption_errors(predict, same, loss.Objective(streams.PAPER))
    assert all((np.asarray(value) == 0).all() for value in errors.values())
    pair = inputs._replace(text=inputs.text.at[1].set(inputs.text[0]))
    errors = probe.caption_errors(predict, pair, loss.Objective(streams.PAPER))
    # Example 0 has the caption of example 1, and does not count.
    level, own = np.asarray(inputs.text[:, 0, 0]), np.asarray(pair.text[:, 0, 0])
    sigma_alpha = np.divide(*schedule.alpha_sigma(np.float64(probe.TIME / 1000))) ** 2
    expected = np.sum((level - own / 2)[1:] ** 2) * sigma_alpha
    np.testing.assert_allclose(errors['image'][0], expected, rtol=1e-4)
