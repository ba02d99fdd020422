"""One-stream PDM (section 3.5.1): the map joins the U-ViT's tokens, and both heads read the end.

The paper appends map tokens to the image tokens. Here the two patches of a place can also share one
token. The map stream, which the two-stream model uses too, is in this file.
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
    time_embedding,
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
      has_positions: Whether tokens have positions; without them they share those of the image.
      has_time: Whether the map has a time of its own, in a token of its own.
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
    has_positions: bool = True
    has_time: bool = False
    num_blocks: int = 0
    zero_conv_bias: bool = False
    dtype: Any = jnp.float32
    forms: Forms = PLAIN

    def setup(self) -> None:
        patch_values = self.patch**2 * self.channels
        conv_init = torch_conv_init(patch_values)
        dense = functools.partial(Dense, dtype=self.dtype, product=self.forms.product)
        self.patch_embed = dense(self.hidden_size, kernel_init=conv_init, bias_init=conv_init)
        if self.has_positions:
            positions_shape = self.num_tokens, self.hidden_size
            self.positions = self.param('positions', normal_init, positions_shape)
        if self.has_time:
            self.time_position = self.param('time_position', normal_init, (1, self.hidden_size))
        levels = range(self.num_blocks)
        block = self.forms.block(Block)
        self.blocks = [block(self.num_heads, self.dtype, self.forms) for _ in levels]
        # Zero at the start, so that the map stream does not disturb a pretrained image stream.
        zero_conv = functools.partial(
            dense, use_bias=self.zero_conv_bias, kernel_init=nn.initializers.zeros
        )
        self.zero_convs = [zero_conv(self.hidden_size) for _ in levels]
        if self.predicts:
            self.head = dense(patch_values, kernel_init=normal_init)
            self.final_conv = final_conv(self.channels, self.dtype)

    def embed(self, m_t: jax.Array) -> jax.Array:
        """(B, kh, kw, channels) -> (B, num_tokens, hidden_size), with positions if it has them."""
        patches = patchify(m_t, self.patch)  # (B, num_tokens, patch * patch * channels)
        tokens = self.patch_embed(patches)
        return (tokens + self.positions).astype(self.dtype) if self.has_positions else tokens

    def embed_time(self, t: jax.Array) -> jax.Array:
        """The map's own time (B,) -> one token (B, 1, hidden_size)."""
        time = time_embedding(t, self.hidden_size)[:, None]  # (B, 1, hidden_size)
        return time.astype(self.dtype) + self.time_position.astype(self.dtype)

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
      map_stream: Fields of `MapStream`. Without positions, the map's patch is added to the token
        of the image patch at its place, and both heads read that token.
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
          t: (B,) time in 0..1000, integer or not; (B, 2), of image and map, where the map has a
            time of its own.
        """
        if self.zero_map_input:
            m_t = jnp.zeros_like(m_t)
        image_time, map_time = split_times(t, self.map.has_time)
        image_tokens = self.image.embed(x_t, text, image_time)  # (B, 1 + L + N, hidden_size)
        map_tokens = self.map.embed(m_t)  # (B, N, hidden_size)
        image_start, count = 1 + text.shape[1], self.map.num_tokens
        if self.map.has_positions:
            map_start = image_start + count
            tokens = jnp.concatenate([image_tokens, map_tokens], axis=1)  # (B, 1 + L + 2N, ...)
        else:
            map_start = image_start
            tokens = image_tokens.at[:, image_start:].add(map_tokens)  # (B, 1 + L + N, ...)
        if self.map.has_time:
            tokens = jnp.concatenate([tokens, self.map.embed_time(map_time)], axis=1)
        # Only what the heads read is normalised.
        tokens = self.image.trunk(tokens)[:, image_start : map_start + count]
        tokens = self.image.norm(tokens)
        image_tokens = tokens[:, :count]  # (B, N, hidden_size)
        map_tokens = tokens[:, -count:]  # (B, N, hidden_size)
        # A token that both share has the map's features already.
        if self.given_map and self.map.has_positions:
            # Section 3.4: the image's loss reaches the map features by this sum alone.
            image_tokens = image_tokens + map_tokens
        return Prediction(image=self.image.to_image(image_tokens), map=self.map.to_map(map_tokens))


def split_times(t: jax.Array, separate: bool) -> tuple[jax.Array, jax.Array | None]:
    """The times (B,) of image and map: columns of `t` (B, 2), or `t` (B,) and None."""
    return (t[:, 0], t[:, 1]) if separate else (t, None)
