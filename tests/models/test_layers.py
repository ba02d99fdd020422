"""The dense layer is flax's, in parameters, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.models import forms, layers


@pytest.mark.parametrize('product', [jnp.matmul, forms.product_of_rows])
def test_dense_is_that_of_flax(product):
    rng = np.random.default_rng(0)
    a, b = jnp.float32(rng.normal(size=(3, 5, 24))), jnp.float32(rng.normal(size=(3, 5, 8)))
    theirs, ours = nn.Dense(16), layers.Dense(16, product=product)
    params = theirs.init(jax.random.key(0), jnp.concatenate([a, b], -1))
    params['params']['bias'] = jnp.float32(rng.normal(size=16))
    shapes = jax.tree.map(jnp.shape, params)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), a, b)) == shapes

    def of(model, *inputs):
        return jax.vjp(lambda params: model.apply(params, *inputs), params)

    expected, their_pull = of(theirs, jnp.concatenate([a, b], -1))
    found, our_pull = of(ours, a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    gradient = jnp.float32(rng.normal(size=found.shape))
    for ours_, theirs_ in zip(
        jax.tree.leaves(our_pull(gradient)), jax.tree.leaves(their_pull(gradient)), strict=True
    ):
        np.testing.assert_allclose(ours_, theirs_, rtol=1e-5, atol=1e-5)


def test_bias_gradient_is_summed_in_float32():
    """4,096 rows of about 1: a running bfloat16 sum would stop growing at 256."""
    rows = jnp.bfloat16(1 + np.random.default_rng(0).uniform(-0.2, 0.2, (4096, 3)))
    _, pull_back = jax.vjp(lambda bias: layers.add_bias(rows, bias), jnp.zeros(3))
    (found,) = pull_back(rows)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.float32(rows).sum(0), rtol=1e-5)
