"""Inception v3 as FID uses it: pytorch-fid's variant, whose weights are TensorFlow's of 2015.

It restates the network of Szegedy et al. 2015. It differs from torchvision's in its average pools,
which do not count padding, in one max pool of the last block, and in its 1008 classes.
`metrics/fid.py` computes statistics over its features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.encoders import inception_blocks as blocks
from panoptic_jax.encoders import rows, safetensors_files, torch_layout

FEATURES = 2048
_IMAGE_SIDE = 299  # px
IMAGES_PER_DEVICE = 8  # at a time
_OWNER = "pytorch-fid's Inception (pt_inception-2015-12-05) after --mode=import"
# Parts of the file that features do not need: the classes and torch's step counters.
_IGNORED = ('fc.*', '*.num_batches_tracked')
_CLASSES = 1008  # of TensorFlow's graph; torchvision's networks, whose FIDs differ, have 1,000


class Inception(nn.Module):
    """(B, 299, 299, 3) in [-1, 1] -> (B, 2048), the features before the classes ("pool3")."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = blocks.convolve(x, 'Conv2d_1a_3x3', 32, 3, stride=2)  # (B, 149, 149, 32)
        # Two of the first convolutions have no padding though they have no stride.
        x = blocks.Convolution(32, (3, 3), name='Conv2d_2a_3x3')(x)  # (B, 147, 147, 32)
        x = blocks.convolve(x, 'Conv2d_2b_3x3', 64, 3)
        x = nn.max_pool(x, (3, 3), (2, 2))  # (B, 73, 73, 64)
        x = blocks.convolve(x, 'Conv2d_3b_1x1', 80, 1)
        x = blocks.Convolution(192, (3, 3), name='Conv2d_4a_3x3')(x)  # (B, 71, 71, 192)
        x = nn.max_pool(x, (3, 3), (2, 2))  # (B, 35, 35, 192)
        for name, channels in (('5b', 32), ('5c', 64), ('5d', 64)):
            x = blocks.BlockA(channels, name=f'Mixed_{name}')(x)
        x = blocks.BlockB(name='Mixed_6a')(x)
        for name, channels in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
            x = blocks.BlockC(channels, name=f'Mixed_{name}')(x)
        x = blocks.BlockD(name='Mixed_7a')(x)
        x = blocks.BlockE(blocks.mean_pool, name='Mixed_7b')(x)
        # The TensorFlow graph of 2015 pools by the maximum here, which the paper does not.
        x = blocks.BlockE(blocks.max_pool, name='Mixed_7c')(x)  # (B, 8, 8, 2048)
        return x.mean(axis=(1, 2))


def load(path: str) -> tuple[dict[str, Any], str]:
    """Parameters (float32) and SHA-256 of a local safetensors file with pytorch-fid's names.

    Raises:
      ValueError: the file lacks a weight, holds one too many or one of another shape, or it is
        another Inception.
    """
    with safetensors_files.opened(path, _OWNER) as file:
        names = file.keys()
        require_fids(path, {name: tuple(file.get_slice(name).get_shape()) for name in names})
    image = jax.ShapeDtypeStruct((1, _IMAGE_SIDE, _IMAGE_SIDE, 3), jnp.float32)
    variables = jax.eval_shape(Inception().init, jax.random.key(0), image)
    shapes = {'': variables['params']}
    trees, sha256 = torch_layout.load(path, shapes, owner=_OWNER, ignored=_IGNORED)
    return trees[''], sha256


def is_inception(names: Sequence[str]) -> bool:
    """Whether weights of these names are some Inception v3's, in torchvision's spelling."""
    return any(name.startswith('Mixed_7c.branch_pool.') for name in names)


def require_fids(path: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses an Inception that is not the one of FID; its convolutions have the same shapes.

    Args:
      path: The file, for messages.
      shapes: {torch name: shape} of the file.

    Raises:
      ValueError: the network's head is not that of TensorFlow's graph of 2015.
    """
    classes = (*shapes.get('fc.weight', ()), 'no')[0]
    has_second_head = any(name.startswith('AuxLogits.') for name in shapes)
    if has_second_head or classes != _CLASSES:
        second = ' and a second head (AuxLogits)' if has_second_head else ''
        raise ValueError(
            f"{path} is not FID's Inception: that has {_CLASSES} classes and one head, this has "
            f"{classes} classes{second}, as torchvision's have; their FIDs cannot be compared. "
            'Take pt_inception-2015-12-05-6726825d.pth of pytorch-fid through --mode=import.'
        )


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
