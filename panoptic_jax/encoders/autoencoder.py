"""Stable Diffusion's KL autoencoder (SD 1, f = 8): 256 px images, moments of 32 x 32 x 4 latents.

It restates the autoencoder of latent diffusion (Rombach et al. 2022) and reads safetensors files
with the key names of diffusers' `AutoencoderKL`. `encoders/taesd.py` is its tiny stand-in, and
`diffusion/loss.py` draws latents from the moments.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.encoders import torch_layout

LATENT_CHANNELS = 4
# U-ViT's value for COCO. It brings the standard deviation of the latents near 1.
SCALE = 0.23010
_PUBLISHED_SCALE = 0.18215  # in diffusers' config.json; SDXL's is 0.13025
WIDTHS = (128, 256, 512, 512)  # channels per resolution, from 256 px down to 32

_OWNER = "the weights of Stable Diffusion's autoencoder with diffusers' names"
# Before diffusers 0.15 the parts of attention had other names, and published files keep them.
_OLD_NAMES = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}


def _conv(channels: int, name: str, size: int = 3, **options: Any) -> nn.Conv:
    """A convolution with torch's padding; `options` go to `nn.Conv`."""
    options = {'padding': size // 2} | options
    return nn.Conv(channels, (size, size), name=name, **options)


def _norm(name: str) -> nn.GroupNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
    return nn.GroupNorm(32, epsilon=1e-6, use_fast_variance=False, name=name)


class _Residual(nn.Module):
    """Two convolutions and a skip connection: (B, h, w, c) -> (B, h, w, channels)."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.silu(_norm('norm1')(x))
        hidden = _conv(self.channels, 'conv1')(hidden)
        hidden = nn.silu(_norm('norm2')(hidden))
        hidden = _conv(self.channels, 'conv2')(hidden)
        if x.shape[-1] != self.channels:
            x = _conv(self.channels, 'conv_shortcut', size=1)(x)
        return x + hidden


class _Attention(nn.Module):
    """Attention with one head over all pixels: (B, h, w, c) to the same shape."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        tokens = _norm('group_norm')(x).reshape(batch, height * width, channels)
        query, key, value = (nn.Dense(channels, name=f'to_{kind}')(tokens) for kind in 'qkv')
        scores = jnp.einsum('bqc,bkc->bqk', query * channels**-0.5, key)  # (B, h w, h w)
        mixed = jax.nn.softmax(scores) @ value  # (B, h w, c)
        mixed = nn.Dense(channels, name='to_out.0')(mixed)
        return x + mixed.reshape(x.shape)


def _middle(x: jax.Array) -> jax.Array:
    """The blocks at the lowest resolution, the same in encoder and decoder."""
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
            if level < len(WIDTHS) - 1:
                # The original pads one pixel, below and on the right only.
                padding = ((0, 1), (0, 1))
                x = _conv(width, f'{block}.downsamplers.0.conv', strides=2, padding=padding)(x)
        x = _middle(x)  # (B, h, w, 512)
        x = nn.silu(_norm('conv_norm_out')(x))
        return _conv(2 * LATENT_CHANNELS, 'conv_out')(x)


class Decoder(nn.Module):
    """(B, h, w, 4) latents, after `post_quant_conv` -> (B, 8h, 8w, 3), about [-1, 1]."""

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        x = _conv(WIDTHS[-1], 'conv_in')(latents)
        x = _middle(x)  # (B, h, w, 512)
        for level, width in enumerate(reversed(WIDTHS)):
            block = f'up_blocks.{level}'
            for i in range(3):
                x = _Residual(width, name=f'{block}.resnets.{i}')(x)
            if level < len(WIDTHS) - 1:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                x = _conv(width, f'{block}.upsamplers.0.conv')(x)
        x = nn.silu(_norm('conv_norm_out')(x))
        return _conv(3, 'conv_out')(x)  # (B, 8h, 8w, 3)


class _Part(NamedTuple):
    """One of the four networks, and the shape of an input that it takes."""

    network: nn.Module
    input_shape: tuple[int, int, int, int]


def _parts() -> dict[str, _Part]:
    """{torch prefix: network}; the convolutions are the same for any size of the input."""
    moments = 2 * LATENT_CHANNELS
    return {
        'encoder': _Part(Encoder(), (1, 64, 64, 3)),
        'quant_conv': _Part(nn.Conv(moments, (1, 1)), (1, 8, 8, moments)),
        'post_quant_conv': _Part(nn.Conv(LATENT_CHANNELS, (1, 1)), (1, 8, 8, LATENT_CHANNELS)),
        'decoder': _Part(Decoder(), (1, 8, 8, LATENT_CHANNELS)),
    }


def load(path: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Reads the weights.

    Args:
      path: Local safetensors file with the keys of diffusers' `AutoencoderKL`.

    Returns:
      Parameters for `encode` and for `decode` (float32), and the file's SHA-256.

    Raises:
      ValueError: the file lacks a weight, holds one too many or one of another shape, or it is
        another autoencoder's.
    """
    _require_sd1(Path(path).with_name('config.json'), path)
    shapes = {}
    for prefix, part in _parts().items():
        example = jax.ShapeDtypeStruct(part.input_shape, jnp.float32)
        variables = jax.eval_shape(part.network.init, jax.random.key(0), example)
        shapes[prefix] = variables['params']
    trees, sha256 = torch_layout.load(path, shapes, owner=_OWNER, rename=_new_name)
    # Whoever only decodes, such as a sampling job, puts half of the weights on its devices.
    encoder = {name: trees[name] for name in ('encoder', 'quant_conv')}
    decoder = {name: trees[name] for name in ('decoder', 'post_quant_conv')}
    return encoder, decoder, sha256


def _require_sd1(config: Path, path: str) -> None:
    """Refuses SDXL's autoencoder, say, whose weights look the same and whose latents differ.

    Args:
      config: The config.json of diffusers beside the weights; nothing is known without it.
      path: The weights, for messages.
    """
    try:
        content = json.loads(config.read_text(encoding='utf-8'))
        scale = content.get('scaling_factor', _PUBLISHED_SCALE)
    # It is no part of what was asked for: a file of something else decides nothing.
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    if scale != _PUBLISHED_SCALE:
        raise ValueError(
            f'{path} is not {_OWNER}: the config.json beside it has scaling_factor {scale!r}, '
            f'where those of SD 1 have {_PUBLISHED_SCALE}; their latents differ.'
        )


def _new_name(name: str) -> str:
    """A name in today's spelling."""
    block, _, rest = name.partition('.attentions.0.')
    if not rest:
        return name
    part, _, kind = rest.rpartition('.')
    return f'{block}.attentions.0.{_OLD_NAMES.get(part, part)}.{kind}'


def _apply(name: str, params: dict[str, Any], x: jax.Array) -> jax.Array:
    return _parts()[name].network.apply({'params': params[name]}, x)


def encode(params: dict[str, Any], image: jax.Array) -> jax.Array:
    """(B, 256, 256, 3) float32 in [-1, 1] -> moments (B, 32, 32, 8): means, then log variances."""
    moments = _apply('encoder', params, image)
    return _apply('quant_conv', params, moments)


def decode(params: dict[str, Any], latents: jax.Array) -> jax.Array:
    """Unscaled latents (B, 32, 32, 4) -> images (B, 256, 256, 3), about [-1, 1]."""
    latents = _apply('post_quant_conv', params, latents)
    return _apply('decoder', params, latents)
