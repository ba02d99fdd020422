"""PyTorch's files: read without running code, or refused in one line without bad advice."""

import argparse
import collections
import enum
import gzip
import hashlib
import pathlib
import re
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch_reference

from panoptic_jax.weights import torch_file

torch = torch_reference.import_torch()
RNG = np.random.default_rng(0)
WEIGHTS = {name: torch.tensor(RNG.normal(size=(3, 4)).astype(np.float32)) for name in ('a', 'b')}


class Settings(dict):
    """A class of somebody's own, such as a library of settings has."""


class Colour(enum.Enum):
    RED = 1


class Slots:
    __slots__ = ('value',)

    def __getstate__(self):
        return None, {'value': 3}


def read(path, content, allow_extra=(), **options):
    torch.save(content, path, **options)
    return torch_file.read_torch(str(path), allow_extra)


def assert_weights(tensors):
    assert tensors.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        np.testing.assert_array_equal(tensors[name], value)


BESIDE = {
    'namespace': argparse.Namespace(lr=0.1, out=pathlib.Path('runs')),
    'enum': Colour.RED,
    'slots': Slots(),
    'numpy': {'best': np.float64(3.5), 'all': np.arange(3), 'type': np.dtype('f4')},
    'function': np.mean,
    'dict': Settings(x=3, y=Settings(z=4)),
    'default': collections.defaultdict(int, x=3),
    'deque': {'complex': 1j, 'slice': slice(1, 2)},
}


@pytest.mark.parametrize('old_format', [False, True])
@pytest.mark.parametrize('name', BESIDE)
def test_objects_beside_the_weights_are_not_loaded(tmp_path, name, old_format):
    content = {'model': WEIGHTS, 'beside': BESIDE[name], 'epoch': 3}
    options = {'_use_new_zipfile_serialization': not old_format}
    tensors, sha256, part = read(tmp_path / 'a.pth', content, **options)
    assert_weights(tensors)
    assert part == 'model'
    assert sha256 == hashlib.sha256((tmp_path / 'a.pth').read_bytes()).hexdigest()


def test_no_code_of_a_file_runs(tmp_path):
    class Trap:
        def __reduce__(self):
            return shutil.copyfile, (tmp_path / 'a.pth', tmp_path / 'trap')

    tensors, *_ = read(tmp_path / 'a.pth', {'model': WEIGHTS, 'beside': Trap()})
    assert_weights(tensors)
    assert not (tmp_path / 'trap').exists()


def test_weights_in_a_dict_of_another_class_are_read(tmp_path):
    assert_weights(read(tmp_path / 'a.pth', {'model': Settings(WEIGHTS)})[0])
    assert_weights(read(tmp_path / 'a.pth', collections.defaultdict(int, WEIGHTS))[0])


def test_parameters_are_detached(tmp_path):
    content = {name: torch.nn.Parameter(value) for name, value in WEIGHTS.items()}
    assert_weights(read(tmp_path / 'a.pth', content)[0])


@pytest.mark.parametrize('both', [True, False])
def test_folders_of_u_vits_training_are_read(tmp_path, both):
    folder = tmp_path / '500000.ckpt'
    folder.mkdir()
    torch.save({name: -value for name, value in WEIGHTS.items()}, folder / 'nnet.pth')
    torch.save({'step': 3}, folder / 'step.pth')
    if both:
        torch.save(WEIGHTS, folder / 'nnet_ema.pth')
    tensors, *_ = torch_file.read_torch(str(folder))
    np.testing.assert_array_equal(tensors['a'], WEIGHTS['a'] * (1 if both else -1))


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'a folder without nnet_ema\.pth or nnet\.pth; give the'):
        torch_file.read_torch(str(tmp_path))


def changed(value):
    return {**WEIGHTS, 'b': value}


UNREAD = {
    'float8': (changed(WEIGHTS['b'].to(torch.float8_e4m3fn)), r"'b' is of type float8_e4m3fn, whi"),
    'float8 2': (changed(WEIGHTS['b'].to(torch.float8_e5m2)), r"'b' is of type float8_e5m2, which"),
    'complex': (changed(WEIGHTS['b'].to(torch.complex64)), "'b' is of type complex64"),
    'sparse': (changed(WEIGHTS['b'].to_sparse()), r"'b' is of type torch\.sparse_coo"),
    'meta': (changed(WEIGHTS['b'].to('meta')), "'b' is of type meta"),
    'nan': (changed(WEIGHTS['b'].where(WEIGHTS['b'] > 0, torch.nan)), r"'b' has \d+ of 12 numbers"),
    'inf': (changed(torch.full((2, 2), torch.inf, dtype=torch.bfloat16)), "'b' has 4 of 4 numbers"),
    'module': (torch.nn.Linear(2, 2), 'but a Linear; save the state'),
    'text': (changed('yes'), 'holds more than weights: b; save'),
}


@pytest.mark.parametrize('name', UNREAD)
def test_what_is_not_read_is_named(tmp_path, name):
    content, message = UNREAD[name]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / 'a.pth', content)
    assert_good(str(error.value))


def assert_good(message):
    """One line without colours, and no advice to run what is in the file."""
    assert '\n' not in message
    assert '\x1b' not in message
    assert not re.search('weights_only|safe_globals|arbitrary code', message)


def saved(content, path):
    torch.save(content, path)
    return path.read_bytes()


FILES = {
    'empty': (lambda path: b'', 'is empty'),
    'pointer': (lambda path: b'version https://git-lfs.github.com/spec/v1\n', 'is a Git LFS point'),
    'page': (lambda path: b'<!doctype html>', 'is a web page'),
    'text': (lambda path: b'nothing', r'cannot be read|can be read \('),
    'gzip': (lambda path: gzip.compress(saved(WEIGHTS, path)), 'is a gzip archive'),
    'cut': (lambda path: saved(WEIGHTS, path)[:-50], 'is cut off: the end of its archive is miss'),
    'safetensors': (
        lambda path: safetensors.torch.save(WEIGHTS),
        'is a safetensors file, which ne',
    ),
    'blocked': (lambda path: saved({'a': exec}, path), 'no weights by name|can be read'),
}


@pytest.mark.parametrize('name', FILES)
def test_files_of_something_else_are_named(tmp_path, name):
    make, message = FILES[name]
    path = tmp_path / 'a.pth'
    path.write_bytes(make(path))
    with pytest.raises(ValueError, match=message) as error:
        torch_file.read_torch(str(path))
    assert_good(str(error.value))


def test_every_flipped_bit_of_a_tensor_is_noticed(tmp_path):
    path = tmp_path / 'a.pth'
    content = saved(WEIGHTS, path)
    places = [content.find(value.numpy().tobytes()) for value in WEIGHTS.values()]
    assert min(places) > 0
    for place in places:
        damaged = bytearray(content)
        damaged[place + int(RNG.integers(48))] ^= 1 << int(RNG.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r'is damaged: a/data/\d in it are not what was writ'):
            torch_file.read_torch(str(path))


def test_archives_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        assert_weights(read(tmp_path / 'a.pth', WEIGHTS)[0])
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)


def test_programs_of_torchscript_are_named(tmp_path):
    traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    traced.save(str(tmp_path / 'a.pt'))
    with pytest.raises(ValueError, match='is a program of TorchScript, not a state dict; take'):
        torch_file.read_torch(str(tmp_path / 'a.pt'))
