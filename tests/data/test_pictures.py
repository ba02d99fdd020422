"""Picture files of every kind: what is read, what is scaled, and what is refused by name."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from panoptic_jax.data import pictures
from panoptic_jax.data.pictures import read_colours, read_ids, read_picture

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 31, 3), np.uint8)
RGB = Image.fromarray(PIXELS)


def save(tmp_path, picture, name='picture.png', **options):
    path = tmp_path / name
    picture.save(path, **options)
    return path


def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def png(width, height, kind, *rest):
    """A PNG of chunks; `kind` is (bits, colour type)."""
    header = struct.pack('>IIBBBBB', width, height, *kind, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + b''.join(rest) + chunk(b'IEND', b'')


def png_of(rows, kind, *before):
    """A PNG of (H, bytes a row) uint8, and a width in pixels that fits `kind`."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind[1]]
    width = rows.shape[1] * 8 // (kind[0] * channels)
    lines = np.pad(rows, ((0, 0), (1, 0))).tobytes()  # each row has filter 0
    return png(width, len(rows), kind, *before, chunk(b'IDAT', zlib.compress(lines)))


def refused(read, path, said):
    """Asserts that one sentence names the file."""
    with pytest.raises(ValueError, match=said) as raised:
        read(path)
    message = str(raised.value)
    assert str(path) in message
    assert '\n' not in message


def test_photographs_of_more_than_8_bits_are_scaled(tmp_path):
    deep = RNG.integers(0, 65536, (20, 30), np.uint16)
    for name in ('grey.png', 'grey.tiff'):
        image = read_picture(save(tmp_path, Image.fromarray(deep), name))
        np.testing.assert_array_equal(image, np.repeat(deep[..., None] >> 8, 3, axis=-1))
    # Pillow cannot write the others.
    for channels, kind in ((3, 2), (4, 6), (2, 4)):
        deep = RNG.integers(0, 65536, (20, 30 * channels), np.uint16)
        path = tmp_path / f'{channels}.png'
        path.write_bytes(png_of(deep.astype('>u2').view(np.uint8), (16, kind)))
        colours = (deep >> 8).reshape(20, 30, channels)[..., : 3 if channels > 2 else 1]
        np.testing.assert_array_equal(read_picture(path), np.broadcast_to(colours, (20, 30, 3)))
        refused(read_colours, path, 'with 16 bits; a panoptic map must be')


@pytest.mark.parametrize('dtype', [np.float32, np.int32])
def test_numbers_without_a_white_are_refused(tmp_path, dtype):
    path = save(tmp_path, Image.fromarray(PIXELS[..., 0].astype(dtype)), 'numbers.tiff')
    refused(read_picture, path, r'floating-point numbers \(mode [IF]\).* save it with 8 or 16')


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'PA', 'RGBA', 'CMYK', 'YCbCr'])
def test_every_mode_becomes_rgb(tmp_path, mode):
    picture = RGB.convert(mode)
    ending = '.tiff' if mode in ('PA', 'CMYK', 'YCbCr') else '.png'
    image = read_picture(save(tmp_path, picture, 'a' + ending))
    np.testing.assert_array_equal(image, np.array(picture.convert('RGB')))


def test_transparency_is_dropped(tmp_path):
    alpha = RNG.integers(0, 256, (24, 31, 1), np.uint8)
    path = save(tmp_path, Image.fromarray(np.concatenate([PIXELS, alpha], axis=-1)))
    np.testing.assert_array_equal(read_picture(path), PIXELS)
    np.testing.assert_array_equal(read_colours(path), PIXELS)
    palette = RGB.quantize(16)
    path = save(tmp_path, palette, 'palette.png', transparency=3)
    np.testing.assert_array_equal(read_picture(path), np.array(palette.convert('RGB')))
    np.testing.assert_array_equal(read_ids(path), np.array(palette))


@pytest.mark.parametrize('name', ['a.webp', 'a.png', 'a.gif', 'a.mpo', 'a.tiff'])
def test_animations_give_their_first_frame(tmp_path, name):
    options = {'lossless': True} if name == 'a.webp' else {}
    first = RGB.quantize(64).convert('RGB')
    path = save(
        tmp_path, first, name, save_all=True, append_images=[RGB.rotate(180)] * 2, **options
    )
    image = read_picture(path).astype(int)
    errors = [np.abs(image - np.array(frame)).mean() for frame in (first, first.rotate(180))]
    assert errors[0] < (0.8 * errors[1] if name == 'a.mpo' else 1e-6)


def test_cmyk_jpegs_are_read_as_pillow_reads_them(tmp_path):
    path = save(tmp_path, RGB.convert('CMYK'), 'a.jpg')
    with Image.open(path) as picture:
        np.testing.assert_array_equal(read_picture(path), np.array(picture.convert('RGB')))


@pytest.mark.parametrize('orientation', range(1, 10))
def test_only_who_asks_gets_a_picture_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, RGB, exif=exif)
    turned = {
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.swapaxes(0, 1),
        6: np.rot90(PIXELS, -1),
        7: PIXELS[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(PIXELS),
    }
    np.testing.assert_array_equal(read_picture(path), PIXELS)
    upright = read_picture(path, upright=True)
    np.testing.assert_array_equal(upright, turned.get(orientation, PIXELS))


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
def test_exif_that_cannot_be_read_turns_nothing(tmp_path):
    for exif in (b'Exif\0\0' + RNG.bytes(40), b'Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12', b'x'):
        path = save(tmp_path, RGB, exif=exif)
        np.testing.assert_array_equal(read_picture(path, upright=True), PIXELS)


def with_chunks(*chunks, after=False):
    """The content of a good PNG, and more chunks before or after its pixels."""
    rows = PIXELS.reshape(24, -1)
    if not after:
        return png_of(rows, (8, 2), *chunks)
    whole = png_of(rows, (8, 2))
    return whole[:-12] + b''.join(chunks) + whole[-12:]


TEXT = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize('after', [False, True])
@pytest.mark.parametrize(
    'extra',
    [
        chunk(b'zTXt', b'note\0\0' + TEXT),
        chunk(b'iTXt', b'note\0\1\0\0\0' + TEXT),
        chunk(b'iCCP', b'profile\0\0' + TEXT),
        chunk(b'iCCP', b'profile\0\7' + TEXT),
        chunk(b'tEXt', b'note\0' + bytes(2_000_000)),
        chunk(b'pHYs', b'\0'),
        chunk(b'tIME', b''),
        chunk(b'gAMA', b''),
        chunk(b'acTL', b'\0\0'),
        chunk(b'zTXt', b'note\0\0' + TEXT)[:-1] + b'!',  # its checksum is wrong
    ],
)
def test_good_pixels_are_read_whatever_stands_beside_them(tmp_path, extra, after):
    path = tmp_path / 'a.png'
    path.write_bytes(with_chunks(extra, after=after))
    np.testing.assert_array_equal(read_picture(path), PIXELS)
    np.testing.assert_array_equal(read_colours(path), PIXELS)


def test_a_large_text_does_not_hide_how_the_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    texts = PngImagePlugin.PngInfo()
    texts.add_text('note', 'a' * 2_000_000, zip=True)
    path = save(tmp_path, RGB, exif=exif, pnginfo=texts)
    np.testing.assert_array_equal(read_picture(path, upright=True), PIXELS[::-1, ::-1])


@pytest.mark.parametrize('name', ['a.jpg', 'a.png'])
def test_large_pictures_are_read_without_a_setting_of_pillow(tmp_path, monkeypatch, name):
    """With a small limit in the place of Pillow's; a real one of 196 megapixels takes 4 s."""
    settings = lambda: (ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK)  # noqa: E731
    before = settings()
    path = save(tmp_path, RGB, name)
    for limit in (PIXELS.size // 9, PIXELS.size // 4):  # Pillow refuses, or warns
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
        with warnings.catch_warnings(record=True) as said:
            assert read_picture(path).shape == PIXELS.shape
        assert not said
        assert limit == Image.MAX_IMAGE_PIXELS
    assert settings() == before
    # Other formats have no way round the limit.
    path = save(tmp_path, RGB, 'a.gif')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    refused(read_picture, path, 'Image size .* exceeds limit')


def test_impossible_sizes_are_refused_before_memory_is_taken(tmp_path):
    good = save(tmp_path, RGB).read_bytes()
    path = tmp_path / 'a.png'
    for width, height in ((2**31 - 1, 2**31 - 1), (100_000, 100_000), (1, 2**31 - 1)):
        header = chunk(b'IHDR', struct.pack('>II', width, height) + good[24:29])
        path.write_bytes(good[:8] + header + good[33:])
        refused(read_picture, path, rf'has {width}x{height} pixels, .*; scale it down')
    for width, height in ((0, 24), (31, 0), (0, 0)):
        header = chunk(b'IHDR', struct.pack('>II', width, height) + good[24:29])
        path.write_bytes(good[:8] + header + good[33:])
        refused(read_picture, path, 'a.png ')


def test_a_jpeg_is_not_filled_up_to_the_size_that_it_says(tmp_path):
    content = bytearray(save(tmp_path, RGB, 'good.jpg').read_bytes())
    struct.pack_into('>HH', content, content.find(b'\xff\xc0') + 5, 20_000, 20_000)
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    refused(read_picture, path, r'bytes cannot hold 20000x20000 pixels')
    # The most that a JPEG can hold.
    path = save(tmp_path, Image.new('L', (4000, 4000), 128), 'plain.jpg', optimize=True)
    assert read_picture(path).shape == (4000, 4000, 3)


@pytest.mark.parametrize('read', [read_picture, read_colours, read_ids])
def test_what_is_no_picture_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r'none\.png is missing'):
        read(tmp_path / 'none.png')
    (tmp_path / 'folder.png').mkdir()
    refused(read, tmp_path / 'folder.png', 'is a folder and no picture')
    path = tmp_path / 'a.png'
    for content, said in (
        (b'', 'it is empty'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'begins with .*version https'),
        (b'<!DOCTYPE html>\n<html>', 'begins with'),
        (save(tmp_path, RGB, 'b.jpg').read_bytes()[:500], '(?i)truncated'),
        (save(tmp_path, RGB, 'b.png').read_bytes()[:500], r'a\.png cannot be read'),
        (b'\x89PNG\r\n\x1a\n', r'a\.png cannot be read'),
        (b'\xff\xd8\xff', r'a\.png cannot be read'),
    ):
        path.write_bytes(content)
        refused(read, path, said)


def test_a_changed_bit_among_the_pixels_of_a_png_is_noticed(tmp_path):
    """Pillow does not look: other ids would come out of a map."""
    colours = np.zeros((200, 300, 3), np.uint8)
    colours[50:, 70:] = PIXELS[0, 0]
    # Pixels that are stored as they are, not packed, so that the change breaks no code.
    path = save(tmp_path, Image.fromarray(colours), compress_level=0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(read_colours, path, r"checksum of its chunk b'IDAT' at byte \d+ is wrong")
    refused(read_picture, path, 'checksum')


def test_colours_of_a_map_come_as_they_are(tmp_path):
    np.testing.assert_array_equal(read_colours(save(tmp_path, RGB)), PIXELS)
    few = RGB.quantize(20)
    np.testing.assert_array_equal(read_colours(save(tmp_path, few)), np.array(few.convert('RGB')))
    for name, picture in (
        ('a.jpg', RGB),
        ('a.webp', RGB),
        ('a.png', RGB.convert('L')),
        ('b.png', RGB.convert('LA')),
        ('c.png', RGB.convert('1')),
        ('d.png', Image.fromarray(PIXELS[..., 0].astype(np.uint16))),
    ):
        refused(read_colours, save(tmp_path, picture, name), r'a panoptic map must be a PNG of 8')


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
@pytest.mark.parametrize('kind', ['grey', 'palette'])
def test_ids_come_as_they_are_whatever_their_bits(tmp_path, bits, kind):
    if (bits, kind) == (16, 'palette'):
        return
    ids = RNG.integers(0, 2**bits, (20, 32))
    if bits == 16:
        rows = ids.astype('>u2').view(np.uint8)
    else:
        places = np.arange(bits - 1, -1, -1)
        rows = np.packbits((ids[..., None] >> places & 1).reshape(20, -1).astype(np.uint8), axis=-1)
    colours = chunk(b'PLTE', RNG.bytes(3 * 2**bits)) if kind == 'palette' else b''
    path = tmp_path / 'ids.png'
    path.write_bytes(png_of(rows, (bits, 3 if kind == 'palette' else 0), colours))
    read = read_ids(path)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, ids)


def test_pictures_without_ids_are_refused(tmp_path):
    for name, picture in (
        ('a.png', RGB),
        ('b.png', RGB.convert('RGBA')),
        ('c.png', RGB.convert('LA')),
        ('d.jpg', RGB.convert('L')),
        ('e.gif', RGB.quantize(9)),
    ):
        refused(read_ids, save(tmp_path, picture, name), 'a picture of ids must be a PNG')


def test_hidden_files_and_others_are_no_pictures():
    assert all(map(pictures.is_picture, ('0.png', 'a b.JPG', 'ü.WebP', 'a.b.jpeg', '0.Png')))
    others = ('._0.png', '.png', '.a.jpg', '.DS_Store', 'Thumbs.db', 'a.txt', 'png', 'a.png.tmp')
    assert not any(map(pictures.is_picture, others))
