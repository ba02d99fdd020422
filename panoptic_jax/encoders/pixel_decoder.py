"""A learned decoder for the latents of `pixels`: mean colours to pictures with edges and texture.

The latents stay what they are, so a model that was trained on them needs no other training. Where
an edge lies follows from the means; texture is drawn from noise, and `studies/scene_decoder.py`
trains the decoder to give it the statistics of true texture.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.encoders import pixels, torch_layout

NOISE_CHANNELS = 8
_LOW_WIDTH = 64  # channels at the latents' resolution
_HIGH_WIDTH = 48  # channels at twice that resolution
_BLOCKS = 3  # at each of the two
_OWNER = "the weights of a decoder for 'pixels', as studies/scene_decoder.py writes them"


class Block(nn.Module):
    """Two convolutions and a skip connection: (B, h, w, c) to the same shape."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        hidden = nn.Conv(channels, (3, 3), name='conv1')(nn.silu(x))
        # Zeros at the start: a block begins as the identity.
        zeros = nn.initializers.zeros
        return x + nn.Conv(channels, (3, 3), kernel_init=zeros, name='conv2')(nn.silu(hidden))


class PixelDecoder(nn.Module):
    """Latents and noise to images, whose means over 8 x 8 pixels are the latents."""

    @nn.compact
    def __call__(self, latents: jax.Array, noise: jax.Array) -> jax.Array:
        """(B, h, w, 3), (B, 2h, 2w, 8) -> (B, 8h, 8w, 3), in [-1, 1] but for overshoot.

        Args:
          latents: Mean colours in [-1, 1].
          noise: Standard normal numbers, of which texture is made.
        """
        x = nn.Conv(_LOW_WIDTH, (3, 3), name='in')(latents)  # (B, h, w, 64)
        for level in range(_BLOCKS):
            x = Block(name=f'low.{level}')(x)
        x = nn.Conv(4 * _HIGH_WIDTH, (3, 3), name='up')(nn.silu(x))
        x = _enlarged(x, 2)  # (B, 2h, 2w, 48)
        x = x + nn.Conv(_HIGH_WIDTH, (3, 3), name='noise')(noise)
        for level in range(_BLOCKS):
            x = Block(name=f'high.{level}')(x)
        zeros = nn.initializers.zeros
        detail = nn.Conv(16 * 3, (3, 3), kernel_init=zeros, name='out')(nn.silu(x))
        image = pixels.enlarge(latents) + _enlarged(detail, 4)  # (B, 8h, 8w, 3)
        # What the latents say stays exact: the image encodes to them again.
        gap = latents - pixels.encode(image)
        return image + gap.repeat(pixels.FACTOR, axis=1).repeat(pixels.FACTOR, axis=2)


def _enlarged(x: jax.Array, factor: int) -> jax.Array:
    """Channels become pixels: (B, h, w, factor^2 c) -> (B, factor h, factor w, c)."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height, width, factor, factor, channels // factor**2)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * factor, width * factor, -1)


def load(path: str) -> tuple[dict[str, Any], str]:
    """Reads the weights.

    Args:
      path: A local safetensors file with keys such as 'low.0.conv1.weight', in torch's layout.

    Returns:
      Parameters of `PixelDecoder` (float32), and the file's SHA-256.

    Raises:
      ValueError: the file lacks a weight, holds one too many or one of another shape.
    """
    trees, sha256 = torch_layout.load(path, {'': abstract_parameters()}, owner=_OWNER)
    return trees[''], sha256


def abstract_parameters() -> dict[str, Any]:
    """Shapes of the parameters."""
    latents = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    noise = jax.ShapeDtypeStruct((1, 8, 8, NOISE_CHANNELS), jnp.float32)
    return jax.eval_shape(PixelDecoder().init, jax.random.key(0), latents, noise)['params']


def decode(params: dict[str, Any], latents: jax.Array) -> jax.Array:
    """(B, h, w, 3) to (B, 8h, 8w, 3), clipped to [-1, 1]; the noise is the same for every image."""
    batch, height, width, _ = latents.shape
    shape = (1, 2 * height, 2 * width, NOISE_CHANNELS)
    noise = jax.random.normal(jax.random.key(0), shape)
    noise = jnp.broadcast_to(noise, (batch, *shape[1:]))
    image = PixelDecoder().apply({'params': params}, latents, noise)
    return jnp.clip(image, -1.0, 1.0)
