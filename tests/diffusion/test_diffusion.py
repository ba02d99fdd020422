"""Schedule, codec, Algorithm 1 and solver against golden values and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.diffusion import bits, guidance, loss, schedule, solver
from panoptic_jax.diffusion.trajectory import fast_orders, make_trajectory

CODES = np.array([0, 1, 2, 5, 90, 92, 193, 200], np.uint8)


def test_schedule_golden_values():
    alpha = np.exp(schedule.log_alphas())
    lam = schedule.log_snr(np.array([0.001, 1.0]))
    assert alpha[-1] ** 2 == pytest.approx(0.004660099, rel=1e-6)
    assert alpha[0] ** 2 == pytest.approx(0.99915, abs=5e-6)
    np.testing.assert_allclose(lam, [3.53471, -2.68202], atol=5e-6)
    np.testing.assert_allclose(
        schedule.time_of_log_snr(np.linspace(*lam, 77)),
        np.interp(np.linspace(*lam, 77), schedule.log_snr(np.linspace(1, 0.001, 200001)),
                  np.linspace(1, 0.001, 200001)),
        atol=1e-6,
    )  # fmt: skip


def test_bits_round_trip_every_code():
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    values = bits.ids_to_bits(jnp.asarray(ids))
    np.testing.assert_array_equal(values[0, 6], [-1, 1, 1, -1, -1, -1, -1, -1])  # 6, low bit first
    np.testing.assert_array_equal(bits.bits_to_ids(values, np.arange(256, dtype=np.uint8)), ids)


def test_invalid_codes_decode_to_the_nearest_valid_or_void():
    values = np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32)
    nearest = np.asarray(bits.bits_to_ids(values, CODES))
    threshold = np.asarray(bits.bits_to_ids(values, CODES, 'threshold'))
    plain = ((values > 0) * (1 << np.arange(8))).sum(-1)
    code_bits = 2.0 * ((CODES[:, None] >> np.arange(8)) & 1) - 1
    expected = CODES[np.argmax((values[:, None] * code_bits).sum(-1), axis=1)]
    valid = np.isin(plain, CODES)
    assert 0 < valid.sum() < len(plain)
    np.testing.assert_array_equal(nearest, expected)
    np.testing.assert_array_equal(nearest[valid], plain[valid])
    np.testing.assert_array_equal(threshold, np.where(valid, plain, 0))
    with pytest.raises(ValueError, match='decode'):
        bits.bits_to_ids(values, CODES, 'best')


@pytest.mark.parametrize('void_wins', [False, True])
def test_min_pool_against_a_loop(void_wins):
    rng = np.random.default_rng(1)
    category = rng.choice(CODES, (2, 24, 24), p=[0.65] + [0.05] * 7)
    instance = rng.integers(0, 256, (2, 24, 24)).astype(np.uint8)
    pooled = bits.min_pool(category, instance, 4, void_wins)
    for n, i, j in np.ndindex(2, 6, 6):
        window = (n, slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
        pairs = list(zip(category[window].ravel(), instance[window].ravel(), strict=True))
        rank = lambda pair: ((pair[0] or (0 if void_wins else 256)), pair[1] or 256)  # noqa: E731
        assert (pooled[0][n, i, j], pooled[1][n, i, j]) == min(pairs, key=rank)
    twice = bits.min_pool(*bits.min_pool(category, instance, 2, void_wins), 2, void_wins)
    np.testing.assert_array_equal(pooled, twice)
    np.testing.assert_array_equal(
        pooled, bits.min_pool(jnp.asarray(category), jnp.asarray(instance), 4, void_wins)
    )
    with pytest.raises(ValueError, match='pooled by 5'):
        bits.min_pool(category, instance, 5)


def test_pair_losses_are_algorithm_1():
    rng = np.random.default_rng(2)
    x0, eps = rng.normal(size=(2, 3, 4, 4, 2))
    m0, eps_m = np.sign(rng.normal(size=(2, 3, 8, 8, 8)))
    t = np.array([1, 500, 1000])
    alpha = np.exp(schedule.log_alphas())[t - 1].reshape(3, 1, 1, 1)
    sigma = np.sqrt(1 - alpha**2)
    seen = {}

    def predict(x_t, m_t, text, t):
        seen.update(x_t=x_t, m_t=m_t, t=t)
        return 0.5 * x_t, 0.25 * m_t

    inputs = loss.Inputs(
        latent=x0, text=None, t=jnp.asarray(t), noise=eps, map_bits=m0, map_noise=2 * eps_m
    )
    losses = loss.pair_losses(predict, inputs)
    x_t, m_t = alpha * x0 + sigma * eps, alpha * m0 + sigma * 2 * eps_m
    np.testing.assert_allclose(seen['x_t'], x_t, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen['m_t'], m_t, rtol=1e-4, atol=1e-5)
    image_loss = ((eps - 0.5 * x_t) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(losses['image'], image_loss, rtol=1e-4)
    np.testing.assert_allclose(losses['map'], ((m0 - 0.25 * m_t) ** 2).mean((1, 2, 3)), rtol=1e-4)

    given = loss.pair_losses(predict, inputs, given_map=True)
    np.testing.assert_array_equal(seen['m_t'], m0)
    assert set(given) == {'image'}


def test_latent_draw_uses_moments_and_scale():
    rng = np.random.default_rng(3)
    mean, log_variance, noise = rng.normal(size=(3, 2, 4, 4, 4))
    moments = np.concatenate([mean, log_variance], -1)
    np.testing.assert_allclose(
        loss.draw_latent(moments, 0.2301, noise),
        0.2301 * (mean + np.exp(0.5 * log_variance) * noise), rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(loss.draw_latent(mean, 2.0, noise=None), 2 * mean, rtol=1e-6)


def test_guidance_is_one_batched_call_that_keeps_the_map():
    rng = np.random.default_rng(4)
    x, m = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5))
    text, empty = rng.normal(size=(2, 7, 6)), rng.normal(size=(7, 6))
    calls = []

    def predict(x, m, text, t):
        calls.append(x.shape)
        return x * text.mean((1, 2))[:, None, None], m * text.sum((1, 2))[:, None] + t[:, None]

    noise, bits_out = guidance.guided(predict, text, empty, 1.5)(x, m, np.ones(2))
    w, u = text.mean((1, 2)), empty.mean()
    np.testing.assert_allclose(noise, x * (w + 1.5 * (w - u))[:, None, None], rtol=1e-4)
    w, u = text.sum((1, 2)), empty.sum()
    np.testing.assert_allclose(bits_out, m * (w + 1.5 * (w - u))[:, None] + 1, rtol=1e-4)
    alone, _ = guidance.guided(predict, text, empty, 0.0)(x, m, np.ones(2))
    np.testing.assert_allclose(alone, x * text.mean((1, 2))[:, None, None], rtol=1e-5)
    assert calls == [(4, 3, 4), (2, 3, 4)]


def gaussian_pair():
    """A correlated Gaussian (image, map) pair, its exact predictions and its exact ODE solution."""
    mean, cov = np.array([0.7, -0.4]), np.array([[0.5, 0.3], [0.3, 0.6]])
    scale = np.array([1.0, 2.0])  # noise std of image and map
    white_cov, white_mean = cov / np.outer(scale, scale), mean / scale
    eigenvalues, vectors = np.linalg.eigh(white_cov)

    def predict(x, m, t):
        alpha, sigma = _traced_alpha_sigma(t[0] / 1000)
        z = jnp.concatenate([x, m], -1).reshape(-1, 2) / scale
        spread = alpha**2 * eigenvalues + sigma**2
        centred = (z - alpha * white_mean) @ vectors
        data = white_mean + (alpha * eigenvalues / spread * centred) @ vectors.T
        noise = (z - alpha * data) / sigma
        return noise[:, :1].reshape(x.shape), 2 * data[:, 1:].reshape(m.shape)

    def exact(x, m):
        def spread(time):
            alpha, sigma = schedule.alpha_sigma(time)
            return alpha, np.sqrt(alpha**2 * eigenvalues + sigma**2)

        (a1, s1), (a0, s0) = spread(1.0), spread(0.001)
        z = np.concatenate([x, m], -1).reshape(-1, 2) / scale
        z = a0 * white_mean + ((z - a1 * white_mean) @ vectors * (s0 / s1)) @ vectors.T
        return z[:, :1].reshape(x.shape)

    return predict, exact


def _traced_alpha_sigma(time):
    log_alpha = jnp.interp(time, jnp.arange(1, 1001) / 1000, jnp.asarray(schedule.log_alphas()))
    return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))


def solver_error(name, evaluations, grid):
    """Largest error of the image at t = 1/1000, which the map's errors reach as well."""
    with jax.enable_x64(True):
        predict, exact = gaussian_pair()
        x, m = np.random.default_rng(5).normal(size=(2, 64, 1, 1, 1))
        m *= 2
        trajectory = make_trajectory(evaluations, name, grid)
        run = jax.jit(lambda x, m: solver.solve(predict, x, m, trajectory, clip_map=False)[0])
        return np.abs(run(jnp.asarray(x), jnp.asarray(m)) - exact(x, m)).max()


@pytest.mark.parametrize(('name', 'slope'), [('1', 0.85), ('2', 1.85), ('3', 2.5), ('2M', 1.85)])
def test_solver_converges_at_its_order(name, slope):
    steps = 1 if name == '2M' else int(name)
    coarse, fine = (solver_error(name, count * steps, 'lambda') for count in (40, 80))
    assert np.log2(coarse / fine) > slope


def test_uniform_lambda_is_far_more_accurate_than_uniform_time():
    assert solver_error('fast', 50, 'lambda') < 0.02 * solver_error('fast', 50, 'time')


@pytest.mark.parametrize('name', ['fast', '2', '2M'])
@pytest.mark.parametrize('grid', ['time', 'lambda'])
def test_constant_data_prediction_is_solved_exactly(name, grid):
    rng = np.random.default_rng(6)
    data, x, eps_m = rng.normal(size=(3, 2, 3, 3, 2))
    bits_data = rng.normal(size=(2, 3, 3, 2))
    with jax.enable_x64(True):

        def predict(y, n, t):
            alpha, sigma = _traced_alpha_sigma(t[0] / 1000)
            return (y - alpha * data) / sigma, jnp.asarray(bits_data)

        trajectory = make_trajectory(20, name, grid)
        got, map_values = solver.solve(predict, jnp.asarray(x), jnp.asarray(eps_m), trajectory)
    (alpha1, alpha0), (sigma1, sigma0) = schedule.alpha_sigma(np.array([1.0, 0.001]))
    want = alpha0 * data + sigma0 / sigma1 * (x - alpha1 * data)
    np.testing.assert_allclose(got, want, atol=1e-9)
    np.testing.assert_array_equal(map_values, bits_data)


def test_fast_orders_and_golden_grid():
    assert fast_orders(50) == [3] * 16 + [2]
    assert fast_orders(9) == [3, 3, 2, 1]
    assert fast_orders(10) == [3, 3, 3, 1]
    trajectory = make_trajectory(50)
    starts = np.flatnonzero(trajectory.begins)
    assert np.diff([*starts, 50]).tolist() == [3] * 16 + [2]
    assert not trajectory.multistep
    np.testing.assert_allclose(trajectory.time, np.linspace(1, 0.001, 51)[:-1], rtol=1e-12)
    # The last step as method.md gives it: m = 0.149 m_s - 1.382 D0 + 2.235 D1.
    keep, first, change = trajectory.keep[-1], trajectory.first[-1], trajectory.change[-1]
    np.testing.assert_allclose([keep, first - change, change], [0.149, -1.382, 2.235], atol=6e-4)


def test_the_network_is_called_exactly_as_often_as_asked():
    calls = []

    def predict(x, m, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t[0], ordered=True)
        return 0.1 * x, 0.1 * m

    x, m = np.random.default_rng(7).normal(size=(2, 1, 2, 2, 2)).astype(np.float32)
    for name, evaluations in [('fast', 50), ('2M', 13), ('2', 8)]:
        calls.clear()
        trajectory = make_trajectory(evaluations, name)
        run = jax.jit(lambda x, m, rows=trajectory: solver.solve(predict, x, m, rows))
        jax.block_until_ready(run(x, m))
        jax.effects_barrier()
        assert len(calls) == evaluations
        assert calls == sorted(calls, reverse=True)
    with pytest.raises(ValueError, match='cannot be steps of order 3'):
        make_trajectory(50, '3')


def test_noise_of_the_map_predicts_the_same_as_the_map_itself():
    """The exact predictor, saying eps of m_t = alpha m_0 + sigma s eps instead of m_0."""
    with jax.enable_x64(True):
        predict, _ = gaussian_pair()
        x, m = jnp.asarray(np.random.default_rng(5).normal(size=(2, 64, 1, 1, 1)))
        trajectory = make_trajectory(20, 'fast')

        def predict_noise(x, m, t):
            noise, data = predict(x, m, t)
            alpha, sigma = _traced_alpha_sigma(t[0] / 1000)
            return noise, (m - alpha * data) / (sigma * 2)

        for clip in (False, True):
            by_data = solver.solve(predict, x, 2 * m, trajectory, clip_map=clip)
            by_noise = solver.solve(
                predict_noise, x, 2 * m, trajectory, clip_map=clip, map_noise_std=2.0
            )
            np.testing.assert_allclose(by_noise[0], by_data[0], rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(by_noise[1], by_data[1], rtol=1e-6, atol=1e-8)
        assert np.abs(by_data[1]).max() > 1  # what is decoded is not clipped


def test_noise_of_the_map_is_the_target_on_request():
    rng = np.random.default_rng(0)
    batch = {
        'latents': rng.normal(size=(3, 4, 4, 2)).astype(np.float32),
        'text': rng.normal(size=(3, 2, 5)).astype(np.float32),
        'category': rng.integers(0, 200, (3, 8, 8), np.uint8),
        'instance': rng.integers(0, 9, (3, 8, 8), np.uint8),
    }
    bound = {
        'scale': 1.0, 'empty_text': np.zeros((2, 5)), 'text_dropout': 0.1, 'map_side': 8,
        'map_noise_std': 2.0, 'void_wins': False,
    }  # fmt: skip
    inputs = loss.draw_inputs(batch, jax.random.key(0), **bound, map_prediction='noise')
    assert loss.draw_inputs(batch, jax.random.key(0), **bound).map_target is None
    np.testing.assert_allclose(2 * inputs.map_target, inputs.map_noise, rtol=1e-6)
    guess = rng.normal(size=inputs.map_noise.shape).astype(np.float32)
    losses = loss.pair_losses(lambda x, m, *_: (x, guess), inputs)
    expected = ((np.asarray(inputs.map_noise) / 2 - guess) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(losses['map'], expected, rtol=1e-5)


def test_given_map_stays_and_is_not_returned():
    x, m = np.random.default_rng(8).normal(size=(2, 1, 2, 2, 2)).astype(np.float32)

    def predict(y, n, t):
        return y - n, None  # moves x, so that a changed map would change the result

    trajectory = make_trajectory(9, 'fast')
    got, map_values = solver.solve(predict, x, m, trajectory, given_map=True)
    alone, _ = solver.solve(lambda y, n, t: (y - m, None), x, m=None, trajectory=trajectory)
    np.testing.assert_allclose(got, alone, rtol=1e-6)
    assert map_values is None
