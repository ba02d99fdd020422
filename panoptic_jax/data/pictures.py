"""Reading picture files: photographs, the coloured PNGs of panoptic maps, and pictures of ids.

`data/picture_formats.py` opens them, and `data/panoptic_png.py` says what the colours of a map's
picture mean.
"""

from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from panoptic_jax.data import picture_formats
from panoptic_jax.machine import files

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')

_RESTORE = 'restore it, COCO from its zip file'
_ORIENTATION = 0x0112  # EXIF's tag
# What turns a picture upright, by its orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture.

    Hidden files are none: macOS puts a `._0.png` beside the `0.png` that it copies.
    """
    return not name.startswith('.') and epath.Path(name).suffix.lower() in SUFFIXES


def read_picture(path: epath.Path, upright: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a photograph; a grey picture gets three equal channels.

    16-bit pictures lose their low eight bits, so 65535 is white. Transparency is dropped: a pixel
    has the colour that is stored for it. Animations give their first frame. Palettes and CMYK
    become RGB; colour profiles are not applied.

    Args:
      path: The picture file, in any format of Pillow. Its content decides, not its name.
      upright: Whether to turn the picture as its camera says. An image that has a map must not be
        turned unless its map was drawn upright.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file cannot be read as a picture, is damaged, has too many pixels, or holds
        floating-point or 32-bit numbers, of which nobody knows which is white.
    """
    return decode_picture(_read(path), path, upright)


def decode_picture(content: bytes, name: Any, upright: bool = False) -> np.ndarray:
    """The picture of a file's content, see `read_picture`; the name is for the messages."""
    with picture_formats.opened(content, name, _RESTORE) as picture:
        # EXIF must be read before `transpose`, whose result has none.
        turn = _TURNS.get(_orientation(picture)) if upright else None
        if turn is not None:
            picture = picture.transpose(turn)
        if picture.mode in ('I', 'F'):
            raise picture_formats.Refused(
                f'holds 32-bit or floating-point numbers (mode {picture.mode}), which do not say '
                'what is white; save it with 8 or 16 bits'
            )
        if picture.mode.startswith('I;16'):
            grey = (np.array(picture) >> 8).astype(np.uint8)  # (H, W)
            return np.repeat(grey[..., None], 3, axis=-1)
        return np.array(picture.convert('RGB'))


def read_size(path: epath.Path, upright: bool = False) -> tuple[int, int]:
    """(width, height) of a picture, in pixels; `upright` and the errors as in `read_picture`."""
    with picture_formats.opened(_read(path), path, _RESTORE) as picture:
        width, height = picture.size
        # From 5 on the camera lay on its side.
        return (height, width) if upright and _orientation(picture) > 4 else (width, height)


def read_image_of_map(
    path: epath.Path, shape: tuple[int, ...], map_name: Any
) -> tuple[np.ndarray, bool]:
    """The photograph of a map: upright, or as it is stored where only that fits.

    Most tools that draw maps show pictures as their camera was held.

    Args:
      path: The picture file.
      shape: (H, W, 3) of the map's colours.
      map_name: Names the map for the message.

    Returns:
      (H, W, 3) uint8, and whether it is kept as it is stored although its camera was turned.

    Raises:
      FileNotFoundError, ValueError: the errors of `read_picture`; image and map differ in size.
    """
    return decode_image_of_map(_read(path), path, shape, map_name)


def decode_image_of_map(
    content: bytes, name: Any, shape: tuple[int, ...], map_name: Any
) -> tuple[np.ndarray, bool]:
    """The same of a file's content; the name is for the messages."""
    image = decode_picture(content, name, upright=True)  # (H, W, 3)
    if image.shape == shape:
        return image, False
    stored = decode_picture(content, name)  # (H, W, 3)
    if stored.shape != shape:
        raise ValueError(
            f'{name} has {image.shape[1]}x{image.shape[0]} pixels and {map_name} '
            f'{shape[1]}x{shape[0]}; both must be originals of one release.'
        )
    return stored, True


def read_colours(path: epath.Path) -> np.ndarray:
    """(H, W, 3) uint8: the colours of a panoptic PNG, exactly as they are stored.

    Lossless tools turn RGB into a palette where there are few colours, so palettes are read as
    their colours. Transparency is dropped.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or it is no PNG with 8 bits in each of red, green and blue.
    """
    return decode_colours(_read(path), path)


def decode_colours(content: bytes, name: Any) -> np.ndarray:
    """The colours of a file's content, see `read_colours`; the name is for the messages."""
    with picture_formats.opened(content, name, _RESTORE) as picture:
        depth = picture_formats.png_depth(content)
        if depth is None or depth > 8 or picture.mode not in ('RGB', 'RGBA', 'P'):
            raise picture_formats.Refused(
                f'is a {picture_formats.describe(picture, depth)}; a panoptic map must be a PNG of '
                "8 bits in each of red, green and blue, as COCO's are"
            )
        return np.array(picture.convert('RGB'))


def read_ids(path: epath.Path) -> np.ndarray:
    """(H, W) int32: the numbers in a PNG of ids, palette indices or grey values of up to 16 bits.

    The colours of a palette do not matter, and grey values of 1, 2 or 4 bits are not stretched.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or it is no PNG with a palette or with grey values alone.
    """
    content = _read(path)
    with picture_formats.opened(content, path, _RESTORE) as picture:
        depth = picture_formats.png_depth(content)
        if depth is None or picture.mode not in ('1', 'L', 'P', 'I;16'):
            raise picture_formats.Refused(
                f'is a {picture_formats.describe(picture, depth)}; a picture of ids must be a PNG '
                'with a palette or with grey values alone'
            )
        ids = np.array(picture).astype(np.int32)  # (H, W)
        if picture.mode == 'L' and depth < 8:
            # Pillow stretches few bits to the full range: of 2 bits, 3 becomes 255.
            ids //= 255 // (2**depth - 1)
        return ids


def _read(path: epath.Path) -> bytes:
    """A file's content; raises one sentence where there is none."""
    return files.read_whole(
        path,
        missing='restore it',
        folder='a folder and no picture; rename or remove it',
        unreadable=_RESTORE,
    )


def _orientation(picture: Image.Image) -> int:
    """EXIF's number for how the camera was held; 1, upright, where there is none."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    # EXIF that cannot be read says nothing; the picture itself may be good.
    except Exception:
        return 1
