"""What the joint network is made of: adaptive norms, rotary positions, its blocks.

The network itself is in `models/joint.py`. A condition (B, C) stands for the times and the caption;
it acts on all places alike, through scales, shifts and gates.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.models.layers import Dense

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


def rotary_angles(side: int, head_size: int) -> np.ndarray:
    """Angles (side * side, head_size / 2) by which pairs of a head's channels turn at each place.

    Half of the pairs turn with the row, half with the column: from a few turns over the picture's
    side down to an eighth of one, geometrically. A side counts as 1 whatever its number of places.
    """
    most, least = 2 * np.pi * 2.0, 2 * np.pi / 8  # over the whole side
    pairs = head_size // 4
    over_side = np.geomspace(most, least, pairs)
    rows, columns = np.divmod(np.arange(side * side), side)
    angles = [axis[:, None] / side * over_side for axis in (rows, columns)]
    return np.concatenate(angles, axis=-1).astype(np.float32)


def rotate(heads: jax.Array, angles: np.ndarray) -> jax.Array:
    """Turns pairs of channels: (B, N, heads, D), (N, D / 2) -> (B, N, heads, D).

    The scores of two turned arrays depend on differences of angles only, hence on relative places.
    """
    cosine, sine = (
        function(angles)[:, None].astype(heads.dtype) for function in (jnp.cos, jnp.sin)
    )  # (N, 1, D / 2)
    first, second = jnp.split(heads, 2, axis=-1)
    turned = first * cosine - second * sine, first * sine + second * cosine
    return jnp.concatenate(turned, axis=-1)


def normed_heads(array: jax.Array, num_heads: int) -> jax.Array:
    """(B, T, C) -> (B, T, heads, C / heads) float32, each vector of root mean square 1."""
    heads = array.reshape(*array.shape[:2], num_heads, -1)
    return nn.RMSNorm(use_scale=False, dtype=jnp.float32)(heads)


class PlaceBlock(nn.Module):
    """Pre-norm transformer block over places, which attend to each other and to the words.

    Words are read and not changed: what a block knows of them are keys and values.

    Attributes:
      side: Places along each side of the picture.
      num_heads: Attention heads; 4 times their number must divide the channels.
      dtype: Type of the computation; parameters are float32.
      forms: Forms of the heaviest parts, see `forms.for_mesh`.
    """

    side: int
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
        qkv = self._queries_keys_values(normed, words, dense)  # (B, N + L, 3C)
        mixed = self.forms.attention(qkv, self.num_heads)[:, : places.shape[1]]
        places = places + gate1 * dense(size, name='proj')(mixed)
        normed = norm(places) * (1 + scale2) + shift2
        hidden = nn.silu(dense(4 * size, name='fc1')(normed))  # (B, N, 4C)
        return places + gate2 * dense(size, name='fc2')(hidden)

    def _queries_keys_values(self, places, words, dense):
        """One array (B, N + L, 3C) for the attention of all forms; the words' queries are zeros."""
        size = places.shape[-1]
        of_places = dense(3 * size, use_bias=False, name='qkv')(places)
        of_words = dense(2 * size, use_bias=False, name='words')(words)
        query, key, value = jnp.split(of_places, 3, axis=-1)
        word_key, word_value = jnp.split(of_words, 2, axis=-1)
        # Scores of normalised queries and keys cannot grow without bounds; the gain sharpens them.
        gain = self.param('gain', nn.initializers.ones, (self.num_heads, 1), jnp.float32)
        angles = rotary_angles(self.side, size // self.num_heads)
        query = rotate(normed_heads(query, self.num_heads) * gain, angles)
        key = rotate(normed_heads(key, self.num_heads), angles)
        # A word has no place: its key is not turned.
        word_key = normed_heads(word_key, self.num_heads)
        query, key, word_key = (
            heads.reshape(*heads.shape[:2], size).astype(self.dtype)
            for heads in (query, key, word_key)
        )
        of_places = jnp.concatenate([query, key, value], axis=-1)
        of_words = jnp.concatenate([jnp.zeros_like(word_key), word_key, word_value], axis=-1)
        return jnp.concatenate([of_places, of_words], axis=1)


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
          values: (B, kh, kw, c), k pixels of them along each side of a pixel of features.

        Returns:
          (B, h, w, c) float32.
        """
        batch, side, _, _ = features.shape
        # The pixels that are averaged need no detail: cells of 2 x 2 of them are a quarter as many.
        cells = side // 2
        cell_values = mean_pool(values.astype(jnp.float32), values.shape[1] // cells)
        cell_values = cell_values.reshape(batch, cells * cells, -1)  # (B, M, c)
        query = self._turned(features, 'query')  # (B, N, 1, size)
        key = self._turned(mean_pool(features, 2), 'key')  # (B, M, 1, size)
        gain = self.param('gain', nn.initializers.constant(2.0), (), jnp.float32)
        scale = gain * self.size**-0.5
        scores = scale * jnp.einsum('bnhd,bmhd->bnm', query, key)  # (B, N, M)
        means = jax.nn.softmax(scores) @ cell_values  # (B, N, c)
        return means.reshape(batch, side, side, -1)

    def _turned(self, features, name):
        """(B, s, s, C) -> (B, s * s, 1, size) float32, as a head of `PlaceBlock`."""
        batch, side, _, _ = features.shape
        vectors = Dense(self.size, name=name)(features).reshape(batch, side * side, self.size)
        return rotate(normed_heads(vectors, 1), rotary_angles(side, self.size))


def mean_pool(image: jax.Array, factor: int) -> jax.Array:
    """(B, h, w, c) -> (B, h / factor, w / factor, c), means of factor x factor pixels."""
    batch, height, width, channels = image.shape
    windows = image.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return windows.mean(axis=(2, 4))
