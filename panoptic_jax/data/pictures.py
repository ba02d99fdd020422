"""Reading picture files. What the pixels mean is their users'."""

import numpy as np
from etils import epath
from PIL import Image, ImageOps

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')


def read_picture(path: epath.Path, upright: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB; grey pictures get three equal channels.

    Args:
      path: Of the file.
      upright: Turn it as its camera says, which must not be done where a map goes with it.

    Raises:
      FileNotFoundError, ValueError: there is none, or it cannot be read.
    """
    try:
        with path.open('rb') as file, Image.open(file) as picture:
            return np.array(
                (ImageOps.exif_transpose(picture) if upright else picture).convert('RGB')
            )
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is missing; restore it.') from None
    except OSError as error:
        raise ValueError(
            f'{path} cannot be read as a picture ({error}); restore it, COCO from its zip file.'
        ) from error
