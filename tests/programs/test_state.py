"""The training state: schedule, average, optimiser, sums of the metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from panoptic_jax.programs import state


def rates(**arguments):
    return [float(state.learning_rate(jnp.int32(step), **arguments)) for step in range(12)]


def test_learning_rate_warms_up_stays_and_cools_down():
    found = rates(peak=2.0, warmup_steps=4, steps=10, cooldown=0.5)
    expected = [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 1.6, 1.2, 0.8, 0.4, 0.0, 0.0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert rates(peak=2.0, warmup_steps=0, steps=10, cooldown=0.0) == [2.0] * 12
    met = rates(peak=1.0, warmup_steps=4, steps=4, cooldown=1.0)[:5]
    np.testing.assert_allclose(met, [0.25, 0.375, 0.375, 0.25, 0.0], rtol=1e-6)


def test_average_follows_its_closed_form():
    """ema_n = sum of what each step put in times the decays of the steps after it."""
    params = {'w': jnp.float32([1.0, -2.0])}
    optimizer = optax.sgd(0.1)
    found = state.create(params, lambda path: False, optimizer)
    values, decay = [np.float64([1.0, -2.0])], 0.6
    for step in range(20):
        gradient = {'w': jnp.float32([0.5 + step, -1.0])}
        found, _ = state.apply_gradients(found, gradient, optimizer, decay)
        values.append(np.float64(found.params['w']))
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(20)]
    assert decays[0] == 0.1
    assert decays[-1] == decay
    expected = values[0] * np.prod(decays)
    for step in range(20):
        expected = expected + values[step + 1] * (1 - decays[step]) * np.prod(decays[step + 1 :])
    np.testing.assert_allclose(found.ema['w'], expected, rtol=1e-5)
    assert int(found.step) == 20


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_an_average_that_is_not_finite_shows_in_the_norm_of_the_update(bad):
    optimizer = optax.sgd(0.5)
    params, gradient = ({'w': jnp.float32(values)} for values in ([1.0, -2.0], [6.0, 8.0]))
    found = state.create(params, lambda path: False, optimizer)
    _, norms = state.apply_gradients(found, gradient, optimizer, 0.9)
    assert norms['update_norm'] == pytest.approx(5.0)
    found = found.replace(ema={'w': jnp.float32([1.0, bad])})
    _, norms = state.apply_gradients(found, gradient, optimizer, 0.9)
    assert not np.isfinite(norms['update_norm'])


def test_split_and_merge_are_inverse():
    params = {'image': {'a': {'kernel': 1, 'bias': 2}, 'b': 3}, 'map': {'a': 4}}
    trainable, frozen = state.split(params, lambda path: path.startswith('image/a/'))
    assert frozen == {'image': {'a': {'kernel': 1, 'bias': 2}}}
    assert trainable == {'image': {'b': 3}, 'map': {'a': 4}}
    assert state.merge(trainable, frozen) == params
    assert state.merge(params, {}) == params


def add(totals, step, image, maps=None, *, t=(1, 200, 201, 1000), map_t=None, **norms):
    losses = {'image': jnp.float32(image)} | ({} if maps is None else {'map': jnp.float32(maps)})
    norms = {'grad_norm': 2.0, 'update_norm': 0.5} | norms
    return state.add_totals(
        totals,
        step=jnp.int32(step),
        losses=losses,
        t={'image': jnp.array(t), 'map': jnp.array(map_t or t)},
        norms=norms,
    )


def test_log_line_holds_means_over_the_window_and_per_noise_level():
    totals = add(state.zero_totals(), 1, [1, 2, 3, 4], [0, 0, 1, 1])
    totals = add(totals, 2, [3, 4, 5, 6], [1, 1, 2, 2], t=(1, 1, 1, 1), grad_norm=4.0)
    means = state.means_of(jax.device_get(totals), has_map=True)
    assert means['loss_image'] == pytest.approx(3.5)
    assert means['loss_map'] == pytest.approx(1.0)
    assert means['loss'] == pytest.approx(4.5)
    assert means['grad_norm'] == pytest.approx(3.0)
    assert means['update_norm'] == pytest.approx(0.5)
    assert means['loss_image/t0001-0200'] == pytest.approx((1 + 2 + 3 + 4 + 5 + 6) / 6)
    assert means['loss_image/t0201-0400'] == pytest.approx(3)
    assert means['loss_map/t0801-1000'] == pytest.approx(1)
    assert 'loss_image/t0401-0600' not in means  # no example was there
    without = state.means_of(
        jax.device_get(add(state.zero_totals(), 1, [1, 2, 3, 4])), has_map=False
    )
    assert not [name for name in without if 'map' in name]


def test_streams_with_own_times_are_counted_by_their_own_and_clean_ones_not_at_all():
    totals = state.zero_totals(own_times=True)
    totals = add(totals, 1, [1, 2, 3, 4], [5, 6, 7, 0], t=(0, 200, 201, 1000), map_t=(1, 1, 999, 0))
    means = state.means_of(jax.device_get(totals), has_map=True)
    assert means['loss_image/t0001-0200'] == pytest.approx(2)
    assert means['loss_image/t0801-1000'] == pytest.approx(4)
    assert means['loss_map/t0001-0200'] == pytest.approx(5.5)
    assert means['loss_map/t0801-1000'] == pytest.approx(7)
    assert 'loss_map/t0201-0400' not in means


@pytest.mark.parametrize(
    'bad',
    [{'image': [1, np.nan, 1, 1]}, {'grad_norm': np.inf}, {'update_norm': np.nan}],
    ids=['loss', 'gradient', 'update'],
)
def test_first_step_that_is_not_finite_is_remembered(bad):
    totals = add(state.zero_totals(), 6, [1, 1, 1, 1])
    assert totals['non_finite_step'] == 0
    totals = add(totals, 7, **({'image': [1, 1, 1, 1]} | bad))
    totals = add(totals, 8, **({'image': [1, 1, 1, 1]} | bad))
    totals = add(totals, 9, [1, 1, 1, 1])
    assert totals['non_finite_step'] == 7
