"""The blocks of Inception v3; `encoders/inception.py` puts them together.

They are torchvision's InceptionA to InceptionE, and their branches have its names. `double`
branches have two windows of the size in their name.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class Convolution(nn.Module):
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


def convolve(x: jax.Array, name: str, channels: int, *size: int, stride: int = 1) -> jax.Array:
    """A convolution that keeps height and width; one with a stride has no padding."""
    height, width = size if len(size) == 2 else size * 2
    padding = (0, 0) if stride > 1 else (height // 2, width // 2)
    return Convolution(channels, (height, width), stride, name=name)(x, padding)


def mean_pool(x: jax.Array) -> jax.Array:
    """Means of 3 x 3 windows, to the same shape."""
    # TensorFlow's pools leave padding out of the mean, torch's count it.
    return nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False)


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


class BlockA(nn.Module):
    """(B, 35, 35, c) -> (B, 35, 35, 224 + pool_channels)."""

    pool_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one = convolve(x, 'branch1x1', 64, 1)
        five = convolve(x, 'branch5x5_1', 48, 1)
        five = convolve(five, 'branch5x5_2', 64, 5)
        double = convolve(x, 'branch3x3dbl_1', 64, 1)
        double = convolve(double, 'branch3x3dbl_2', 96, 3)
        double = convolve(double, 'branch3x3dbl_3', 96, 3)
        pool = convolve(mean_pool(x), 'branch_pool', self.pool_channels, 1)
        return _join(one, five, double, pool)


class BlockB(nn.Module):
    """(B, 35, 35, 288) -> (B, 17, 17, 768)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = convolve(x, 'branch3x3', 384, 3, stride=2)
        double = convolve(x, 'branch3x3dbl_1', 64, 1)
        double = convolve(double, 'branch3x3dbl_2', 96, 3)
        double = convolve(double, 'branch3x3dbl_3', 96, 3, stride=2)
        pool = nn.max_pool(x, (3, 3), (2, 2))
        return _join(three, double, pool)


class BlockC(nn.Module):
    """(B, 17, 17, 768) to the same shape; windows of 7 x 7 are split in 1 x 7 and 7 x 1."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = self.channels
        one = convolve(x, 'branch1x1', 192, 1)
        seven = convolve(x, 'branch7x7_1', width, 1)
        seven = convolve(seven, 'branch7x7_2', width, 1, 7)
        seven = convolve(seven, 'branch7x7_3', 192, 7, 1)
        double = convolve(x, 'branch7x7dbl_1', width, 1)
        double = convolve(double, 'branch7x7dbl_2', width, 7, 1)
        double = convolve(double, 'branch7x7dbl_3', width, 1, 7)
        double = convolve(double, 'branch7x7dbl_4', width, 7, 1)
        double = convolve(double, 'branch7x7dbl_5', 192, 1, 7)
        pool = convolve(mean_pool(x), 'branch_pool', 192, 1)
        return _join(one, seven, double, pool)


class BlockD(nn.Module):
    """(B, 17, 17, 768) -> (B, 8, 8, 1280)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = convolve(x, 'branch3x3_1', 192, 1)
        three = convolve(three, 'branch3x3_2', 320, 3, stride=2)
        seven = convolve(x, 'branch7x7x3_1', 192, 1)
        seven = convolve(seven, 'branch7x7x3_2', 192, 1, 7)
        seven = convolve(seven, 'branch7x7x3_3', 192, 7, 1)
        seven = convolve(seven, 'branch7x7x3_4', 192, 3, stride=2)
        pool = nn.max_pool(x, (3, 3), (2, 2))
        return _join(three, seven, pool)


class BlockE(nn.Module):
    """(B, 8, 8, c) -> (B, 8, 8, 2048)."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one = convolve(x, 'branch1x1', 320, 1)
        three = convolve(x, 'branch3x3_1', 384, 1)
        double = convolve(x, 'branch3x3dbl_1', 448, 1)
        double = convolve(double, 'branch3x3dbl_2', 384, 3)
        return _join(
            one,
            convolve(three, 'branch3x3_2a', 384, 1, 3),
            convolve(three, 'branch3x3_2b', 384, 3, 1),
            convolve(double, 'branch3x3dbl_3a', 384, 1, 3),
            convolve(double, 'branch3x3dbl_3b', 384, 3, 1),
            convolve(self.pool(x), 'branch_pool', 192, 1),
        )


def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of 3 x 3 windows, to the same shape."""
    return nn.max_pool(x, (3, 3), padding='SAME')
