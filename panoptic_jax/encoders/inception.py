"""Inception v3 as FID uses it: pytorch-fid's variant, whose weights are TensorFlow's of 2015.

It differs from torchvision's in its average pools, which do not count padding, in one max pool of
the last block, and in its 1008 classes. Statistics over its features are `metrics/fid.py`'s.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.encoders import rows, torch_layout

FEATURES = 2048
_SIZE = 299  # px
_IMAGES_PER_DEVICE = 8  # at a time
_OWNER = "pytorch-fid's Inception (pt_inception-2015-12-05) after --mode=import"


class _Conv(nn.Module):
    """Convolution without bias, batch norm by its stored statistics, ReLU."""

    channels: int
    size: tuple[int, int]
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, padding: tuple[int, int] = (0, 0)) -> jax.Array:
        x = nn.Conv(
            self.channels,
            self.size,
            strides=self.stride,
            padding=tuple((side, side) for side in padding),
            use_bias=False,
            name='conv',
        )(x)
        zeros, shape = nn.initializers.zeros, (self.channels,)
        mean, variance, scale, bias = (
            self.param(f'bn.{name}', zeros, shape)
            for name in ('running_mean', 'running_var', 'weight', 'bias')
        )
        factor = scale * jax.lax.rsqrt(variance + 1e-3)
        return nn.relu(x * factor + (bias - mean * factor))


def _conv(x: jax.Array, name: str, channels: int, *size: int, stride: int = 1) -> jax.Array:
    """A convolution that keeps the size; with a stride, one without padding."""
    height, width = size if len(size) == 2 else size * 2
    padding = (0, 0) if stride > 1 else (height // 2, width // 2)
    return _Conv(channels, (height, width), stride, name=name)(x, padding)


def _mean_pool(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False)


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


class _A(nn.Module):
    """35 x 35."""

    pool_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        five = _conv(_conv(x, 'branch5x5_1', 48, 1), 'branch5x5_2', 64, 5)
        three = _conv(_conv(x, 'branch3x3dbl_1', 64, 1), 'branch3x3dbl_2', 96, 3)
        three = _conv(three, 'branch3x3dbl_3', 96, 3)
        pool = _conv(_mean_pool(x), 'branch_pool', self.pool_channels, 1)
        return _join(_conv(x, 'branch1x1', 64, 1), five, three, pool)


class _B(nn.Module):
    """35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        double = _conv(_conv(x, 'branch3x3dbl_1', 64, 1), 'branch3x3dbl_2', 96, 3)
        double = _conv(double, 'branch3x3dbl_3', 96, 3, stride=2)
        pool = nn.max_pool(x, (3, 3), (2, 2))
        return _join(_conv(x, 'branch3x3', 384, 3, stride=2), double, pool)


class _C(nn.Module):
    """17 x 17."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = self.channels
        seven = _conv(_conv(x, 'branch7x7_1', width, 1), 'branch7x7_2', width, 1, 7)
        seven = _conv(seven, 'branch7x7_3', 192, 7, 1)
        double = _conv(_conv(x, 'branch7x7dbl_1', width, 1), 'branch7x7dbl_2', width, 7, 1)
        double = _conv(_conv(double, 'branch7x7dbl_3', width, 1, 7), 'branch7x7dbl_4', width, 7, 1)
        double = _conv(double, 'branch7x7dbl_5', 192, 1, 7)
        pool = _conv(_mean_pool(x), 'branch_pool', 192, 1)
        return _join(_conv(x, 'branch1x1', 192, 1), seven, double, pool)


class _D(nn.Module):
    """17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = _conv(_conv(x, 'branch3x3_1', 192, 1), 'branch3x3_2', 320, 3, stride=2)
        seven = _conv(_conv(x, 'branch7x7x3_1', 192, 1), 'branch7x7x3_2', 192, 1, 7)
        seven = _conv(_conv(seven, 'branch7x7x3_3', 192, 7, 1), 'branch7x7x3_4', 192, 3, stride=2)
        return _join(three, seven, nn.max_pool(x, (3, 3), (2, 2)))


class _E(nn.Module):
    """8 x 8; the last one pools by the maximum."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = _conv(x, 'branch3x3_1', 384, 1)
        double = _conv(_conv(x, 'branch3x3dbl_1', 448, 1), 'branch3x3dbl_2', 384, 3)
        return _join(
            _conv(x, 'branch1x1', 320, 1),
            _conv(three, 'branch3x3_2a', 384, 1, 3),
            _conv(three, 'branch3x3_2b', 384, 3, 1),
            _conv(double, 'branch3x3dbl_3a', 384, 1, 3),
            _conv(double, 'branch3x3dbl_3b', 384, 3, 1),
            _conv(self.pool(x), 'branch_pool', 192, 1),
        )


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding='SAME')


class Inception(nn.Module):
    """(B, 299, 299, 3) in [-1, 1] -> (B, 2048), the features before the classes ("pool3")."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _conv(x, 'Conv2d_1a_3x3', 32, 3, stride=2)
        x = _Conv(32, (3, 3), name='Conv2d_2a_3x3')(x)
        x = _conv(x, 'Conv2d_2b_3x3', 64, 3)
        x = _conv(nn.max_pool(x, (3, 3), (2, 2)), 'Conv2d_3b_1x1', 80, 1)
        x = _Conv(192, (3, 3), name='Conv2d_4a_3x3')(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name, channels in (('5b', 32), ('5c', 64), ('5d', 64)):
            x = _A(channels, name=f'Mixed_{name}')(x)
        x = _B(name='Mixed_6a')(x)
        for name, channels in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
            x = _C(channels, name=f'Mixed_{name}')(x)
        x = _D(name='Mixed_7a')(x)
        x = _E(_mean_pool, name='Mixed_7b')(x)
        return _E(_max_pool, name='Mixed_7c')(x).mean(axis=(1, 2))


def load(path: str) -> tuple[dict[str, Any], str]:
    """Parameters (float32) and SHA-256 of a local safetensors file with pytorch-fid's names.

    Raises:
      ValueError: the file lacks a weight, holds one too many or one of another shape.
    """
    image = jax.ShapeDtypeStruct((1, _SIZE, _SIZE, 3), jnp.float32)
    shapes = {'': jax.eval_shape(Inception().init, jax.random.key(0), image)['params']}
    unused = ('fc.*', 'AuxLogits.*', '*.num_batches_tracked')
    trees, sha256 = torch_layout.load(path, shapes, _OWNER, unused)
    return trees[''], sha256


def features(params: dict[str, Any], pictures: jax.Array) -> jax.Array:
    """(B, H, W, 3) uint8 -> (B, 2048) float32; resized bilinearly without smoothing, as torch does.

    Pictures are not cropped: other shapes than squares are distorted, as pytorch-fid does.
    """
    shape = (len(pictures), _SIZE, _SIZE, 3)
    images = jax.image.resize(jnp.float32(pictures), shape, 'bilinear', antialias=False)
    return Inception().apply({'params': params}, images / 127.5 - 1)


def on_devices(path: str) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """`features` over all local devices for any number of pictures, and the weights' SHA-256."""
    params, sha256 = load(path)
    return rows.on_devices(features, params, _IMAGES_PER_DEVICE), sha256
