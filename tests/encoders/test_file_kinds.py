"""Files that are no weights: what they are called, and that no reader stumbles over them."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from panoptic_jax.encoders import clip, file_kinds, inception, safetensors_files
from panoptic_jax.encoders.safetensors_files import opened

SAFETENSORS = safetensors.numpy.save({'a': np.random.default_rng(0).normal(size=(9, 50))})


def tar(content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        archive.addfile(tarfile.TarInfo('weights'), io.BytesIO(content))
    return buffer.getvalue()


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('archive/data.pkl', content)
    return buffer.getvalue()


CASES = {
    'empty': (b'', 'is empty; copy or download it again'),
    'zeros': (bytes(5000), 'begins with zeros, as after a copy that was broken off'),
    'pointer': (
        b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n',
        'is a Git LFS pointer, not the file that it stands for; run git lfs pull',
    ),
    'page': (b'\xef\xbb\xbf\n <!DOCTYPE html><html>', 'is a web page; download the file itself'),
    'xml': (b'<?xml version="1.0"?><Error>', 'is XML text, such as the error message of a server'),
    'json': (b'{"error": "not found"}', 'is JSON text'),
    'gzip': (gzip.compress(SAFETENSORS), 'is a gzip archive; unpack it first'),
    'tar': (tar(SAFETENSORS), 'is a tar archive; unpack it first'),
    'hdf5': (b'\x89HDF\r\n\x1a\n', 'is an HDF5 file, such as Keras writes'),
    'torch': (zipped(b'x'), 'is a file of PyTorch, not a safetensors file; --mode=import makes'),
    'old torch': (b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.', 'is a file of PyTorch'),
    'cut': (SAFETENSORS[:-8], r'is cut off, with [\d,]+ of [\d,]+ bytes'),
    'header cut': (SAFETENSORS[:40], r'is cut off, with 40 of \d+ bytes'),
    'more': (SAFETENSORS + b'more', 'is a damaged safetensors file'),
    'text': (b'some text of no kind', 'is not a safetensors file'),
}


@pytest.mark.parametrize('name', CASES)
def test_what_is_no_weights_is_named(tmp_path, name):
    content, message = CASES[name]
    path = tmp_path / 'model.safetensors'
    path.write_bytes(content)
    for load in (inception.load, clip.load):
        with pytest.raises(ValueError, match=message) as error:
            load(str(path))
        assert str(error.value).startswith(f'{path} {message.split()[0]}')
        assert '\n' not in str(error.value)


def test_weights_are_refused_as_nothing_else():
    assert file_kinds.refusal(SAFETENSORS[: file_kinds.START]) is None
    assert file_kinds.is_safetensors(SAFETENSORS)
    assert not file_kinds.is_torch(SAFETENSORS)
    assert file_kinds.refusal(zipped(b'x')) is None


@pytest.fixture
def load_one(tmp_path):
    """A function: array -> the one tensor of a file that holds it, as float32."""

    def load(array):
        path = str(tmp_path / 'one.safetensors')
        safetensors.numpy.save_file({'a': array}, path)
        with opened(path, 'weights') as file:
            return safetensors_files.floats(file, 'a', path)

    return load


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('kind', [np.float16, np.float32, np.float64])
def test_numbers_that_are_not_finite_are_counted(load_one, kind, value):
    array = np.random.default_rng(0).normal(size=(40, 50)).astype(kind)
    array[3, 4:6] = value
    message = r"one\.safetensors: 'a' has 2 of 2,000 numbers that are NaN or infinite; the file is"
    with pytest.raises(ValueError, match=message):
        load_one(array)


def test_numbers_too_large_for_float32_are_not_finite(load_one):
    with pytest.raises(ValueError, match="'a' has 1 of 2 numbers"):
        load_one(np.array([1e300, 2.0]))


def test_half_precision_of_both_kinds_is_read(load_one, tmp_path):
    array = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float16)
    np.testing.assert_array_equal(load_one(array), array.astype(np.float32))
    path = str(tmp_path / 'brain.safetensors')
    # The upper half of a float32.
    bits = array.astype(np.float32).view(np.uint32) >> 16
    specification = safetensors.TensorSpec(
        dtype='bfloat16',
        shape=array.shape,
        data_ptr=(halves := bits.astype(np.uint16)).ctypes.data,
        data_len=halves.nbytes,
    )
    safetensors.serialize_file({'a': specification}, path)
    with opened(path, 'weights') as file:
        found = safetensors_files.floats(file, 'a', path)
    np.testing.assert_array_equal(found, (bits << 16).view(np.float32))


@pytest.mark.parametrize(('kind', 'name'), [('float8_e4m3fn', 'F8_E4M3'), ('int32', 'I32')])
def test_types_that_are_no_floats_are_named(tmp_path, kind, name):
    path = str(tmp_path / 'other.safetensors')
    values = np.arange(24, dtype=np.int32)
    size = {'float8_e4m3fn': 96, 'int32': 24}[kind]
    specification = safetensors.TensorSpec(
        dtype=kind, shape=(size,), data_ptr=values.ctypes.data, data_len=values.nbytes
    )
    safetensors.serialize_file({'a': specification}, path)
    with opened(path, 'weights') as file, pytest.raises(ValueError, match=f"'a' is of type {name}"):
        safetensors_files.floats(file, 'a', path)
