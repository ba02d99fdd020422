"""The second half of a U-ViT block, of layers: its plain form, and what a kernel needs of them."""

from collections.abc import Callable

import flax.linen as nn
import jax

from panoptic_jax.models.gelu import gelu
from panoptic_jax.models.layers import Dense
from panoptic_jax.models.mlp_layout import Weights


def residual_mlp(
    tokens: jax.Array,
    norm: nn.LayerNorm,
    fc1: Dense,
    fc2: Dense,
    activation: Callable[[jax.Array], jax.Array] = gelu,
) -> jax.Array:
    """tokens + fc2(GELU(fc1(norm(tokens)))): (B, T, C) -> (B, T, C)."""
    hidden = activation(fc1(norm(tokens)))  # (B, T, F)
    return tokens + fc2(hidden)


def parameters_of(norm: nn.LayerNorm, fc1: Dense, fc2: Dense) -> Weights | None:
    """The parameters of these layers, None while they are being made."""
    layers = norm, fc1, fc2
    if not all(layer.has_variable('params', 'bias') for layer in layers):
        return None
    norm, first, second = (layer.variables['params'] for layer in layers)
    # What passes between devices, weights or gradients, is of the type of the computation.
    return Weights(
        scale=norm['scale'],
        shift=norm['bias'],
        kernel1=first['kernel'].astype(fc1.dtype),
        bias1=first['bias'],
        kernel2=second['kernel'].astype(fc2.dtype),
        bias2=second['bias'],
    )
