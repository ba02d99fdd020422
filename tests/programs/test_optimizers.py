"""The optimisers: AdamW's first step, and what Muon does to which parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from panoptic_jax.programs import optimizers, state


def test_optimizer_is_adamw_with_decay_on_everything():
    rng = np.random.default_rng(0)
    params = {'kernel': rng.normal(size=(3, 2)), 'bias': rng.normal(size=2)}
    params = jax.tree.map(jnp.float32, params)
    optimizer = optimizers.make('adamw', lambda step: 0.1, weight_decay=0.03, betas=(0.9, 0.8))
    train_state = state.create(params, lambda path: False, optimizer)
    gradient = jax.tree.map(lambda a: a + 1, params)
    train_state, norms = state.apply_gradients(train_state, gradient, optimizer, 0.9)
    for name, value in params.items():
        # The first step of Adam is the gradient's sign.
        expected = value - 0.1 * (np.sign(gradient[name]) + 0.03 * value)
        np.testing.assert_allclose(train_state.params[name], expected, atol=1e-5)
    squares = sum(float(jnp.sum(a**2)) for a in gradient.values())
    assert norms['grad_norm'] == pytest.approx(np.sqrt(squares), rel=1e-6)
    moved = jax.tree.map(lambda a, b: a - b, train_state.params, params)
    assert norms['update_norm'] == pytest.approx(float(optax.tree.norm(moved)), rel=1e-5)


def first_update(params, gradient):
    optimizer = optimizers.make('muon', lambda step: 0.1, weight_decay=0.03, betas=(0.9, 0.8))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    return jax.tree.map(lambda update, value: update + 0.1 * 0.03 * value, updates, params)


def test_muon_moves_hidden_matrices_equally_in_all_directions():
    rng = np.random.default_rng(1)
    shapes = {
        'blocks_0': {'fc1': {'kernel': (32, 64)}},
        'in_0': {'conv1': {'kernel': (3, 3, 16, 24)}},
    }
    is_shape = {'is_leaf': lambda each: isinstance(each, tuple)}
    params, gradient = (
        jax.tree.map(lambda shape: jnp.float32(rng.normal(size=shape)), shapes, **is_shape)
        for _ in range(2)
    )
    updates = jax.tree.leaves(first_update(params, gradient))
    for update, raw in zip(updates, jax.tree.leaves(gradient), strict=True):
        matrix, slope = (np.asarray(each).reshape(-1, each.shape[-1]) for each in (update, raw))
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.min() > 0.7 * values.max()
        # Without Muon they differ by far more.
        raw_values = np.linalg.svd(slope, compute_uv=False)
        assert raw_values.min() < 0.6 * raw_values.max()
        assert np.sum(matrix * slope) < 0  # downhill
        # The size of AdamW's updates, about 0.2 times the rate.
        assert np.sqrt(np.mean(matrix**2)) == pytest.approx(0.02, rel=0.25)


def test_muon_leaves_vectors_heads_and_small_matrices_to_adamw():
    rng = np.random.default_rng(2)
    params = {
        'blocks_0': {'fc1': {'bias': (32,), 'kernel': (32, 8)}, 'gain': (4, 1)},
        'image_head': {'kernel': (32, 32)},
        'words': {'embed': {'kernel': (32, 32)}, 'positions': (24, 32)},
        'scalar': (),
    }
    params, gradient = (
        jax.tree.map(
            lambda shape: jnp.float32(rng.normal(size=shape)),
            params,
            is_leaf=lambda each: isinstance(each, tuple),
        )
        for _ in range(2)
    )
    updates = first_update(params, gradient)
    for update, slope in zip(jax.tree.leaves(updates), jax.tree.leaves(gradient), strict=True):
        # Nesterov's form of Adam makes the first step up to (1 - b1) larger than the sign.
        assert np.all(np.sign(update) == -np.sign(slope))
        np.testing.assert_allclose(np.abs(update), np.abs(update).ravel()[0], rtol=1e-3)


def test_stacked_matrices_move_as_each_matrix_does_alone():
    shapes = {
        'blocks_0': {'fc1': {'kernel': (32, 64)}, 'fc2': {'kernel': (64, 32)}},
        'blocks_1': {'fc1': {'kernel': (32, 64), 'bias': (64,)}},
        'in_0': {'conv1': {'kernel': (3, 3, 16, 24)}, 'conv2': {'kernel': (9, 16, 24)}},
        'image_head': {'kernel': (32, 64)},
    }
    rng = np.random.default_rng(3)

    def drawn(tree):
        is_shape = {'is_leaf': lambda each: isinstance(each, tuple)}
        return jax.tree.map(lambda shape: jnp.float32(rng.normal(size=shape)), tree, **is_shape)

    gradients = [drawn(shapes) for _ in range(3)]

    def trained(params):
        optimizer = optimizers.make('muon', lambda step: 0.1, weight_decay=0.03, betas=(0.9, 0.8))
        train_state = state.create(params, lambda path: False, optimizer)
        for gradient in gradients:
            own = pruned(gradient, params)
            train_state, _ = state.apply_gradients(train_state, own, optimizer, 0.9)
        return flatten_dict(train_state.params)

    params = drawn(shapes)
    together = trained(params)
    assert len(together) == 7
    for path, value in flatten_dict(params).items():
        alone = trained(unflatten_dict({path: value}))
        np.testing.assert_allclose(together[path], alone[path], rtol=1e-5, atol=1e-6)


def pruned(tree, like):
    """The part of a tree whose paths another tree has."""
    kept = flatten_dict(like)
    return unflatten_dict({path: v for path, v in flatten_dict(tree).items() if path in kept})
