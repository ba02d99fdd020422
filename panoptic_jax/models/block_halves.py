"""The two halves of a U-ViT block in their plain form, and what kernels need of their layers.

The first half gives attention its queries, keys and values; the second half is the MLP.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.models.gelu import gelu
from panoptic_jax.models.layers import Dense


class ProductWeights(NamedTuple):
    """The parameters of a norm and the layer behind it, which has no bias.

    Attributes:
      scale: (C,) float32, the norm's.
      shift: (C,) float32, the norm's.
      kernel: (C, F), in the type of the computation.
    """

    scale: jax.Array
    shift: jax.Array
    kernel: jax.Array


class MlpWeights(NamedTuple):
    """The parameters of a norm and the MLP behind it.

    Attributes:
      scale: (C,) float32, the norm's.
      shift: (C,) float32, the norm's.
      kernel1: (C, F), in the type of the computation.
      bias1: (F,) float32.
      kernel2: (F, C), like `kernel1`.
      bias2: (C,) float32.
    """

    scale: jax.Array
    shift: jax.Array
    kernel1: jax.Array
    bias1: jax.Array
    kernel2: jax.Array
    bias2: jax.Array


def normed_product(
    tokens: jax.Array, norm: nn.LayerNorm, dense: Dense
) -> tuple[jax.Array, jax.Array]:
    """dense(norm(tokens)) (B, T, F), and the tokens (B, T, C) themselves.

    What is computed of the tokens elsewhere takes these, so that a kernel knows both gradients.
    """
    return dense(norm(tokens)), tokens


def residual_mlp(
    tokens: jax.Array,
    norm: nn.LayerNorm,
    fc1: Dense,
    fc2: Dense,
    *,
    activation: Callable[[jax.Array], jax.Array] = gelu,
) -> jax.Array:
    """tokens + fc2(GELU(fc1(norm(tokens)))): (B, T, C) -> (B, T, C)."""
    hidden = activation(fc1(norm(tokens)))  # (B, T, F)
    return tokens + fc2(hidden)


def product_weights(norm: nn.LayerNorm, dense: Dense) -> ProductWeights | None:
    """The parameters of these layers; None while they are being made."""
    if not dense.has_variable('params', 'kernel'):
        return None
    scale, shift = _of_norm(norm)
    return ProductWeights(scale, shift, _kernel_of(dense))


def mlp_weights(norm: nn.LayerNorm, fc1: Dense, fc2: Dense) -> MlpWeights | None:
    """The parameters of these layers; None while they are being made."""
    if not fc1.has_variable('params', 'kernel'):
        return None
    scale, shift = _of_norm(norm)
    return MlpWeights(
        scale=scale,
        shift=shift,
        kernel1=_kernel_of(fc1),
        bias1=fc1.get_variable('params', 'bias'),
        kernel2=_kernel_of(fc2),
        bias2=fc2.get_variable('params', 'bias'),
    )


def _of_norm(norm):
    return norm.get_variable('params', 'scale'), norm.get_variable('params', 'bias')


def _kernel_of(dense):
    # Outside of a kernel, so that what passes between devices is of the type of the computation.
    kernel = dense.get_variable('params', 'kernel')
    if kernel.dtype == dense.dtype:
        return kernel  # a sampler has rounded it already
    # Numbers are rounded twice: a TPU's compiler gives a fusion larger windows than a conversion.
    limits = jnp.finfo(dense.dtype)
    rounded = jax.lax.reduce_precision(kernel, limits.nexp, limits.nmant)
    return rounded.astype(dense.dtype)
