"""The exact GELU of the U-ViT family, and a form of it whose gradient keeps less.

`models/forms.py` says which platform gets which. The joint network has SiLU in its place.
"""

import math

import jax
import jax.numpy as jnp

# erf(x / sqrt(2)) is about tanh(x p(x^2)) for a polynomial p of these coefficients: the best ones
# for |x| < 5, by the relative error of the GELU. Beyond, the GELU is 0 or x in bfloat16.
_TANH_OF_ERF = 0.796137077942136, 0.03796242358310083, -4.9712775147752e-4, 4.601255800649222e-6
_DENSITY_OF_ZERO = -0.5 * math.log2(2 * math.pi)  # of normal numbers, as a power of two


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU; in bfloat16 one that differs from it by less than rounding does."""
    if x.dtype == jnp.bfloat16:
        return _rounded_gelu(x)
    # Through erf: `jax.nn.gelu` takes erfc, which costs 2.5 times as much.
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@jax.custom_vjp
def _rounded_gelu(x: jax.Array) -> jax.Array:
    """A TPU has a unit for tanh, while erf and its gradient take the vector units forty steps.

    They take as long there as the products on both sides.
    """
    number = x.astype(jnp.float32)
    return (number * _normal_distribution(number)).astype(x.dtype)


def _normal_distribution(number: jax.Array) -> jax.Array:
    """The share of normal numbers below each number, float32."""
    square = number * number
    *others, slope = _TANH_OF_ERF
    for coefficient in reversed(others):
        slope = slope * square + coefficient
    return 0.5 + 0.5 * jnp.tanh(number * slope)


def _gelu_and_input(x):
    return gelu(x), x


def _rounded_gelu_gradient(x, gradient):
    _, slope = gelu_and_slope(x.astype(jnp.float32))
    return ((slope * gradient.astype(jnp.float32)).astype(x.dtype),)


def gelu_and_slope(number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The GELU of float32 numbers and its derivative, both good to bfloat16's rounding."""
    # The polynomial's own derivative takes the vector units twice as long as exp, a unit's work.
    # In powers of two, which are what its unit computes, the density is this power.
    power = _DENSITY_OF_ZERO - 0.5 * math.log2(math.e) * (number * number)
    density = jnp.exp2(power)
    share = _normal_distribution(number)
    return number * share, share + number * density


_rounded_gelu.defvjp(_gelu_and_input, _rounded_gelu_gradient)


@jax.custom_vjp
def gelu_computed_again(x: jax.Array) -> jax.Array:
    """`gelu`, of which a gradient keeps the input alone.

    A GPU otherwise writes and reads the float32 of tanh or erf, twice as much as the input has.
    """
    return gelu(x)


def _gelu_gradient(x, gradient):
    # Behind the barrier it is another computation, which the compiler cannot take from the first.
    _, pull_back = jax.vjp(gelu, jax.lax.optimization_barrier(x))
    return pull_back(gradient)


gelu_computed_again.defvjp(_gelu_and_input, _gelu_gradient)
