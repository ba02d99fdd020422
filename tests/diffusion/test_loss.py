"""Algorithm 1's losses for every kind of stream, and the draws behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.diffusion import bits, loss, schedule, times
from panoptic_jax.diffusion.streams import PAPER, PREDICTIONS, Stream

IMAGE_T, MAP_T = np.array([1, 500, 1000]), np.array([700, 0, 3])


def random_inputs(rng, t):
    """Inputs of three examples, and alpha and sigma of each stream."""
    clean = {'image': rng.normal(size=(3, 4, 4, 2)), 'map': np.sign(rng.normal(size=(3, 8, 8, 8)))}
    noise = {name: rng.normal(size=value.shape) for name, value in clean.items()}
    inputs = loss.Inputs(
        clean, noise, {name: jnp.asarray(value) for name, value in t.items()}, None
    )
    log_alphas = np.concatenate([[0.0], schedule.log_alphas()])
    alpha = {name: np.exp(log_alphas)[value].reshape(3, 1, 1, 1) for name, value in t.items()}
    return inputs, alpha, {name: np.sqrt(1 - value**2) for name, value in alpha.items()}


def test_pair_losses_are_algorithm_1():
    t = {'image': IMAGE_T, 'map': IMAGE_T}
    inputs, alpha, sigma = random_inputs(np.random.default_rng(2), t)
    alpha, sigma = alpha['image'], sigma['image']
    (x0, m0), (eps, eps_m) = inputs.clean.values(), inputs.noise.values()
    seen = {}

    def predict(x_t, m_t, text, t):
        seen.update(x_t=x_t, m_t=m_t, t=t)
        return 0.5 * x_t, 0.25 * m_t

    losses = loss.pair_losses(predict, inputs, loss.Objective(PAPER))
    x_t, m_t = alpha * x0 + sigma * eps, alpha * m0 + sigma * 2 * eps_m
    np.testing.assert_allclose(seen['x_t'], x_t, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen['m_t'], m_t, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen['t'], IMAGE_T)
    image_loss = ((eps - 0.5 * x_t) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(losses['image'], image_loss, rtol=1e-4)
    np.testing.assert_allclose(losses['map'], ((m0 - 0.25 * m_t) ** 2).mean((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize('prediction', PREDICTIONS)
@pytest.mark.parametrize('name', ['image', 'map'])
def test_own_times_and_every_prediction(name, prediction):
    t = {'image': IMAGE_T, 'map': MAP_T}
    inputs, alpha, sigma = random_inputs(np.random.default_rng(3), t)
    described = PAPER | {name: Stream(1.7, prediction)}
    guesses = {}

    def predict(x_t, m_t, text, t):
        guesses.update(image=x_t + 1, map=m_t - 2, t=t)
        return guesses['image'], guesses['map']

    objective = loss.Objective(described, own_times=True, weights={name: 0.3})
    found = loss.pair_losses(predict, inputs, objective)
    np.testing.assert_array_equal(guesses['t'], np.stack([IMAGE_T, MAP_T], -1))
    clean, noise = inputs.clean[name], inputs.noise[name]
    targets = {
        'noise': noise,
        'data': clean,
        'velocity': alpha[name] * noise - sigma[name] * clean / 1.7,
    }
    error = np.asarray(targets[prediction] - guesses[name])
    expected = 0.3 * (error**2).mean((1, 2, 3))
    if name == 'map':
        expected[1] = 0  # its map is clean
    np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)


def test_a_network_that_is_given_the_map_has_no_loss_for_it():
    inputs, *_ = random_inputs(np.random.default_rng(4), {'image': IMAGE_T, 'map': 0 * IMAGE_T})
    seen = {}

    def predict(x_t, m_t, text, t):
        seen.update(m_t=m_t, t=t)
        return x_t, None

    assert set(loss.pair_losses(predict, inputs, loss.Objective(PAPER))) == {'image'}
    np.testing.assert_array_equal(seen['m_t'], inputs.clean['map'])
    np.testing.assert_array_equal(seen['t'], IMAGE_T)


# --- Draws.


def batch_of(rng, size=3):
    return {
        'latents': rng.normal(size=(size, 4, 4, 2)).astype(np.float32),
        'text': rng.normal(size=(size, 2, 5)).astype(np.float32),
        'category': rng.integers(0, 200, (size, 8, 8), np.uint8),
        'instance': rng.integers(0, 9, (size, 8, 8), np.uint8),
    }


def draw(batch, **settings):
    drawing = loss.Drawing(scale=1.0, text_dropout=0.1, map_side=8, **settings)
    return loss.draw_inputs(batch, jax.random.key(0), np.zeros((2, 5)), drawing)


def test_what_one_model_does_not_need_changes_nothing_for_the_others():
    batch = batch_of(np.random.default_rng(0), size=40)
    plain = draw(batch)
    given = draw(batch, given_map=True)
    coded = draw(batch, instance_bits=8)
    own = draw(batch, shares=times.Shares(0.5, 0.2, 0.2))
    for other in (given, coded, own):
        for name in ('clean', 'noise'):
            image, other_image = (getattr(each, name)['image'] for each in (plain, other))
            np.testing.assert_array_equal(other_image, image)
        np.testing.assert_array_equal(other.text, plain.text)
    np.testing.assert_array_equal(given.t['image'], plain.t['image'])
    np.testing.assert_array_equal(given.t['map'], 0)
    np.testing.assert_array_equal(plain.t['map'], plain.t['image'])
    categories = coded.clean['map'][..., : bits.NUM_BITS]
    np.testing.assert_array_equal(categories, plain.clean['map'])


def test_codes_of_things_are_drawn_anew_for_each_step():
    batch = batch_of(np.random.default_rng(1))
    drawing = loss.Drawing(scale=1.0, text_dropout=0.1, map_side=8, instance_bits=8)
    maps = [
        np.asarray(loss.clean_map(batch, jax.random.key(seed), drawing)[..., bits.NUM_BITS :])
        for seed in (0, 0, 1)
    ]
    assert maps[0].shape == (3, 8, 8, 8)
    np.testing.assert_array_equal(maps[0], maps[1])
    things = batch['instance'] > 0
    assert np.mean(np.any(maps[0] != maps[2], axis=-1)[things]) > 0.9
    np.testing.assert_array_equal(maps[0][~things], -1)  # code 0


def test_latent_draw_uses_moments_and_scale():
    rng = np.random.default_rng(3)
    mean, log_variance, noise = rng.normal(size=(3, 2, 4, 4, 4))
    moments = np.concatenate([mean, log_variance], -1)
    np.testing.assert_allclose(
        loss.draw_latent(moments, 0.2301, noise),
        0.2301 * (mean + np.exp(0.5 * log_variance) * noise), rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(loss.draw_latent(mean, 2.0, noise=None), 2 * mean, rtol=1e-6)


def test_a_network_sees_unit_inputs_on_request():
    t = {'image': IMAGE_T, 'map': MAP_T}
    inputs, alpha, sigma = random_inputs(np.random.default_rng(5), t)
    described = {'image': Stream(2.0, 'data', unit_input=True), 'map': Stream(4.0, 'data')}
    seen = {}

    def predict(x_t, m_t, text, t):
        seen.update(image=x_t, map=m_t)
        return x_t, m_t

    loss.pair_losses(predict, inputs, loss.Objective(described, own_times=True))
    noisy = loss.add_noise(inputs, described)
    size = np.sqrt(alpha['image'] ** 2 + (2 * sigma['image']) ** 2)
    np.testing.assert_allclose(seen['image'] * size, noisy['image'], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen['map'], noisy['map'])
