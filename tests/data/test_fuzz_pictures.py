"""Five hundred damaged PNG and JPEG files: each is read, or refused in one sentence, and soon."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from panoptic_jax.data.pictures import read_colours, read_ids, read_picture

COUNT = 500
SIDES = (0, 1, 7, 24, 31, 1000, 20_000, 65_535, 2**31 - 1, 2**32 - 1)


def encoded(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def originals(rng):
    """The contents of good files of many kinds."""
    rgb = Image.fromarray(rng.integers(0, 256, (24, 31, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (24, 31), np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    texts = PngImagePlugin.PngInfo()
    texts.add_text('note', 'a' * 5000, zip=True)
    texts.add_itxt('title', 'b', 'en', 'c')
    modes = [rgb, rgb.convert('RGBA'), rgb.convert('L'), rgb.convert('1'), deep]
    pngs = [encoded(picture, 'PNG') for picture in modes]
    pngs.append(encoded(rgb.quantize(40), 'PNG', transparency=3))
    pngs.append(encoded(rgb, 'PNG', exif=exif, pnginfo=texts, icc_profile=rng.bytes(300)))
    pngs.append(encoded(rgb, 'PNG', save_all=True, append_images=[rgb.rotate(90)] * 2))
    jpegs = [encoded(rgb, 'JPEG'), encoded(rgb, 'JPEG', progressive=True, exif=exif)]
    jpegs.append(encoded(rgb.convert('CMYK'), 'JPEG', quality=30))
    jpegs.append(encoded(rgb.convert('L'), 'JPEG', restart_marker_blocks=2))
    jpegs.append(encoded(rgb, 'MPO', save_all=True, append_images=[rgb.rotate(90)]))
    return pngs, jpegs


def truncate(content, rng):
    return content[: rng.integers(len(content))]


def flip_bits(content, rng):
    changed = bytearray(content)
    for _ in range(rng.integers(1, 20)):
        changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
    return bytes(changed)


def overwrite(content, rng):
    changed = bytearray(content)
    start, length = rng.integers(len(changed)), rng.integers(1, 200)
    changed[start : start + length] = (
        rng.bytes(rng.integers(200)) if rng.random() < 0.5 else bytes(9)
    )
    return bytes(changed)


def chunks_of(content):
    """[name, data] of each chunk of a good PNG."""
    found, start = [], 8
    while start < len(content):
        length, name = struct.unpack_from('>I4s', content, start)
        found.append([name, content[start + 8 : start + 8 + length]])
        start += 12 + length
    return found


def joined(chunks):
    """A PNG of chunks, whose checksums are right."""
    parts = [
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def rearrange_chunks(content, rng):
    """Chunks are left out, doubled, swapped, cut, renamed or filled with noise."""
    chunks = chunks_of(content)
    for _ in range(rng.integers(1, 4)):
        one, other = rng.integers(len(chunks), size=2)
        name, data = chunks[one]
        change = rng.integers(6)
        if change == 0 and len(chunks) > 1:
            del chunks[one]
        elif change == 1:
            chunks.insert(other, [name, data])
        elif change == 2:
            chunks[one], chunks[other] = chunks[other], chunks[one]
        elif change == 3:
            chunks[one] = [name, data[: rng.integers(len(data) + 1)]]
        elif change == 4:
            names = (
                b'tRNS',
                b'PLTE',
                b'iCCP',
                b'zTXt',
                b'eXIf',
                b'acTL',
                b'fcTL',
                b'fdAT',
                b'pHYs',
            )
            chunks[one] = [names[rng.integers(len(names))], data]
        else:
            chunks[one] = [name, rng.bytes(rng.integers(60))]
    return joined(chunks)


def change_header(content, rng):
    """Other sides, bits, colours or methods, with the right checksum."""
    chunks = chunks_of(content)
    width, height, *rest = struct.unpack('>IIBBBBB', chunks[0][1])
    if rng.random() < 0.7:
        width, height = (SIDES[i] for i in rng.integers(len(SIDES), size=2))
    else:
        rest[rng.integers(5)] = int(rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255]))
    chunks[0][1] = struct.pack('>IIBBBBB', width, height, *rest)
    return joined(chunks)


def change_frame(content, rng):
    """Other sides or channels in the frame's header of a JPEG."""
    changed = bytearray(content)
    start = max(content.find(b'\xff\xc0'), content.find(b'\xff\xc2'))
    sides = [min(SIDES[i], 65_535) for i in rng.integers(len(SIDES), size=2)]
    if rng.random() < 0.7:
        struct.pack_into('>HH', changed, start + 5, *sides)
    else:
        changed[start + rng.integers(2, 18)] = rng.integers(256)
    return bytes(changed)


def mutants(rng):
    """(number, content) of damaged files."""
    pngs, jpegs = originals(rng)
    anywhere = [truncate, flip_bits, overwrite]
    for number in range(COUNT):
        is_png = rng.random() < 0.6
        contents = pngs if is_png else jpegs
        content = contents[rng.integers(len(contents))]
        own = [rearrange_chunks, rearrange_chunks, change_header] if is_png else [change_frame]
        changes = anywhere + own
        yield number, changes[rng.integers(len(changes))](content, rng)


@pytest.mark.filterwarnings('ignore::UserWarning:PIL')
def test_damaged_pictures_are_read_or_refused_in_one_sentence(tmp_path):
    read, refused, slowest = 0, 0, 0.0
    for number, content in mutants(np.random.default_rng(0)):
        path = tmp_path / f'{number}.png'
        path.write_bytes(content)
        for reader in (lambda path: read_picture(path, upright=True), read_colours, read_ids):
            start = time.monotonic()
            try:
                array = reader(path)
            except ValueError as error:
                message = str(error)
                assert str(path) in message
                assert '\n' not in message
                assert message.endswith('.')
                message.encode()
                refused += 1
            else:
                assert array.dtype in (np.uint8, np.int32)
                assert min(array.shape) > 0
                read += 1
            slowest = max(slowest, time.monotonic() - start)
    assert slowest < 10
    # Otherwise the mutations are all alike.
    assert min(read, refused) > COUNT / 5
