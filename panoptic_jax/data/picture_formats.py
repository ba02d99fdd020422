"""Opening the content of picture files with Pillow, without its settings, and errors in a sentence.

A setting of Pillow holds for the whole process, for all threads and for the caller's own work:
nothing here changes one. `data/pictures.py` makes arrays of what is opened here.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from panoptic_jax.machine.disk import first_line

LARGEST = 500_000_000  # pixels; Pillow holds four bytes of each, and the array three

_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8\xff'


class Refused(ValueError):
    """A whole picture that is not what is wanted; the message goes on after the picture's name."""


@contextlib.contextmanager
def opened(content: bytes, name: Any, fix: str) -> Iterator[Image.Image]:
    """The decoded picture of a file's content, for a block that takes it apart.

    Whatever the block or Pillow raises becomes one sentence.

    Args:
      content: The file.
      name: The file's path, for the sentence.
      fix: What to do about a damaged file, for the sentence.

    Raises:
      ValueError: the file is no picture, is damaged or has more than `LARGEST` pixels, or the block
        raises `Refused`.
    """
    try:
        with _open(content) as picture:
            yield picture
    except Refused as error:
        raise ValueError(f'{name} {error}.') from error
    except UnidentifiedImageError as error:
        begins = f'it begins with {content[:16]!r}' if content else 'it is empty'
        raise ValueError(f'{name} cannot be read as a picture ({begins}); {fix}.') from error
    # Damaged files make Pillow raise SyntaxError, IndexError, struct.error and many others.
    except Exception as error:
        reason = first_line(error)
        raise ValueError(f'{name} cannot be read as a picture ({reason}); {fix}.') from error


def png_depth(content: bytes) -> int | None:
    """Bits in each channel of a PNG, which Pillow's modes do not tell; None for other formats."""
    return content[24] if content.startswith(_PNG) else None


def describe(picture: Image.Image, depth: int | None) -> str:
    """What a picture is, such as 'PNG of mode L with 8 bits'; the depth is that of `png_depth`."""
    bits = f' with {depth} bits' if depth else ''
    return f'{picture.format or "picture"} of mode {picture.mode}{bits}'


def _open(content: bytes) -> Image.Image:
    """The decoded picture of a file's content."""
    if not content.startswith(_PNG):
        return _load(content)
    chunks = _chunks(content)
    try:
        return _load(content)
    except Exception:
        # Texts, profiles and times do not make the picture. Pillow refuses texts of more than a
        # megabyte, for example.
        needed = [
            content[start:end]
            for name, start, end in chunks
            if name[:1].isupper() or name in (b'tRNS', b'eXIf')
        ]
        if len(needed) == len(chunks):
            raise
        return _load(_PNG + b''.join(needed))


def _load(content: bytes) -> Image.Image:
    file = io.BytesIO(content)
    # `Image.open` refuses large pictures by a setting of the whole process; the formats do not.
    if content.startswith(_PNG):
        picture = PngImagePlugin.PngImageFile(file)
    elif content.startswith(_JPEG):
        picture = JpegImagePlugin.JpegImageFile(file)
    else:
        picture = Image.open(file)
    width, height = picture.size
    if not 0 < width * height <= LARGEST:
        raise Refused(
            f'has {width}x{height} pixels, and 1 to {LARGEST:,} can be read; scale it down'
        )
    # A JPEG holds at most 512 pixels in a byte, a bit for each block. Pillow would fill up the rest
    # with grey, and take a minute for it.
    if content.startswith(_JPEG) and width * height > 1024 * len(content):
        raise ValueError(f'{len(content)} bytes cannot hold {width}x{height} pixels')
    picture.load()
    return picture


def _chunks(content: bytes) -> list[tuple[bytes, int, int]]:
    """(name, start, end) of the chunks of a PNG up to where it ends or is cut.

    Raises:
      ValueError: a chunk of the picture itself is damaged. Pillow does not look at the checksums of
        the pixels, and a map with other ids would go unnoticed.
    """
    chunks = []
    start = len(_PNG)
    while start + 12 <= len(content):
        length, name = struct.unpack_from('>I4s', content, start)
        end = start + 12 + length
        if end > len(content):
            break
        (checksum,) = struct.unpack_from('>I', content, end - 4)
        if name[:1].isupper() and zlib.crc32(content[start + 4 : end - 4]) != checksum:
            raise ValueError(f'the checksum of its chunk {name!r} at byte {start} is wrong')
        chunks.append((name, start, end))
        if name == b'IEND':
            break
        start = end
    return chunks
