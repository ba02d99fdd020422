"""Plans, solver and guidance against golden values, closed forms and each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.diffusion import guidance, schedule, solver
from panoptic_jax.diffusion.plan import make_plan
from panoptic_jax.diffusion.streams import NAMES, PAPER, PREDICTIONS, Stream
from panoptic_jax.diffusion.trajectory import fast_orders

PAIR = {'image': 1.0, 'map': 1.0}
DATA = {name: Stream(2.0, 'data') for name in NAMES}


def pair_plan(evaluations, name='fast', grid='time', **more):
    return make_plan(PAIR, evaluations=evaluations, solver=name, grid=grid, **more)


def test_guidance_is_one_batched_call_that_keeps_the_map():
    rng = np.random.default_rng(4)
    x, m = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5))
    text, empty = rng.normal(size=(2, 7, 6)), rng.normal(size=(7, 6))
    calls = []

    def predict(x, m, text, t):
        calls.append(x.shape)
        return x * text.mean((1, 2))[:, None, None], m * text.sum((1, 2))[:, None] + t[:, None]

    def output(image, map_):
        weights = guidance.Guidance({'image': image, 'map': map_})
        return guidance.guided(predict, text, empty, weights)(x, m, np.ones(2))

    noise, bits_out = output(1.5, 0.5)
    w, u = text.mean((1, 2)), empty.mean()
    np.testing.assert_allclose(noise, x * (w + 1.5 * (w - u))[:, None, None], rtol=1e-4)
    w, u = text.sum((1, 2)), empty.sum()
    np.testing.assert_allclose(bits_out, m * (w + 0.5 * (w - u))[:, None] + 1, rtol=1e-4)
    alone, _ = output(0.0, 0.0)
    np.testing.assert_allclose(alone, x * text.mean((1, 2))[:, None, None], rtol=1e-5)
    assert calls == [(4, 3, 4), (2, 3, 4)]


def test_guidance_is_nought_outside_its_times():
    rng = np.random.default_rng(4)
    x, m = rng.normal(size=(2, 4, 3, 3, 2))
    text, empty = rng.normal(size=(4, 7, 6)), rng.normal(size=(7, 6))

    def predict(x, m, text, t):
        return tuple(z * text.mean((1, 2))[:, None, None, None] for z in (x, m))

    def output(t, **interval):
        weights = guidance.Guidance({'image': 1.5, 'map': 1.5}, **interval)
        return guidance.guided(predict, text, empty, weights)(x, m, jnp.asarray(t))

    plain = predict(x, m, text, 0)
    always = output(np.ones(4))
    one = np.array([199.0, 201.0, 799.0, 801.0])
    both = np.stack([one, one[::-1]], axis=-1)
    inside = np.array([False, True, True, False])
    for t, acts in ((one, (inside, inside)), (both, (inside, inside[::-1]))):
        found = output(t, first=0.2, last=0.8)
        for stream in range(2):
            want = np.where(acts[stream][:, None, None, None], always[stream], plain[stream])
            np.testing.assert_allclose(found[stream], want, rtol=1e-5)
        assert not np.allclose(found[0], plain[0])


def traced_alpha_sigma(time):
    log_alphas = np.concatenate([[0.0], schedule.log_alphas()])
    log_alpha = jnp.interp(time, jnp.arange(1001) / 1000, jnp.asarray(log_alphas))
    return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))


def said(stream, data, noisy, alpha, sigma):
    """What a perfect network says of a stream whose clean data it guesses to be `data`."""
    noise = (noisy - alpha * data) / (sigma * stream.noise_std)
    return {
        'data': data,
        'noise': noise,
        'velocity': alpha * noise - sigma * data / stream.noise_std,
    }[stream.prediction]


def gaussian_pair(streams=PAPER):
    """A correlated Gaussian (image, map) pair, its exact predictions and its exact ODE solution."""
    mean, cov = np.array([0.7, -0.4]), np.array([[0.5, 0.3], [0.3, 0.6]])
    scale = np.array([streams[name].noise_std for name in NAMES])
    white_cov, white_mean = cov / np.outer(scale, scale), mean / scale
    eigenvalues, vectors = np.linalg.eigh(white_cov)

    def predict(x, m, t):
        alpha, sigma = traced_alpha_sigma(t[0] / 1000)
        z = jnp.concatenate([x, m], -1).reshape(-1, 2) / scale
        spread = alpha**2 * eigenvalues + sigma**2
        centred = (z - alpha * white_mean) @ vectors
        data = scale * (white_mean + (alpha * eigenvalues / spread * centred) @ vectors.T)
        return tuple(
            said(streams[name], data[:, i : i + 1].reshape(x.shape), noisy, alpha, sigma)
            for i, (name, noisy) in enumerate(zip(NAMES, (x, m), strict=True))
        )

    def exact(x, m):
        def spread(time):
            alpha, sigma = schedule.alpha_sigma(time)
            return alpha, np.sqrt(alpha**2 * eigenvalues + sigma**2)

        (a1, s1), (a0, s0) = spread(1.0), spread(0.001)
        z = np.concatenate([x, m], -1).reshape(-1, 2) / scale
        z = a0 * white_mean + ((z - a1 * white_mean) @ vectors * (s0 / s1)) @ vectors.T
        return z[:, :1].reshape(x.shape) * scale[0]

    return predict, exact


def solver_error(name, evaluations, grid):
    """Largest error of the image at t = 1/1000, which the map's errors reach as well."""
    with jax.enable_x64(True):
        predict, exact = gaussian_pair()
        x, m = np.random.default_rng(5).normal(size=(2, 64, 1, 1, 1))
        m *= 2
        plan = pair_plan(evaluations, name, grid)

        @jax.jit
        def run(x, m):
            return solver.solve(predict, {'image': x, 'map': m}, plan, PAPER)[0]['image']

        return np.abs(run(jnp.asarray(x), jnp.asarray(m)) - exact(x, m)).max()


SLOPES = [('1', 0.85), ('2', 1.85), ('3', 2.5), ('2M', 1.85)]


@pytest.mark.parametrize(('name', 'slope'), SLOPES)
def test_solver_converges_at_its_order(name, slope):
    steps = 1 if name == '2M' else int(name)
    coarse, fine = (solver_error(name, count * steps, 'lambda') for count in (40, 80))
    assert np.log2(coarse / fine) > slope


def own_grid_error(name, evaluations):
    """Largest error of independent Gaussian streams, the map ahead by a fifth of the evaluations.

    Each stream starts from a time of its own; the map's last state is its data prediction.
    """
    starts, mean, variance = {'image': 0.9, 'map': 0.7}, 0.6, 0.3
    with jax.enable_x64(True):

        def predict(x, m, t):
            predictions = []
            for i, (name, noisy) in enumerate(zip(NAMES, (x, m), strict=True)):
                alpha, sigma = traced_alpha_sigma(t[0, i] / 1000)
                spread = alpha**2 * variance + (sigma * streams[name].noise_std) ** 2
                data = mean + alpha * variance / spread * (noisy - alpha * mean)
                predictions.append(said(streams[name], data, noisy, alpha, sigma))
            return tuple(predictions)

        streams = {'image': Stream(1.5, 'velocity'), 'map': Stream(2.0, 'data')}
        states = dict(
            zip(NAMES, np.random.default_rng(5).normal(size=(2, 64, 1, 1, 1)), strict=True)
        )
        plan = make_plan(starts, evaluations=evaluations, solver=name, grid='lambda', offset=-0.2)
        run = jax.jit(lambda states: solver.solve(predict, states, plan, streams, own_times=True))
        ends, _ = run({name: jnp.asarray(state) for name, state in states.items()})
        (a1, a0), (s1, s0) = schedule.alpha_sigma(np.array([starts['map'], 0.001]))
        roots = [np.sqrt(a**2 * variance + 4 * s**2) for a, s in ((a1, s1), (a0, s0))]
        want = a0 * mean + (states['map'] - a1 * mean) * roots[1] / roots[0]
        return np.abs(ends['map'] - want).max()


@pytest.mark.parametrize(('name', 'slope'), SLOPES)
def test_a_stream_on_its_own_grid_converges_at_its_order(name, slope):
    steps = 1 if name == '2M' else int(name)
    coarse, fine = (own_grid_error(name, count * steps) for count in (40, 80))
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
            alpha, sigma = traced_alpha_sigma(t[0] / 1000)
            return (y - alpha * data) / sigma, jnp.asarray(bits_data)

        states = {'image': jnp.asarray(x), 'map': jnp.asarray(eps_m)}
        plan = pair_plan(20, name, grid)
        got, values = solver.solve(predict, states, plan, PAPER, clip=['map'])
    (alpha1, alpha0), (sigma1, sigma0) = schedule.alpha_sigma(np.array([1.0, 0.001]))
    want = alpha0 * data + sigma0 / sigma1 * (x - alpha1 * data)
    np.testing.assert_allclose(got['image'], want, atol=1e-9)
    np.testing.assert_array_equal(values['map'], bits_data)


def test_fast_orders_and_golden_grid():
    assert fast_orders(50) == [3] * 16 + [2]
    assert fast_orders(9) == [3, 3, 2, 1]
    assert fast_orders(10) == [3, 3, 3, 1]
    plan = pair_plan(50)
    starts = np.flatnonzero(plan.begins)
    assert np.diff([*starts, 50]).tolist() == [3] * 16 + [2]
    assert not plan.multistep
    for rows in plan.streams.values():
        np.testing.assert_allclose(rows.time, np.linspace(1, 0.001, 51)[:-1], rtol=1e-12)
        # The last step as method.md gives it: m = 0.149 m_s - 1.382 D0 + 2.235 D1.
        keep, first, change = rows.keep[-1], rows.first[-1], rows.change[-1]
        found = [keep, first - change, change]
        np.testing.assert_allclose(found, [0.149, -1.382, 2.235], atol=6e-4)


def test_the_network_is_called_exactly_as_often_as_asked():
    calls = []

    def predict(x, m, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t[0], ordered=True)
        return 0.1 * x, 0.1 * m

    x, m = np.random.default_rng(7).normal(size=(2, 1, 2, 2, 2)).astype(np.float32)
    for name, evaluations in [('fast', 50), ('2M', 13), ('2', 8)]:
        calls.clear()
        plan = pair_plan(evaluations, name)
        states = {'image': x, 'map': m}
        run = jax.jit(lambda states, plan=plan: solver.solve(predict, states, plan, PAPER))
        jax.block_until_ready(run(states))
        jax.effects_barrier()
        assert len(calls) == evaluations
        assert calls == sorted(calls, reverse=True)
    with pytest.raises(ValueError, match='cannot be steps of order 3'):
        pair_plan(50, '3')


@pytest.mark.parametrize('offset', [-0.5, -0.3, 0.2, 0.5])
@pytest.mark.parametrize(('name', 'evaluations'), [('fast', 20), ('3', 21), ('2M', 13)])
def test_streams_with_an_offset_begin_and_end_between_steps(offset, name, evaluations):
    plan = pair_plan(evaluations, name, offset=offset)
    ahead, behind = ('map', 'image') if offset > 0 else ('image', 'map')
    assert plan.evaluations == evaluations
    boundaries = {*np.flatnonzero(plan.begins), evaluations}
    for stream in NAMES:
        first, end = plan.spans[stream]
        assert {first, end} <= boundaries
        assert end - first == pytest.approx((1 - abs(offset)) * evaluations, abs=3)
        rows = plan.streams[stream]
        assert (rows.time[:first] == 1).all()
        assert (rows.time[end:] == 0).all()
        assert (np.diff(rows.time[first:end]) < 0).all()
        still = np.r_[0:first, end:evaluations]
        assert (rows.keep[still] == 1).all()
        assert not rows.first[still].any()
        assert not rows.change[still].any()
    assert plan.spans[ahead][0] == 0
    assert plan.spans[behind][1] == evaluations
    if abs(offset) == 0.5:
        assert plan.spans[ahead][1] == plan.spans[behind][0]


@pytest.mark.parametrize('std', [1.0, 2.0])
def test_all_kinds_of_prediction_give_the_same_pair(std):
    x, m = np.random.default_rng(5).normal(size=(2, 64, 1, 1, 1))
    found = []
    with jax.enable_x64(True):
        for kind in PREDICTIONS:
            streams = {name: Stream(std, kind) for name in NAMES}
            predict, _ = gaussian_pair(streams)
            states = {'image': jnp.asarray(std * x), 'map': jnp.asarray(std * m)}
            plan = pair_plan(20)
            found.append(solver.solve(predict, states, plan, streams, clip=['map']))
    for other in found[1:]:
        for got, want in zip(jax.tree.leaves(other), jax.tree.leaves(found[0]), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)
    assert np.abs(found[0][1]['map']).max() > 1  # what is decoded is not clipped


def coupled(x, m, t):
    """A made-up network with own times: both data predictions depend on everything."""
    time = t[:, :, None, None, None] / 1000
    mixed = jnp.tanh(x + 0.5 * m) + 0.3 * time[:, 0] - 0.2 * time[:, 1]
    return mixed, jnp.cos(m - 0.7 * x) + 0.1 * time[:, 0] + 0.4 * time[:, 1]


def normal_states(seed=8):
    x, m = np.random.default_rng(seed).normal(size=(2, 3, 2, 2, 2)).astype(np.float32)
    return {'image': jnp.asarray(x), 'map': jnp.asarray(m)}


def test_a_network_that_undoes_unit_inputs_draws_the_same():
    plan = make_plan({'image': 1.0, 'map': 1.0}, evaluations=6, solver='3', offset=0.5)
    plain = {'image': Stream(2.0, 'data'), 'map': Stream(4.0, 'data')}
    unit = {name: dataclasses.replace(each, unit_input=True) for name, each in plain.items()}

    def undone(x, m, t):
        inputs = []
        for name, value, time in zip(NAMES, (x, m), t.T, strict=True):
            alpha, sigma = schedule.alpha_sigma(np.asarray(time) / 1000)
            size = np.sqrt(alpha**2 + (plain[name].noise_std * sigma) ** 2)
            inputs.append(value * size[:, None, None, None])
        return coupled(*inputs, t)

    with jax.disable_jit():
        found, expected = (
            solver.solve(predict, normal_states(), plan, streams, own_times=True)
            for predict, streams in ((undone, unit), (coupled, plain))
        )
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_a_standing_stream_stays_and_is_not_returned():
    states = normal_states()

    def predict(y, n, t):
        return y - n, None  # moves x, so that a changed map would change the result

    plan = make_plan({'image': 1.0, 'map': 0.0}, evaluations=9)
    got, values = solver.solve(predict, states, plan, PAPER)
    alone, _ = solver.solve(
        lambda y, n, t: (y - states['map'], None),
        {'image': states['image']},
        make_plan({'image': 1.0}, evaluations=9),
        PAPER,
    )
    np.testing.assert_allclose(got['image'], alone['image'], rtol=1e-6)
    assert set(got) == set(values) == {'image'}


def test_map_first_is_two_runs_in_turn():
    states = normal_states()
    finish = {'map': jnp.sign}
    for name in ('fast', '2M'):
        plan = pair_plan(16, name, offset=0.5)
        both, values = solver.solve(
            coupled, states, plan, DATA, own_times=True, clip=['map'], finish=finish
        )

        def predict_map(x, m, t):
            beside = jnp.stack([jnp.full_like(t[:, 0], 1000.0), t[:, 1]], axis=-1)
            return coupled(x, m, beside)

        half = make_plan({'image': 0.0, 'map': 1.0}, evaluations=8, solver=name)
        _, first = solver.solve(predict_map, states, half, DATA, own_times=True, clip=['map'])
        np.testing.assert_allclose(values['map'], first['map'], atol=1e-5)
        given = states | {'map': jnp.sign(first['map'])}
        np.testing.assert_array_equal(both['map'], given['map'])
        half = make_plan({'image': 1.0, 'map': 0.0}, evaluations=8, solver=name)
        second, _ = solver.solve(coupled, given, half, DATA, own_times=True)
        np.testing.assert_allclose(both['image'], second['image'], atol=1e-5)


@pytest.mark.parametrize('name', ['fast', '2M'])
def test_known_parts_come_out_exactly_and_are_seen_at_every_time(name):
    rng = np.random.default_rng(9)
    states, seen = normal_states(), []
    clean = {n: rng.normal(size=(3, 2, 2, 2)).astype(np.float32) for n in NAMES}
    mask = rng.random((3, 2, 2, 1)) < 0.5
    known = {n: solver.Known(mask, clean[n], states[n] / 2) for n in NAMES}

    def predict(x, m, t):
        jax.debug.callback(lambda *a: seen.append([np.asarray(b) for b in a]), x, m, t)
        return coupled(x, m, t)

    plan = make_plan({'image': 1.0, 'map': 0.6}, evaluations=7, solver=name, offset=0.3)
    ends, values = solver.solve(predict, states, plan, DATA, own_times=True, known=known)
    jax.effects_barrier()
    for n in NAMES:
        inside = np.broadcast_to(mask, clean[n].shape)
        for result in (ends, values):
            np.testing.assert_array_equal(np.asarray(result[n])[inside], clean[n][inside])
            assert not np.allclose(np.asarray(result[n])[~inside], clean[n][~inside], atol=0.01)
    for *pair, t in sorted(seen, key=lambda each: -each[2].sum())[1:]:
        for place, n in enumerate(NAMES):
            alpha, sigma = schedule.alpha_sigma(t[0, place] / 1000.0)
            want = alpha * clean[n] + sigma * np.asarray(states[n])
            inside = np.broadcast_to(mask, want.shape)
            np.testing.assert_allclose(pair[place][inside], want[inside], atol=1e-5)


def test_one_time_refuses_a_plan_of_two():
    for plan in (pair_plan(8, offset=0.5), make_plan({'image': 1.0, 'map': 0.5}, evaluations=8)):
        with pytest.raises(ValueError, match='one time needs equal times'):
            solver.solve(coupled, normal_states(), plan, DATA)
    with pytest.raises(ValueError, match='take two steps at least'):
        pair_plan(1, offset=0.5)
