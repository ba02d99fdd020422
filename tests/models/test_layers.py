"""The dense layer is flax's, in parameters, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.models import layers
from panoptic_jax.models.product_of_rows import product_of_rows


@pytest.mark.parametrize('product', [jnp.matmul, product_of_rows])
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


@pytest.mark.parametrize(('size', 'features'), [(64, 128), (256, 256), (256, 512), (512, 256)])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_product_of_rows_has_the_gradients_of_the_plain_product(size, features, dtype):
    rng = np.random.default_rng(size)
    array = jnp.asarray(rng.normal(size=(3, 50, size)), dtype)
    kernel = jnp.asarray(rng.normal(size=(size, features)) / size, dtype)
    gradient = jnp.asarray(rng.normal(size=(3, 50, features)), dtype)
    expected, their_pull = jax.vjp(jnp.matmul, array, kernel)
    found, our_pull = jax.vjp(product_of_rows, array, kernel)
    pairs = [(found, expected), *zip(our_pull(gradient), their_pull(gradient), strict=True)]
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
        error = jnp.abs(ours - theirs).max() / jnp.abs(theirs).max()
        assert error < tolerance


def test_rows_are_written_anew_where_it_pays():
    """Reading down columns far apart is what the kernel's gradient avoids, and only there."""

    def barriers(size, features):
        array, kernel = jnp.zeros((8, size)), jnp.zeros((size, features))
        gradients = jax.grad(lambda *inputs: product_of_rows(*inputs).sum(), argnums=(0, 1))
        return str(jax.make_jaxpr(gradients)(array, kernel)).count('optimization_barrier')

    assert barriers(512, 2048) == 1
    assert barriers(2048, 512) == 0
    assert barriers(128, 512) == 0
