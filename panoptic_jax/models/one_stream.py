"""One-stream PDM (section 3.5.1): map tokens join the U-ViT's own, and both heads read the end.

Also the map's two ends, which the two-stream model shares.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.diffusion.bits import NUM_BITS
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
      num_tokens: As many as the image has.
      patch: Map pixels per token, along each side: image patch times patch factor.
      predicts: False in given-map mode, where no map head exists.
      bounded: Whether predictions pass a tanh, as clean bits do and noise must not.
      zero_conv_bias: The authors' checkpoints have one, the paper has none.
      forms: See `forms.for_mesh`.
    """

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
        values = self.patch**2 * NUM_BITS
        conv_init = torch_conv_init(values)
        self.patch_embed = Dense(
            self.hidden_size,
            dtype=self.dtype,
            product=self.forms.product,
            kernel_init=conv_init,
            bias_init=conv_init,
        )
        self.positions = self.param('positions', normal_init, (self.num_tokens, self.hidden_size))
        self.blocks = [
            Block(self.num_heads, self.dtype, self.forms) for _ in range(self.num_blocks)
        ]
        self.zero_convs = [
            Dense(
                self.hidden_size,
                use_bias=self.zero_conv_bias,
                dtype=self.dtype,
                product=self.forms.product,
                kernel_init=nn.initializers.zeros,
            )
            for _ in range(self.num_blocks)
        ]
        if self.predicts:
            self.head = Dense(
                values, dtype=self.dtype, product=self.forms.product, kernel_init=normal_init
            )
            self.final_conv = final_conv(NUM_BITS, self.dtype)

    def embed(self, m_t: jax.Array) -> jax.Array:
        """(B, kh, kw, 8) -> (B, num_tokens, hidden_size), with positions."""
        return self.patch_embed(patchify(m_t, self.patch)) + self.positions.astype(self.dtype)

    def to_bits(self, tokens: jax.Array) -> jax.Array | None:
        """(B, num_tokens, hidden_size) -> (B, kh, kw, 8) float32, in (-1, 1) if `bounded`."""
        if not self.predicts:
            return None
        bits = self.final_conv(unpatchify(self.head(tokens), self.patch, NUM_BITS))
        bits = bits.astype(jnp.float32)
        return jnp.tanh(bits) if self.bounded else bits


class OneStream(nn.Module):
    """One-stream PDM: 44,956,012 parameters at size S and patch factor 2.

    Attributes:
      image_stream, map_stream: Fields of `ImageStream` and `MapStream`.
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
        """Predicts the image's noise and the clean map.

        Args:
          x_t: (B, h, w, c) noisy latent.
          m_t: (B, kh, kw, 8) noisy map bits; the clean ones in given-map mode.
          text: (B, L, D) text features.
          t: (B,) time in 0..1000, integer or not.
        """
        if self.zero_map_input:
            m_t = jnp.zeros_like(m_t)
        tokens = jnp.concatenate([self.image.embed(x_t, text, t), self.map.embed(m_t)], axis=1)
        tokens = self.image.norm(self.image.trunk(tokens))
        image_start = 1 + text.shape[1]
        map_start = tokens.shape[1] - self.map.num_tokens
        image_tokens, map_tokens = tokens[:, image_start:map_start], tokens[:, map_start:]
        if self.given_map:
            image_tokens = image_tokens + map_tokens
        return Prediction(self.image.to_image(image_tokens), self.map.to_bits(map_tokens))
