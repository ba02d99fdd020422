"""Reading picture files. What the pixels mean is their users'."""

import numpy as np
from etils import epath
from PIL import Image


def read_picture(path: epath.Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; grey pictures get three equal channels.

    Raises:
      FileNotFoundError, ValueError: there is none, or it cannot be read.
    """
    try:
        with path.open('rb') as file, Image.open(file) as picture:
            return np.array(picture.convert('RGB'))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is missing; restore it.') from None
    except OSError as error:
        raise ValueError(
            f'{path} cannot be read as a picture ({error}); restore it, COCO from its zip file.'
        ) from error
