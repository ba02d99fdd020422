"""Inception v3 as FID uses it: pytorch-fid's variant, whose weights are TensorFlow's of 2015.

It restates the network of Szegedy et al. 2015. It differs from torchvision's in its average pools,
which do not count padding, in one max pool of the last block, and in its 1008 classes.
`metrics/fid.py` computes statistics over its features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.encoders import rows, torch_layout

FEATURES = 2048
_IMAGE_SIDE = 299  # px
IMAGES_PER_DEVICE = 8  # at a time
_OWNER = "pytorch-fid's Inception (pt_inception-2015-12-05) after --mode=import"
# Parts of the file that features do not need: the classes, a second head, torch's step counters.
_IGNORED = ('fc.*', 'AuxLogits.*', '*.num_batches_tracked')


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
        # The statistics are parameters here: linen's BatchNorm would want a tree of their own.
        zeros, shape = nn.initializers.zeros, (self.channels,)
        mean, variance, scale, bias = (
            self.param(f'bn.{name}', zeros, shape)
            for name in ('running_mean', 'running_var', 'weight', 'bias')
        )
        factor = scale * jax.lax.rsqrt(variance + 1e-3)
        shift = bias - mean * factor
        return nn.relu(x * factor + shift)


def _conv(x: jax.Array, name: str, channels: int, *size: int, stride: int = 1) -> jax.Array:
    """A convolution that keeps height and width; one with a stride has no padding."""
    height, width = size if len(size) == 2 else size * 2
    padding = (0, 0) if stride > 1 else (height // 2, width // 2)
    return _Conv(channels, (height, width), stride, name=name)(x, padding)


def _mean_pool(x: jax.Array) -> jax.Array:
    # TensorFlow's pools leave padding out of the mean, torch's count it.
    return nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False)


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


# The blocks are torchvision's InceptionA to InceptionE, and their branches have its names. `double`
# branches have two windows of the size in their name.


class _A(nn.Module):
    """(B, 35, 35, c) -> (B, 35, 35, 224 + pool_channels)."""

    pool_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one = _conv(x, 'branch1x1', 64, 1)
        five = _conv(x, 'branch5x5_1', 48, 1)
        five = _conv(five, 'branch5x5_2', 64, 5)
        double = _conv(x, 'branch3x3dbl_1', 64, 1)
        double = _conv(double, 'branch3x3dbl_2', 96, 3)
        double = _conv(double, 'branch3x3dbl_3', 96, 3)
        pool = _conv(_mean_pool(x), 'branch_pool', self.pool_channels, 1)
        return _join(one, five, double, pool)


class _B(nn.Module):
    """(B, 35, 35, 288) -> (B, 17, 17, 768)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = _conv(x, 'branch3x3', 384, 3, stride=2)
        double = _conv(x, 'branch3x3dbl_1', 64, 1)
        double = _conv(double, 'branch3x3dbl_2', 96, 3)
        double = _conv(double, 'branch3x3dbl_3', 96, 3, stride=2)
        pool = nn.max_pool(x, (3, 3), (2, 2))
        return _join(three, double, pool)


class _C(nn.Module):
    """(B, 17, 17, 768) to the same shape; windows of 7 x 7 are split in 1 x 7 and 7 x 1."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = self.channels
        one = _conv(x, 'branch1x1', 192, 1)
        seven = _conv(x, 'branch7x7_1', width, 1)
        seven = _conv(seven, 'branch7x7_2', width, 1, 7)
        seven = _conv(seven, 'branch7x7_3', 192, 7, 1)
        double = _conv(x, 'branch7x7dbl_1', width, 1)
        double = _conv(double, 'branch7x7dbl_2', width, 7, 1)
        double = _conv(double, 'branch7x7dbl_3', width, 1, 7)
        double = _conv(double, 'branch7x7dbl_4', width, 7, 1)
        double = _conv(double, 'branch7x7dbl_5', 192, 1, 7)
        pool = _conv(_mean_pool(x), 'branch_pool', 192, 1)
        return _join(one, seven, double, pool)


class _D(nn.Module):
    """(B, 17, 17, 768) -> (B, 8, 8, 1280)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = _conv(x, 'branch3x3_1', 192, 1)
        three = _conv(three, 'branch3x3_2', 320, 3, stride=2)
        seven = _conv(x, 'branch7x7x3_1', 192, 1)
        seven = _conv(seven, 'branch7x7x3_2', 192, 1, 7)
        seven = _conv(seven, 'branch7x7x3_3', 192, 7, 1)
        seven = _conv(seven, 'branch7x7x3_4', 192, 3, stride=2)
        pool = nn.max_pool(x, (3, 3), (2, 2))
        return _join(three, seven, pool)


class _E(nn.Module):
    """(B, 8, 8, c) -> (B, 8, 8, 2048)."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one = _conv(x, 'branch1x1', 320, 1)
        three = _conv(x, 'branch3x3_1', 384, 1)
        double = _conv(x, 'branch3x3dbl_1', 448, 1)
        double = _conv(double, 'branch3x3dbl_2', 384, 3)
        return _join(
            one,
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
        x = _conv(x, 'Conv2d_1a_3x3', 32, 3, stride=2)  # (B, 149, 149, 32)
        # Two of the first convolutions have no padding though they have no stride.
        x = _Conv(32, (3, 3), name='Conv2d_2a_3x3')(x)  # (B, 147, 147, 32)
        x = _conv(x, 'Conv2d_2b_3x3', 64, 3)
        x = nn.max_pool(x, (3, 3), (2, 2))  # (B, 73, 73, 64)
        x = _conv(x, 'Conv2d_3b_1x1', 80, 1)
        x = _Conv(192, (3, 3), name='Conv2d_4a_3x3')(x)  # (B, 71, 71, 192)
        x = nn.max_pool(x, (3, 3), (2, 2))  # (B, 35, 35, 192)
        for name, channels in (('5b', 32), ('5c', 64), ('5d', 64)):
            x = _A(channels, name=f'Mixed_{name}')(x)
        x = _B(name='Mixed_6a')(x)
        for name, channels in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
            x = _C(channels, name=f'Mixed_{name}')(x)
        x = _D(name='Mixed_7a')(x)
        x = _E(_mean_pool, name='Mixed_7b')(x)
        # The TensorFlow graph of 2015 pools by the maximum here, which the paper does not.
        x = _E(_max_pool, name='Mixed_7c')(x)  # (B, 8, 8, 2048)
        return x.mean(axis=(1, 2))


def load(path: str) -> tuple[dict[str, Any], str]:
    """Parameters (float32) and SHA-256 of a local safetensors file with pytorch-fid's names.

    Raises:
      ValueError: the file lacks a weight, holds one too many or one of another shape.
    """
    image = jax.ShapeDtypeStruct((1, _IMAGE_SIDE, _IMAGE_SIDE, 3), jnp.float32)
    variables = jax.eval_shape(Inception().init, jax.random.key(0), image)
    shapes = {'': variables['params']}
    trees, sha256 = torch_layout.load(path, shapes, owner=_OWNER, ignored=_IGNORED)
    return trees[''], sha256


def features(params: dict[str, Any], images: jax.Array) -> jax.Array:
    """(B, H, W, 3) uint8 -> (B, 2048) float32.

    Images are not cropped: as in pytorch-fid, those that are not squares are distorted.
    """
    shape = (len(images), _IMAGE_SIDE, _IMAGE_SIDE, 3)
    # Bilinear without smoothing, as torch resizes. FIDs with other resizing cannot be compared.
    resized = jax.image.resize(jnp.float32(images), shape, 'bilinear', antialias=False)
    return Inception().apply({'params': params}, resized / 127.5 - 1)


def on_devices(
    path: str,
    *,
    images_per_device: int = IMAGES_PER_DEVICE,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """`features` for any number of images, spread over devices, and the weights' SHA-256.

    Args:
      path: A local safetensors file, see `load`.
      images_per_device: Images that one device works on at a time.
      devices: What the images are spread over; None for all devices of this process.
    """
    params, sha256 = load(path)
    return rows.on_devices(features, params, images_per_device, devices), sha256
