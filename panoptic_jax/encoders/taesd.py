"""TAESD, the tiny autoencoder for Stable Diffusion 1 latents, in linen.

It restates the network of madebyollin/taesd (MIT licence) and reads safetensors files with the key
names of diffusers' `AutoencoderTiny`. Latents are the plain, unscaled ones. Their standard
deviation on photographs is about 0.75, so the scale is 1.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.encoders import torch_layout

LATENT_CHANNELS = 4
_WIDTH = 64
_ENCODER_BLOCKS = (1, 3, 3, 3)  # per resolution, from 256 px down to 32
_DECODER_BLOCKS = (3, 3, 3, 1)  # per resolution, from 32 px up to 256


def _conv(features: int, name: str, stride: int = 1, use_bias: bool = True) -> nn.Conv:
    """A convolution with windows of 3 x 3."""
    # Torch's padding. 'SAME' would shift the windows where the stride is 2 (17 dB instead of 25).
    padding = ((1, 1), (1, 1))
    return nn.Conv(features, (3, 3), stride, padding=padding, use_bias=use_bias, name=name)


class Block(nn.Module):
    """Three convolutions and a skip connection: (B, h, w, 64) to the same shape.

    Layers are named by their place in torch's `Sequential`, where ReLUs count, too.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(_conv(_WIDTH, 'conv.0')(x))
        y = nn.relu(_conv(_WIDTH, 'conv.2')(y))
        return nn.relu(x + _conv(_WIDTH, 'conv.4')(y))


class Encoder(nn.Module):
    """(B, 8h, 8w, 3) in [-1, 1] to latents (B, h, w, 4)."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = (image + 1) / 2  # the original takes images in [0, 1]
        layer = 0
        for level, blocks in enumerate(_ENCODER_BLOCKS):
            first = level == 0
            x = _conv(_WIDTH, f'layers.{layer}', stride=1 if first else 2, use_bias=first)(x)
            layer += 1
            for i in range(layer, layer + blocks):
                x = Block(name=f'layers.{i}')(x)
            layer += blocks
        return _conv(LATENT_CHANNELS, f'layers.{layer}')(x)  # (B, h, w, 4)


class Decoder(nn.Module):
    """Latents (B, h, w, 4) to (B, 8h, 8w, 3), in [-1, 1] but for overshoot."""

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        x = 3 * jnp.tanh(latents / 3)  # part of the network: about 0.3 dB worse without
        x = nn.relu(_conv(_WIDTH, 'layers.0')(x))
        layer = 2  # torch counts the ReLU as layer 1
        for level, blocks in enumerate(_DECODER_BLOCKS):
            for i in range(layer, layer + blocks):
                x = Block(name=f'layers.{i}')(x)
            layer += blocks
            if level < len(_DECODER_BLOCKS) - 1:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                # Torch counts the enlargement as a layer, too.
                x = _conv(_WIDTH, f'layers.{layer + 1}', use_bias=False)(x)
                layer += 2
        return 2 * _conv(3, f'layers.{layer}')(x) - 1  # (B, 8h, 8w, 3)


def load(path: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Reads the weights.

    Args:
      path: A local safetensors file with keys such as 'encoder.layers.1.conv.0.weight'.

    Returns:
      Parameters of `Encoder` and of `Decoder` (float32), and the file's SHA-256.

    Raises:
      ValueError: the file lacks a weight, holds one too many or one of another shape.
    """
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    latents = jax.ShapeDtypeStruct((1, 8, 8, LATENT_CHANNELS), jnp.float32)
    key = jax.random.key(0)
    shapes = {
        'encoder': jax.eval_shape(Encoder().init, key, image)['params'],
        'decoder': jax.eval_shape(Decoder().init, key, latents)['params'],
    }
    trees, sha256 = torch_layout.load(path, shapes, owner='the weights of madebyollin/taesd')
    return trees['encoder'], trees['decoder'], sha256


def encode(params: dict[str, Any], image: jax.Array) -> jax.Array:
    """(B, 8h, 8w, 3) in [-1, 1] to latents (B, h, w, 4)."""
    return Encoder().apply({'params': params}, image)


def decode(params: dict[str, Any], latents: jax.Array) -> jax.Array:
    """Latents (B, h, w, 4) to (B, 8h, 8w, 3), in [-1, 1] but for overshoot."""
    return Decoder().apply({'params': params}, latents)
