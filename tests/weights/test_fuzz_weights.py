"""Damaged weights of all kinds, by a fixed seed: each is read or refused in one sentence, in time.

Mutations know the formats' weak places: lengths, headers, offsets, types, shapes, metadata.
"""

import json
import shutil
import threading
import time

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch_reference
from conftest import described, random_parameters

from panoptic_jax.data import loader
from panoptic_jax.encoders import clip, inception, safetensors_files, torch_layout
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import torch_file

LIMIT = 10.0  # seconds that no file may take
OUR_FILES, ENCODERS, TORCH_FILES = 120, 100, 80  # files; 300 in all
WORDS = ('F32', 'F16', 'I64', 'F8_E4M3', 'BF16', 'X', '', None, -1, 10**30, [], {}, 'NaN', 1.5)


def flip_bits(content, rng):
    damaged = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def flip_bits_of_header(content, rng):
    return flip_bits(content[:600], rng) + content[600:]


def cut(content, rng):
    return content[: rng.integers(len(content))]


def remove_middle(content, rng):
    first, last = sorted(rng.integers(len(content), size=2))
    return content[:first] + content[last:]


def zero_middle(content, rng):
    first, last = sorted(rng.integers(len(content), size=2))
    return content[:first] + bytes(last - first) + content[last:]


def append(content, rng):
    return content + rng.bytes(rng.integers(1, 99))


def another_start(content, rng):
    starts = (b'<!DOCTYPE html>', b'version https://git-lfs.github.com/spec/v1', b'PK\x03\x04',
              b'\x80\x02', b'\x1f\x8b', b'{"a": 1}', b'')  # fmt: skip
    start = starts[rng.integers(len(starts))]
    return start + content[len(start) :] if rng.integers(2) else start


def another_length(content, rng):
    length = int(rng.choice([0, 1, 7, 2**31, 2**63 - 1, len(content), len(content) * 2]))
    return length.to_bytes(8, 'little') + content[8:]


def header_of(content):
    end = 8 + int.from_bytes(content[:8], 'little')
    return json.loads(content[8:end]), content[end:]


def with_header(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + data


def another_entry(content, rng):
    """A tensor's type, shape or offsets, or an entry's whole content, is another one."""
    header, data = header_of(content)
    names = [name for name in header if name != '__metadata__']
    entry = header[names[rng.integers(len(names))]]
    word = WORDS[rng.integers(len(WORDS))]
    match rng.integers(4):
        case 0:
            entry['dtype'] = word
        case 1:
            entry['shape'] = [[2**62, 4], [0], [-1], word, [word], []][rng.integers(6)]
        case 2:
            entry['data_offsets'] = [[0, 2**62], [5, 3], [word, word], word][rng.integers(4)]
        case _:
            header[names[0]] = word
    return with_header(header, data)


def another_name(content, rng):
    header, data = header_of(content)
    names = [name for name in header if name != '__metadata__']
    name = names[rng.integers(len(names))]
    others = ('', '/', '\0', 'image', name + '/x', 'a' * 5000, '\ud83d\ude00', name[:-1])
    header[others[rng.integers(len(others))]] = header.pop(name)
    return with_header(header, data)


def another_description(content, rng):
    """Metadata that are missing or garbage, down to a field of the description."""
    header, data = header_of(content)
    metadata = header.setdefault('__metadata__', {})
    metadata.pop('sha256', None)
    word = WORDS[rng.integers(len(WORDS))]
    match rng.integers(5):
        case 0:
            del header['__metadata__']
        case 1:
            header['__metadata__'] = word
        case 2:
            metadata['description'] = ['', '[', '[' * 99_999, 'null', '{}', '[]'][rng.integers(6)]
        case _ if 'description' in metadata:
            description = json.loads(metadata['description'])
            fields = [*description]
            place = description
            name = fields[rng.integers(len(fields))]
            if isinstance(place[name], dict) and rng.integers(4):
                place = place[name]
                fields = [*place]
                name = fields[rng.integers(len(fields))]
            place[name] = word
            metadata['description'] = json.dumps(description)
    return with_header(header, data)


def garbage_header(content, rng):
    _, data = header_of(content)
    headers = (b'{', b'{}', b'[]', b'{"a":', b'\xff\xfe', b'{"a": {}}', b'{' * 99_999, b'null')
    return with_header(headers[rng.integers(len(headers))], data)


def not_finite(content, rng):
    header, data = header_of(content)
    # Four bytes of ones are NaN in all types of floats.
    place = 4 * rng.integers(len(data) // 4)
    header.get('__metadata__', {}).pop('sha256', None)
    return with_header(header, data[:place] + b'\xff' * 4 + data[place + 4 :])


PLAIN = (flip_bits, flip_bits_of_header, cut, remove_middle, zero_middle, append, another_start)
OF_SAFETENSORS = (*PLAIN, another_length, another_entry, another_name, another_description,
                  garbage_header, not_finite)  # fmt: skip


def fuzz(read, content, folder, mutations, count):
    """Reads `count` mutated files in a folder of their own, and says how many were refused."""
    rng, refused, messages = np.random.default_rng(11), 0, set()
    path = folder / 'weights'
    for number in range(count):
        mutate = mutations[number % len(mutations)]
        path.write_bytes(mutate(content, rng))
        start = time.monotonic()
        try:
            read(str(path))
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            message = str(error)
            messages.add(message)
            assert len(message) < 2000, mutate
            assert '\n' not in message, mutate
            assert str(path) in message, message
        except BaseException as error:
            kept = shutil.copy(path, folder / f'{mutate.__name__}-{number}')
            raise AssertionError(f'{mutate.__name__} {number}, kept as {kept}') from error
        assert time.monotonic() - start < LIMIT, mutate
        assert [left.name for left in folder.iterdir()] == ['weights'], mutate
    print(f'{refused} of {count} refused with {len(messages)} messages')
    assert threading.active_count() < 100
    return refused


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'fuzz'
    folder.mkdir()
    return folder


def test_mutated_weights_files_are_refused(config, folder, tmp_path):
    config.model.name = 'uvit'
    description = described(config)
    path = tmp_path / 'whole.safetensors'
    empty_text = loader.empty_text(config.data.dir)
    weights = weights_file.Weights(random_parameters(description), empty_text, description)
    weights_file.save(str(path), weights)
    refused = fuzz(weights_file.load, path.read_bytes(), folder, OF_SAFETENSORS, OUR_FILES)
    # What passes: fields of the description that say nothing about parameters.
    assert refused >= 0.9 * OUR_FILES


@pytest.fixture(scope='module')
def small():
    """A safetensors file of a small tower: shapes of linen, and the content."""
    rng = np.random.default_rng(0)
    tensors = {f'layer{i}.weight': rng.normal(size=(4, 6)).astype(np.float32) for i in range(8)}
    tensors |= {f'layer{i}.bias': rng.normal(size=4).astype(np.float16) for i in range(8)}
    layer = {
        'kernel': jax.ShapeDtypeStruct((6, 4), np.float32),
        'bias': jax.ShapeDtypeStruct((4,), np.float32),
    }
    return {'': {f'layer{i}': layer for i in range(8)}}, safetensors.numpy.save(tensors)


def test_mutated_encoders_are_refused(small, folder):
    shapes, content = small

    def read(path):
        # What all encoders are read by, and what CLIP and Inception look at before.
        with safetensors_files.opened(path, 'weights') as file:
            names = file.keys()
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        with pytest.raises(ValueError, match="is not FID's Inception"):
            inception.require_fids(path, found)
        with pytest.raises(ValueError, match='is not a CLIP with ViT'):
            clip.load(path)
        torch_layout.load(path, shapes, owner='weights')

    # Bits of tensors flip unnoticed: such files have no checksum.
    assert fuzz(read, content, folder, OF_SAFETENSORS, ENCODERS) >= 0.7 * ENCODERS


@pytest.mark.parametrize('old_format', [False, True])
def test_mutated_torch_files_are_refused(folder, tmp_path, old_format):
    torch = torch_reference.import_torch()
    rng = np.random.default_rng(0)
    weights = {f'layer{i}.weight': torch.tensor(rng.normal(size=(40, 60))) for i in range(8)}
    content = {'nnet': weights, 'nnet_ema': weights, 'step': 3, 'set': {1, 2}}
    whole = tmp_path / 'whole.pth'
    torch.save(content, whole, _use_new_zipfile_serialization=not old_format)
    count = TORCH_FILES // 2
    refused = fuzz(torch_file.read_torch, whole.read_bytes(), folder, PLAIN, count)
    assert refused >= 0.4 * count
