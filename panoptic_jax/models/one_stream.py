"""One-stream PDM (section 3.5.1): map tokens join the U-ViT's own, and both heads read the end.

The map stream, which the two-stream model shares, is here too.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.models.layers import Dense
from panoptic_jax.models.uvit import (
    Block,
    ImageStream,
    Prediction,
    final_conv,
    normal_init,
    patchify,
    torch_conv_init,
    unpatchify,
)


class MapStream(nn.Module):
    """The map's way in and out; with `num_blocks`, its own blocks and zero-convs (two streams).

    Attributes:
      channels: Channels of a map.
      num_tokens: Tokens of a map; an image has as many.
      patch: Map pixels per token, along each side: image patch times patch factor.
      hidden_size: Channels per token.
      num_heads: Attention heads.
      predicts: False in given-map mode, where no map head exists.
      bounded: Whether predictions pass a tanh; clean maps do, noise must not.
      num_blocks: Blocks and zero-convs of the map stream's own.
      zero_conv_bias: The authors' checkpoints have one, the paper has none.
      dtype: Type of the computation; parameters are float32.
      forms: Forms of the heaviest parts, see `forms.for_mesh`.
    """

    channels: int
    num_tokens: int
    patch: int
    hidden_size: int
    num_heads: int
    predicts: bool = True
    bounded: bool = True
    num_blocks: int = 0
    zero_conv_bias: bool = False
    dtype: Any = jnp.float32
    forms: Forms = PLAIN

    def setup(self) -> None:
        patch_values = self.patch**2 * self.channels
        conv_init = torch_conv_init(patch_values)
        dense = functools.partial(Dense, dtype=self.dtype, product=self.forms.product)
        self.patch_embed = dense(self.hidden_size, kernel_init=conv_init, bias_init=conv_init)
        self.positions = self.param('positions', normal_init, (self.num_tokens, self.hidden_size))
        levels = range(self.num_blocks)
        self.blocks = [Block(self.num_heads, self.dtype, self.forms) for _ in levels]
        # Zero at the start, so that the map stream does not disturb a pretrained image stream.
        zero_conv = functools.partial(
            dense, use_bias=self.zero_conv_bias, kernel_init=nn.initializers.zeros
        )
        self.zero_convs = [zero_conv(self.hidden_size) for _ in levels]
        if self.predicts:
            self.head = dense(patch_values, kernel_init=normal_init)
            self.final_conv = final_conv(self.channels, self.dtype)

    def embed(self, m_t: jax.Array) -> jax.Array:
        """(B, kh, kw, channels) -> (B, num_tokens, hidden_size), with positions."""
        patches = patchify(m_t, self.patch)  # (B, num_tokens, patch * patch * channels)
        return self.patch_embed(patches) + self.positions.astype(self.dtype)

    def to_map(self, tokens: jax.Array) -> jax.Array | None:
        """(B, num_tokens, hidden_size) -> (B, kh, kw, channels) float32, in (-1, 1) if `bounded`.

        None in given-map mode.
        """
        if not self.predicts:
            return None
        patches = self.head(tokens)  # (B, num_tokens, patch * patch * channels)
        pixels = unpatchify(patches, self.patch, self.channels)
        values = self.final_conv(pixels).astype(jnp.float32)
        return jnp.tanh(values) if self.bounded else values


class OneStream(nn.Module):
    """One-stream PDM: 44,956,012 parameters at size S and patch factor 2.

    Attributes:
      image_stream: Fields of `ImageStream`.
      map_stream: Fields of `MapStream`.
      given_map: Map tokens are added to the image tokens before the image head.
      zero_map_input: The network sees zeros for the map (ablation B.2).
    """

    image_stream: dict[str, Any]
    map_stream: dict[str, Any]
    given_map: bool = False
    zero_map_input: bool = False

    def setup(self) -> None:
        self.image = ImageStream(**self.image_stream)
        self.map = MapStream(**self.map_stream)

    def __call__(self, x_t: jax.Array, m_t: jax.Array, text: jax.Array, t: jax.Array) -> Prediction:
        """Predicts the image's noise, and the clean map or its noise.

        Args:
          x_t: (B, h, w, c) noisy latent.
          m_t: (B, kh, kw, channels) noisy map; the clean one in given-map mode.
          text: (B, L, D) text features.
          t: (B,) time in 0..1000, integer or not.
        """
        if self.zero_map_input:
            m_t = jnp.zeros_like(m_t)
        image_tokens = self.image.embed(x_t, text, t)  # (B, 1 + L + N, hidden_size)
        map_tokens = self.map.embed(m_t)  # (B, N, hidden_size)
        tokens = jnp.concatenate([image_tokens, map_tokens], axis=1)  # (B, 1 + L + 2N, hidden_size)
        tokens = self.image.norm(self.image.trunk(tokens))
        image_start = 1 + text.shape[1]
        map_start = tokens.shape[1] - self.map.num_tokens
        image_tokens = tokens[:, image_start:map_start]  # (B, N, hidden_size)
        map_tokens = tokens[:, map_start:]  # (B, N, hidden_size)
        if self.given_map:
            # Section 3.4: the image's loss reaches the map features by this sum alone.
            image_tokens = image_tokens + map_tokens
        return Prediction(image=self.image.to_image(image_tokens), map=self.map.to_map(map_tokens))
