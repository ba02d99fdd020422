"""The GELU: the exact one, in both types, and what its gradient keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from panoptic_jax.models.gelu import gelu, gelu_computed_again


def test_gelu_is_the_exact_one():
    x = jnp.linspace(-6, 6, 1001)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=2e-6)
    assert np.abs(gelu(x) - jax.nn.gelu(x)).max() > 1e-4


def test_gelu_in_bfloat16_differs_by_less_than_rounding():
    """All finite bfloat16 numbers, against float64."""
    bits = np.arange(2**16, dtype=np.uint16)
    rounded = jax.lax.bitcast_convert_type(jnp.asarray(bits), jnp.bfloat16)
    rounded = rounded[jnp.isfinite(rounded) & (jnp.abs(rounded) < 1e30)]
    x = np.asarray(rounded, np.float64)
    share = 0.5 * special.erfc(-x / np.sqrt(2))
    expected = x * share
    found, pull_back = jax.vjp(gelu, rounded)
    (slope,) = pull_back(jnp.ones_like(found))
    assert found.dtype == slope.dtype == jnp.bfloat16
    # Rounding is half of a unit in the last place; the form itself adds less than another half.
    units = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(expected), 1e-30))) - 7)
    errors = np.abs(np.asarray(found, np.float64) - expected)
    assert (errors <= units + 2e-6).all()
    gradient = share + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    units = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(gradient), 1e-30))) - 7)
    errors = np.abs(np.asarray(slope, np.float64) - gradient)
    assert (errors <= units / 2 + 4e-4).all()


def test_its_gradient_in_bfloat16_keeps_the_input_alone():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(40, 30)), jnp.bfloat16)
    _, pull_back = jax.vjp(gelu, x)
    (kept,) = jax.tree.leaves(pull_back)
    np.testing.assert_array_equal(jnp.float32(kept), jnp.float32(x))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_computed_again_it_is_the_same_and_keeps_its_input_alone(dtype):
    rng = np.random.default_rng(0)
    x, gradient = (jnp.asarray(rng.normal(size=(40, 30)), dtype) for _ in range(2))
    expected, their_pull = jax.vjp(gelu, x)
    found, our_pull = jax.vjp(gelu_computed_again, x)
    np.testing.assert_array_equal(jnp.float32(found), jnp.float32(expected))
    (ours,), (theirs,) = our_pull(gradient), their_pull(gradient)
    assert ours.dtype == dtype
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(jnp.float32(ours), jnp.float32(theirs), rtol=tolerance, atol=1e-6)
    (kept,) = jax.tree.leaves(our_pull)
    np.testing.assert_array_equal(jnp.float32(kept), jnp.float32(x))
