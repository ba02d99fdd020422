"""U-ViT (Bao et al. 2023): block, image stream and size table; the backbone of both PDMs.

Networks know nothing of noise schedules, guidance or bits: they map arrays to arrays. Tokens are
(B, tokens, hidden_size) throughout; images and maps are channels-last.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.models.layers import Dense

# The published U-ViTs, all with latent patches of 2x2 and an MLP of four times the hidden size.
SIZES = {
    'S': {'hidden_size': 512, 'depth': 12, 'num_heads': 8},
    'S-deep': {'hidden_size': 512, 'depth': 16, 'num_heads': 8},
    'M': {'hidden_size': 768, 'depth': 16, 'num_heads': 12},
    'L': {'hidden_size': 1024, 'depth': 20, 'num_heads': 16},
    'H': {'hidden_size': 1152, 'depth': 28, 'num_heads': 16},
}

LAYER_NORM_EPSILON = 1e-5  # PyTorch's
normal_init = nn.initializers.normal(0.02)


class Prediction(NamedTuple):
    """What a network returns: noise (B, h, w, c), and map bits or their noise (B, kh, kw, 8)."""

    noise: jax.Array
    map_bits: jax.Array | None


def torch_conv_init(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for convolutions, weight and bias: uniform in +-1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def patchify(image: jax.Array, patch: int) -> jax.Array:
    """(B, h, w, c) -> (B, h/p * w/p, p*p*c), rows first, a patch's values in order (p1 p2 c)."""
    batch, height, width, channels = image.shape
    grid = image.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


def unpatchify(tokens: jax.Array, patch: int, channels: int) -> jax.Array:
    """Inverse of `patchify` for a square image."""
    batch, count, _ = tokens.shape
    side = math.isqrt(count)
    grid = tokens.reshape(batch, side, side, patch, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * patch, side * patch, channels)


def time_embedding(t: jax.Array, size: int) -> jax.Array:
    """Sinusoid [cos, sin] of t (B,) in 0..1000, base 10000. Returns (B, size) float32."""
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(size // 2) / (size // 2))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU. Through erf: `jax.nn.gelu` takes erfc, which costs 2.5 times as much."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


class Block(nn.Module):
    """Pre-norm transformer block; in the out half it first merges a skip connection."""

    num_heads: int
    dtype: Any = jnp.float32
    forms: Forms = PLAIN

    @nn.compact
    def __call__(self, tokens: jax.Array, skip: jax.Array | None = None) -> jax.Array:
        size = tokens.shape[-1]

        def dense(features, name, **options):
            return Dense(
                features,
                name=name,
                dtype=self.dtype,
                product=self.forms.product,
                kernel_init=normal_init,
                **options,
            )

        def norm(name):
            return nn.LayerNorm(LAYER_NORM_EPSILON, name=name, dtype=self.dtype)

        if skip is not None:
            tokens = dense(size, 'skip')(tokens, skip)
        qkv = dense(3 * size, 'qkv', use_bias=False)(norm('norm1')(tokens))
        tokens = tokens + dense(size, 'proj')(self.forms.attention(qkv, self.num_heads))
        hidden = gelu(dense(4 * size, 'fc1')(norm('norm2')(tokens)))
        return tokens + dense(size, 'fc2')(hidden)


class ImageStream(nn.Module):
    """Everything of a U-ViT: tokens in, `depth` + 1 blocks, image out. Used whole or in parts.

    Attributes:
      latent_shape: (h, w, c).
      patch_size: Latent pixels per token, along each side.
      text_tokens: L.
      forms: See `forms.for_mesh`.
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
        count = 1 + self.text_tokens + height * width // self.patch_size**2
        conv_init = torch_conv_init(patch_values)
        self.patch_embed = Dense(
            self.hidden_size,
            dtype=self.dtype,
            product=self.forms.product,
            kernel_init=conv_init,
            bias_init=conv_init,
        )
        self.text_embed = Dense(
            self.hidden_size, dtype=self.dtype, product=self.forms.product, kernel_init=normal_init
        )
        self.positions = self.param('positions', normal_init, (count, self.hidden_size))
        self.blocks = [Block(self.num_heads, self.dtype, self.forms) for _ in range(self.depth + 1)]
        self.norm = nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype)
        self.head = Dense(
            patch_values, dtype=self.dtype, product=self.forms.product, kernel_init=normal_init
        )
        self.final_conv = final_conv(channels, self.dtype)

    def embed(self, x_t: jax.Array, text: jax.Array, t: jax.Array) -> jax.Array:
        """[time, text, image patches] with positions: (B, 1 + L + N, hidden_size)."""
        time = time_embedding(t, self.hidden_size)[:, None].astype(self.dtype)
        image = self.patch_embed(patchify(x_t, self.patch_size))
        tokens = jnp.concatenate([time, self.text_embed(text), image], axis=1)
        return tokens + self.positions.astype(self.dtype)

    def trunk(self, tokens: jax.Array) -> jax.Array:
        """All blocks with their long skips, last in first out, over any number of tokens."""
        skips = []
        for level, block in enumerate(self.blocks):
            tokens = block(tokens, skips.pop()) if level > self.depth // 2 else block(tokens)
            if level < self.depth // 2:
                skips.append(tokens)
        return tokens

    def to_image(self, tokens: jax.Array) -> jax.Array:
        """(B, N, hidden_size) normalised image tokens -> (B, h, w, c) float32."""
        pixels = unpatchify(self.head(tokens), self.patch_size, self.latent_shape[-1])
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
    """The image-only baseline: 44,692,644 parameters at size S."""

    image_stream: dict[str, Any]

    def setup(self) -> None:
        self.image = ImageStream(**self.image_stream)

    def __call__(self, x_t, m_t, text, t) -> Prediction:
        """As `OneStream`, with `m_t` ignored and no map in the prediction."""
        tokens = self.image.norm(self.image.trunk(self.image.embed(x_t, text, t)))
        return Prediction(self.image.to_image(tokens[:, 1 + text.shape[1] :]), None)
