"""Reading picture files, which hold an image or a panoptic map.

`data/panoptic_png.py` says what the colours of a map's picture mean.
"""

import numpy as np
from etils import epath
from PIL import Image, ImageOps

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')


def read_picture(path: epath.Path, upright: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB; a grey picture gets three equal channels.

    Args:
      path: The picture file.
      upright: Whether to turn the picture as its camera says. An image that has a map must not be
        turned, because the map would not turn with it.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file cannot be read as a picture.
    """
    try:
        # Pillow decodes lazily, so the conversion must happen while the file is open.
        with path.open('rb') as file, Image.open(file) as picture:
            if upright:
                picture = ImageOps.exif_transpose(picture)
            return np.array(picture.convert('RGB'))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is missing; restore it.') from None
    except OSError as error:
        raise ValueError(
            f'{path} cannot be read as a picture ({error}); restore it, COCO from its zip file.'
        ) from error
