"""What users give of images, and which part is known: files or arrays, fitted as preparation does.

Given maps are read by `data/map_pictures.py`.
"""

import os
from typing import Any

import numpy as np
from etils import epath

from panoptic_jax.data import geometry, pictures

_WHITE = 128  # a grey value from here on is white


def read_image(given: Any) -> np.ndarray:
    """(256, 256, 3) uint8: the central square of a picture, resized.

    Args:
      given: The path of a picture, which is turned upright, or an array (H, W, 3) uint8.

    Raises:
      FileNotFoundError, ValueError: the errors of `pictures.read_picture`; another kind of array.
    """
    if isinstance(given, str | os.PathLike):
        return geometry.fit_image(pictures.read_picture(epath.Path(given), upright=True))
    image = np.asarray(given)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype != np.uint8:
        raise ValueError(
            f'An image is an array of {image.dtype} of shape {image.shape}; it must be (height, '
            'width, 3) uint8, or the path of a picture.'
        )
    return geometry.fit_image(image)


def read_known(given: Any, side: int) -> np.ndarray:
    """(side, side) bool: where a mask says that something is known, in pixels of map or latent.

    A pixel is known where all of it is.

    Args:
      given: The path of a picture, white where it is known, or an array (H, W) bool. It belongs to
        an image or a map of the same proportions, and is cropped as that one.
      side: Pixels along a side, a divisor of 256.

    Raises:
      FileNotFoundError, ValueError: the errors of `pictures.read_picture`; another kind of array.
    """
    if isinstance(given, str | os.PathLike):
        mask = pictures.read_picture(epath.Path(given)).mean(axis=-1) >= _WHITE
    else:
        mask = np.asarray(given)
    if mask.ndim != 2 or not mask.size or mask.dtype != bool:
        raise ValueError(
            f'A mask is an array of {mask.dtype} of shape {mask.shape}; it must be (height, width) '
            'of truth values, True where it is known, or the path of a picture.'
        )
    whole = geometry.fit_ids(mask.astype(np.uint8))  # (256, 256)
    factor = geometry.IMAGE_SIDE // side
    return whole.reshape(side, factor, side, factor).min(axis=(1, 3)) > 0
