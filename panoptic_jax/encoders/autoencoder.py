"""Stable Diffusion's KL autoencoder (SD 1, f = 8): 256 px images, moments of 32 x 32 x 4 latents.

Reads safetensors files with the key names of diffusers' `AutoencoderKL`. The tiny stand-in is
`taesd.py`; drawing a latent from the moments is `diffusion/loss.py`'s.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.encoders import torch_layout

LATENT_CHANNELS = 4
SCALE = 0.23010  # U-ViT's for COCO: brings the latents' standard deviation near 1
WIDTHS = (128, 256, 512, 512)

_OWNER = "the weights of Stable Diffusion's autoencoder with diffusers' names"
# Attention was spelt otherwise before diffusers 0.15.
_OLD_NAMES = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}


def _conv(channels: int, name: str, size: int = 3, **options: Any) -> nn.Conv:
    options = {'padding': size // 2} | options
    return nn.Conv(channels, (size, size), name=name, **options)


def _norm(name: str) -> nn.GroupNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
    return nn.GroupNorm(32, epsilon=1e-6, use_fast_variance=False, name=name)


class _Residual(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = _conv(self.channels, 'conv1')(nn.silu(_norm('norm1')(x)))
        hidden = _conv(self.channels, 'conv2')(nn.silu(_norm('norm2')(hidden)))
        if x.shape[-1] != self.channels:
            x = _conv(self.channels, 'conv_shortcut', 1)(x)
        return x + hidden


class _Attention(nn.Module):
    """One head over all pixels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        tokens = _norm('group_norm')(x).reshape(batch, height * width, channels)
        query, key, value = (nn.Dense(channels, name=f'to_{kind}')(tokens) for kind in 'qkv')
        scores = jnp.einsum('bqc,bkc->bqk', query * channels**-0.5, key)
        mixed = nn.Dense(channels, name='to_out.0')(jax.nn.softmax(scores) @ value)
        return x + mixed.reshape(x.shape)


def _middle(x: jax.Array) -> jax.Array:
    x = _Residual(WIDTHS[-1], name='mid_block.resnets.0')(x)
    x = _Attention(name='mid_block.attentions.0')(x)
    return _Residual(WIDTHS[-1], name='mid_block.resnets.1')(x)


class Encoder(nn.Module):
    """(B, 8h, 8w, 3) in [-1, 1] -> (B, h, w, 8) moments, before `quant_conv`."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = _conv(WIDTHS[0], 'conv_in')(image)
        for level, width in enumerate(WIDTHS):
            block = f'down_blocks.{level}'
            for i in range(2):
                x = _Residual(width, name=f'{block}.resnets.{i}')(x)
            if level < len(WIDTHS) - 1:  # one pixel of padding, at the end alone
                padding = ((0, 1), (0, 1))
                x = _conv(width, f'{block}.downsamplers.0.conv', strides=2, padding=padding)(x)
        x = _middle(x)
        return _conv(2 * LATENT_CHANNELS, 'conv_out')(nn.silu(_norm('conv_norm_out')(x)))


class Decoder(nn.Module):
    """(B, h, w, 4) latents, after `post_quant_conv` -> (B, 8h, 8w, 3), about [-1, 1]."""

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        x = _middle(_conv(WIDTHS[-1], 'conv_in')(latents))
        for level, width in enumerate(reversed(WIDTHS)):
            block = f'up_blocks.{level}'
            for i in range(3):
                x = _Residual(width, name=f'{block}.resnets.{i}')(x)
            if level < len(WIDTHS) - 1:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                x = _conv(width, f'{block}.upsamplers.0.conv')(x)
        return _conv(3, 'conv_out')(nn.silu(_norm('conv_norm_out')(x)))


def _parts() -> dict[str, tuple[nn.Module, int, int]]:
    """{torch prefix: (network, side of an example input, its channels)}."""
    moments = 2 * LATENT_CHANNELS
    return {
        'encoder': (Encoder(), 64, 3),
        'quant_conv': (nn.Conv(moments, (1, 1)), 8, moments),
        'post_quant_conv': (nn.Conv(LATENT_CHANNELS, (1, 1)), 8, LATENT_CHANNELS),
        'decoder': (Decoder(), 8, LATENT_CHANNELS),
    }


def load(path: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Reads the weights.

    Args:
      path: Local safetensors file with the keys of diffusers' `AutoencoderKL`.

    Returns:
      Parameters for `encode` and for `decode` (float32), and the file's SHA-256.

    Raises:
      ValueError: the file lacks a weight, holds one too many or one of another shape.
    """
    shapes = {
        prefix: jax.eval_shape(
            network.init,
            jax.random.key(0),
            jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32),
        )['params']
        for prefix, (network, side, channels) in _parts().items()
    }
    trees, sha256 = torch_layout.load(path, shapes, _OWNER, rename=_new_name)
    encoder = {name: trees[name] for name in ('encoder', 'quant_conv')}
    decoder = {name: trees[name] for name in ('decoder', 'post_quant_conv')}
    return encoder, decoder, sha256


def _new_name(name: str) -> str:
    head, _, rest = name.partition('.attentions.0.')
    old, _, kind = rest.rpartition('.')
    return f'{head}.attentions.0.{_OLD_NAMES.get(old, old)}.{kind}' if rest else name


def _apply(name: str, params: dict[str, Any], x: jax.Array) -> jax.Array:
    return _parts()[name][0].apply({'params': params[name]}, x)


def encode(params: dict[str, Any], image: jax.Array) -> jax.Array:
    """(B, 256, 256, 3) float32 in [-1, 1] -> moments (B, 32, 32, 8): means, then log variances."""
    return _apply('quant_conv', params, _apply('encoder', params, image))


def decode(params: dict[str, Any], latents: jax.Array) -> jax.Array:
    """Unscaled latents (B, 32, 32, 4) -> images (B, 256, 256, 3), clipped to [-1, 1]."""
    return jnp.clip(_apply('decoder', params, _apply('post_quant_conv', params, latents)), -1, 1)
