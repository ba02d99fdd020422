"""U-ViT (Bao et al. 2023): block and image stream; the backbone of both PDMs.

Networks know nothing of noise schedules, guidance or bits: they map arrays to arrays. Tokens are
(B, tokens, hidden_size) throughout; images and maps are channels-last.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.models.layers import LAYER_NORM_EPSILON, Dense

# Handed on, since sizes are those of a U-ViT.
from panoptic_jax.models.names import SIZES as SIZES

normal_init = nn.initializers.normal(0.02)


class Prediction(NamedTuple):
    """What a network says of each stream.

    Attributes:
      image: (B, h, w, c), the noise of the image.
      map: (B, kh, kw, map_channels), the clean map or its noise; None where none is predicted.
    """

    image: jax.Array
    map: jax.Array | None


def torch_conv_init(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for convolutions, weight and bias: uniform in +-1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def space_to_depth(image: jax.Array, factor: int) -> jax.Array:
    """(B, h, w, c) -> (B, h / factor, w / factor, factor * factor * c), in the order of patches."""
    batch, height, width, channels = image.shape
    # A row's neighbours are channels from the start: one axis less takes a TPU half of the time.
    grid = image.reshape(batch, height // factor, factor, width // factor, factor * channels)
    grid = grid.swapaxes(2, 3)
    return grid.reshape(batch, height // factor, width // factor, factor**2 * channels)


def depth_to_space(image: jax.Array, factor: int) -> jax.Array:
    """Inverse of `space_to_depth`."""
    batch, height, width, channels = image.shape
    grid = image.reshape(batch, height, width, factor, channels // factor)
    grid = grid.swapaxes(2, 3)
    return grid.reshape(batch, height * factor, width * factor, channels // factor**2)


def patchify(image: jax.Array, patch: int) -> jax.Array:
    """(B, h, w, c) -> (B, h/p * w/p, p*p*c), rows first, a patch's values in order (p1 p2 c)."""
    grid = space_to_depth(image, patch)  # (B, h/p, w/p, p*p*c)
    return grid.reshape(grid.shape[0], -1, grid.shape[-1])


def unpatchify(tokens: jax.Array, patch: int, channels: int) -> jax.Array:
    """Inverse of `patchify` for a square image."""
    batch, count, _ = tokens.shape
    side = math.isqrt(count)
    grid = tokens.reshape(batch, side, side, patch**2 * channels)
    return depth_to_space(grid, patch)


def time_embedding(t: jax.Array, size: int) -> jax.Array:
    """Sinusoid [cos, sin] of t (B,) in 0..1000, base 10000. Returns (B, size) float32."""
    half = size // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies  # (B, size / 2)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Block(nn.Module):
    """Pre-norm transformer block; in the out half it first merges a skip connection.

    Attributes:
      num_heads: Attention heads.
      dtype: Type of the computation; parameters are float32.
      forms: Forms of the heaviest parts, see `forms.for_mesh`.
    """

    num_heads: int
    dtype: Any = jnp.float32
    forms: Forms = PLAIN

    @nn.compact
    def __call__(self, tokens: jax.Array, skip: jax.Array | None = None) -> jax.Array:
        """(B, T, C) -> (B, T, C); `skip` is an earlier block's (B, T, C)."""
        size = tokens.shape[-1]
        tokens = self.forms.in_order(tokens)
        norm = functools.partial(nn.LayerNorm, LAYER_NORM_EPSILON, dtype=self.dtype)
        dense = functools.partial(
            Dense, dtype=self.dtype, product=self.forms.product, kernel_init=normal_init
        )
        if skip is not None:
            tokens = dense(size, name='skip')(tokens, skip)  # (B, T, 2C) -> (B, T, C)
        of_attention = dense(3 * size, name='qkv', use_bias=False)
        qkv, tokens = self.forms.normed_product(tokens, norm(name='norm1'), of_attention)
        mixed = self.forms.attention(qkv, self.num_heads)  # (B, T, C)
        tokens = tokens + dense(size, name='proj')(mixed)
        return self.forms.mlp(
            tokens,
            norm(name='norm2'),
            dense(4 * size, name='fc1'),
            dense(size, name='fc2'),
        )


class ImageStream(nn.Module):
    """Everything of a U-ViT: tokens in, `depth` + 1 blocks, image out. Used whole or in parts.

    Attributes:
      latent_shape: (h, w, c) of the image latents.
      patch_size: Latent pixels per token, along each side.
      text_tokens: L, tokens per caption.
      hidden_size: Channels per token.
      depth: Even number of blocks besides the middle one.
      num_heads: Attention heads.
      dtype: Type of the computation; parameters are float32.
      forms: Forms of the heaviest parts, see `forms.for_mesh`.
    """

    latent_shape: tuple[int, int, int]
    patch_size: int
    text_tokens: int
    hidden_size: int
    depth: int
    num_heads: int
    dtype: Any = jnp.float32
    forms: Forms = PLAIN

    def setup(self) -> None:
        height, width, channels = self.latent_shape
        patch_values = self.patch_size**2 * channels
        image_tokens = height * width // self.patch_size**2
        count = 1 + self.text_tokens + image_tokens
        dense = functools.partial(Dense, dtype=self.dtype, product=self.forms.product)
        # U-ViT embeds patches by a convolution, so they start as PyTorch starts one.
        conv_init = torch_conv_init(patch_values)
        self.patch_embed = dense(self.hidden_size, kernel_init=conv_init, bias_init=conv_init)
        self.text_embed = dense(self.hidden_size, kernel_init=normal_init)
        self.positions = self.param('positions', normal_init, (count, self.hidden_size))
        block = self.forms.block(Block)
        self.blocks = [block(self.num_heads, self.dtype, self.forms) for _ in range(self.depth + 1)]
        self.norm = nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype)
        self.head = dense(patch_values, kernel_init=normal_init)
        self.final_conv = final_conv(channels, self.dtype)

    def embed(self, x_t: jax.Array, text: jax.Array, t: jax.Array) -> jax.Array:
        """[time, text, image patches] with positions: (B, 1 + L + N, hidden_size)."""
        time = time_embedding(t, self.hidden_size)
        time = time[:, None].astype(self.dtype)  # (B, 1, hidden_size)
        image = self.patch_embed(patchify(x_t, self.patch_size))  # (B, N, hidden_size)
        words = self.text_embed(text)  # (B, L, hidden_size)
        tokens = jnp.concatenate([time, words, image], axis=1)
        return (tokens + self.positions).astype(self.dtype)

    def trunk(self, tokens: jax.Array) -> jax.Array:
        """All blocks with their long skips, last in first out, over any number of tokens."""
        middle = self.depth // 2
        skips = []
        for level, block in enumerate(self.blocks):
            skip = skips.pop() if level > middle else None
            tokens = block(tokens, skip)
            if level < middle:
                skips.append(tokens)
        return tokens

    def to_image(self, tokens: jax.Array) -> jax.Array:
        """(B, N, hidden_size) normalised image tokens -> (B, h, w, c) float32."""
        patches = self.head(tokens)  # (B, N, p * p * c)
        pixels = unpatchify(patches, self.patch_size, self.latent_shape[-1])
        return self.final_conv(pixels).astype(jnp.float32)


def final_conv(channels: int, dtype: Any) -> nn.Conv:
    """The 3x3 convolution that smooths the seams between patches; starts as the identity.

    U-ViT starts it with PyTorch's random kernel, which the network first has to unlearn: a small
    model at a learning rate of 3e-3 then has an image loss of 0.35 after 100 steps, with the
    identity 0.13 after 60.
    """

    def identity(key, shape, dtype=jnp.float32):
        return jnp.zeros(shape, dtype).at[1, 1].set(jnp.eye(channels, dtype=dtype))

    return nn.Conv(channels, (3, 3), dtype=dtype, kernel_init=identity)


class UViT(nn.Module):
    """The image-only baseline: 44,692,644 parameters at size S.

    Attributes:
      image_stream: Fields of `ImageStream`.
    """

    image_stream: dict[str, Any]

    def setup(self) -> None:
        self.image = ImageStream(**self.image_stream)

    def __call__(self, x_t, m_t, text, t) -> Prediction:
        """The arguments are those of `OneStream`; `m_t` is ignored and no map is predicted."""
        tokens = self.image.embed(x_t, text, t)
        image_tokens = self.image.trunk(tokens)[:, 1 + text.shape[1] :]  # (B, N, hidden_size)
        image_tokens = self.image.norm(image_tokens)
        return Prediction(image=self.image.to_image(image_tokens), map=None)
