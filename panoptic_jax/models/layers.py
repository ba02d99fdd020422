"""The dense layer of all networks: flax's, but for a bias gradient and a concatenation saved.

The epsilon of a U-ViT's layer norms is here, too, since kernels compute such norms without flax.

Blocks and networks are made of it in `models/uvit.py` and `models/one_stream.py`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

LAYER_NORM_EPSILON = 1e-5  # PyTorch's


class Dense(nn.Module):
    """y = concatenate(inputs) @ kernel + bias, with `nn.Dense`'s parameters.

    Attributes:
      features: Channels of the output.
      use_bias: Whether a bias is added.
      dtype: Type of the computation; parameters are float32.
      product: The form of the product, see `forms.Forms`.
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """(..., m), (..., n) -> (..., features), the layer of their concatenation (..., m + n)."""
        sizes = [array.shape[-1] for array in inputs]
        kernel_shape = (sum(sizes), self.features)
        kernel = self.param('kernel', self.kernel_init, kernel_shape, jnp.float32)
        # A product per input and their sum: the concatenation would be written and read again.
        product, start = 0, 0
        for array, size in zip(inputs, sizes, strict=True):
            part = kernel[start : start + size].astype(self.dtype)
            product += self.product(array.astype(self.dtype), part)  # (..., features)
            start += size
        if not self.use_bias:
            return product
        bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
        return add_bias(product, bias)


@jax.custom_vjp
def add_bias(array: jax.Array, bias: jax.Array) -> jax.Array:
    """(..., n) + (n,); its gradient is summed over the rows by a matrix product, in float32.

    The plain sum takes a TPU's vector units as long as half of the layer's products take.
    """
    return array + bias.astype(array.dtype)


def _forward(array, bias):
    return add_bias(array, bias), None


def _backward(_, gradient):
    rows = gradient.reshape(-1, gradient.shape[-1])  # (rows, n)
    # Eight equal rows fill a register; the barrier keeps the compiler from seeing a plain sum.
    ones = jnp.ones((8, rows.shape[0]), rows.dtype)
    ones = jax.lax.optimization_barrier(ones)
    sums = jnp.matmul(ones, rows, preferred_element_type=jnp.float32)  # (8, n)
    return gradient, sums[0]


add_bias.defvjp(_forward, _backward)
