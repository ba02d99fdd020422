"""What the joint network is made of: adaptive norms and its blocks.

The network itself is in `models/joint.py`. A condition (B, C) stands for the times and the caption;
it acts on all places alike, through scales, shifts and gates.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.models.layers import Dense
from panoptic_jax.models.place_heads import normed_heads, rotary_angles, rotate

_EPSILON = 1e-5


def plain_norm(dtype: Any) -> nn.LayerNorm:
    """A layer norm without parameters; its statistics are float32 whatever `dtype` is."""
    return nn.LayerNorm(_EPSILON, use_bias=False, use_scale=False, dtype=dtype)


class Modulation(nn.Module):
    """`count` vectors of a condition: scales, shifts and gates (adaLN-zero).

    They are zero at the start: a block whose gates are zero is the identity, so a deep network
    begins as a shallow one, and the gradient opens the blocks one after another.

    Attributes:
      count: Vectors.
      size: Channels of each.
      dtype: Their type; they are computed in float32, since a vector an example costs nothing.
    """

    count: int
    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, condition: jax.Array) -> list[jax.Array]:
        """(B, C) float32 -> `count` arrays (B, 1, size)."""
        dense = Dense(self.count * self.size, kernel_init=nn.initializers.zeros, name='dense')
        vectors = dense(condition).astype(self.dtype)
        return jnp.split(vectors[:, None], self.count, axis=-1)


class PlaceBlock(nn.Module):
    """Pre-norm transformer block over places, which attend to each other and to the words.

    Words are read and not changed: what a block knows of them are keys and values.

    Attributes:
      num_heads: Attention heads; 4 times their number must divide the channels.
      dtype: Type of the computation; parameters are float32.
      forms: Forms of the heaviest parts, see `forms.for_mesh`.
    """

    num_heads: int
    dtype: Any = jnp.float32
    forms: Forms = PLAIN

    @nn.compact
    def __call__(self, places: jax.Array, words: jax.Array, condition: jax.Array) -> jax.Array:
        """(B, N, C), (B, L, D), (B, C) float32 -> (B, N, C)."""
        size = places.shape[-1]
        dense = functools.partial(
            Dense,
            dtype=self.dtype,
            product=self.forms.product,
            kernel_init=nn.initializers.xavier_uniform(),
        )
        modulation = Modulation(6, size, self.dtype, name='modulation')(condition)
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation
        norm = plain_norm(self.dtype)
        normed = norm(places) * (1 + scale1) + shift1
        of_places = dense(3 * size, use_bias=False, name='qkv')(normed)
        of_words = dense(2 * size, use_bias=False, name='words')(words)
        gain = self.param('gain', nn.initializers.ones, (self.num_heads, 1), jnp.float32)
        qkv = self.forms.join_heads(of_places, of_words, gain[:, 0])  # (B, N + L, 3C)
        mixed = self.forms.attention(qkv, self.num_heads, places.shape[1])  # (B, N, C)
        places = places + gate1 * dense(size, name='proj')(mixed)
        normed = norm(places) * (1 + scale2) + shift2
        hidden = nn.silu(dense(4 * size, name='fc1')(normed))  # (B, N, 4C)
        return places + gate2 * dense(size, name='fc2')(hidden)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions beside a skip; the identity at the start.

    Attributes:
      dtype: Type of the computation; parameters are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, condition: jax.Array) -> jax.Array:
        """(B, h, w, c), (B, C) float32 -> (B, h, w, c)."""
        size = image.shape[-1]
        conv = functools.partial(nn.Conv, size, (3, 3), dtype=self.dtype)
        modulation = Modulation(2, size, self.dtype, name='modulation')(condition)
        scale, shift = (vector[:, None] for vector in modulation)  # (B, 1, 1, c)
        normed = plain_norm(self.dtype)(image) * (1 + scale) + shift
        hidden = nn.silu(conv(name='conv1')(normed))
        # The last kernel is zero for the reason that gates are, see `Modulation`.
        return image + conv(kernel_init=nn.initializers.zeros, name='conv2')(hidden)


class ThingMeans(nn.Module):
    """What each pixel reads in all pixels that look like the same thing: their mean values.

    A code of a thing means nothing, so it can be read nowhere but in the noisy map, and no pixel's
    own noisy code says it. The mean over the thing does, and is the same for all of its pixels.

    Attributes:
      size: Channels in which pixels are compared; 4 must divide it.
    """

    size: int

    @nn.compact
    def __call__(self, features: jax.Array, values: jax.Array) -> jax.Array:
        """Means of values, weighted by how much features agree.

        Args:
          features: (B, h, w, C), what a pixel is part of; h = w is even.
          values: (B, h, w, c) float32.

        Returns:
          (B, h, w, c) float32.
        """
        batch, side, _, _ = features.shape
        # The pixels that are averaged need no detail: cells of 2 x 2 of them are a quarter as many.
        cell_values = half_size(values).reshape(batch, -1, values.shape[-1])  # (B, M, c)
        query = self._turned(Dense(self.size, name='query')(features))  # (B, N, 1, size)
        # A mean of what the layer makes is what it makes of the mean, and has fewer channels.
        key = self._turned(half_size(Dense(self.size, name='key')(features)))  # (B, M, 1, size)
        gain = self.param('gain', nn.initializers.constant(2.0), (), jnp.float32)
        scale = gain * self.size**-0.5
        scores = scale * jnp.einsum('bnhd,bmhd->bnm', query, key)  # (B, N, M)
        means = jax.nn.softmax(scores) @ cell_values  # (B, N, c)
        return means.reshape(batch, side, side, -1)

    def _turned(self, vectors):
        """(B, s, s, size) -> (B, s * s, 1, size) float32, as a head of `PlaceBlock`."""
        batch, side, _, size = vectors.shape
        heads = normed_heads(vectors.reshape(batch, side * side, size), 1)
        return rotate(heads, rotary_angles(side, size))


def half_size(image: jax.Array) -> jax.Array:
    """(B, h, w, c) -> (B, h / 2, w / 2, c), means of 2 x 2 pixels."""
    batch, height, width, channels = image.shape
    rows = image.reshape(batch, height // 2, 2, width, channels).sum(axis=2)
    # Two columns side by side in the channels: a TPU sums those faster than neighbouring columns.
    left, right = jnp.split(rows.reshape(batch, height // 2, width // 2, -1), 2, axis=-1)
    return (left + right) / 4
