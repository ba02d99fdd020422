"""Safetensors files: made, opened, and refused in one sentence where they are something else.

`encoders/torch_layout.py` makes parameters of their tensors, and `weights/file.py` reads our own.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

from panoptic_jax.encoders import file_kinds

# What becomes float32 without loss, as far as networks are concerned.
FLOATS = ('F64', 'F32', 'F16', 'BF16')
_LENGTH = 8  # bytes of a file that hold the length of its header
_ALIGNMENT = 8  # the tensors begin at a multiple of so many bytes
MOST_HEADER = 10_000_000  # bytes; more than the header of any network that is read here


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A file's content with metadata, and the same bytes whenever both are the same.

    The package safetensors writes several metadata in an order of chance.

    Args:
      content: What `safetensors.numpy.save` made without metadata.
      metadata: {name: text}.
    """
    everything = {'__metadata__': dict(metadata)} | header(content)
    text = json.dumps(everything, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % _ALIGNMENT)
    length = len(text).to_bytes(_LENGTH, 'little')
    return b''.join((length, text, memoryview(content)[header_end(content) :]))


def header(start: bytes) -> Any:
    """The header in a file's first bytes: {tensor: type, shape and place}, and the metadata.

    Raises:
      ValueError, RecursionError: it is no JSON.
    """
    return json.loads(start[_LENGTH : header_end(start)])


def header_end(start: bytes) -> int:
    """Where the tensors begin, in bytes, as a file's first bytes say."""
    return _LENGTH + int.from_bytes(start[:_LENGTH], 'little')


@contextlib.contextmanager
def opened(path: str, owner: str) -> Iterator[Any]:
    """The file for `get_slice` and `get_tensor`, closed in the end.

    Args:
      path: A local safetensors file.
      owner: The weights that the file must hold, in words, for messages.

    Raises:
      ValueError: the file is none, is cut off or damaged.
    """
    try:
        # NumPy's own types lack bfloat16, which JAX's import adds.
        with safetensors.safe_open(path, framework='numpy') as file:
            yield file
    except (safetensors.SafetensorError, UnicodeDecodeError) as error:
        with open(path, 'rb') as broken:
            start = broken.read(MOST_HEADER)
        what = explained(error, start, os.path.getsize(path))
        raise ValueError(f'{path} {what}; it must be {owner}.') from error


def explained(error: Exception, start: bytes, size: int) -> str:
    """What is wrong with a file that the package safetensors refused, as the rest of a sentence.

    Args:
      error: What the package raised.
      start: The file's first bytes, with the whole header if it is a safetensors file.
      size: Bytes of the whole file.
    """
    if what := file_kinds.refusal(start):
        return what
    if file_kinds.is_torch(start):
        return (
            'is a file of PyTorch, not a safetensors file; --mode=import makes one of it, see '
            'config.foreign'
        )
    if file_kinds.is_safetensors(start):
        wanted = _wanted_size(start)
        # What is missing is worth a number: it tells a broken download from a damaged file.
        if wanted > size:
            return f'is cut off, with {size:,} of {wanted:,} bytes; copy or download it again'
        return f'is a damaged safetensors file ({error}); copy or download it again'
    return f'is not a safetensors file ({error})'


def _wanted_size(start: bytes) -> int:
    """Bytes that a file should have as far as its beginning says; 0 where it does not say."""
    end = header_end(start)
    if len(start) < end:
        return end
    try:
        entries = header(start).items()
        ends = [entry['data_offsets'][1] for name, entry in entries if name != '__metadata__']
        return end + max(ends, default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return 0


def floats(file: Any, name: str, path: str) -> np.ndarray:
    """A tensor of numbers as float32, all of them finite.

    Args:
      file: What `opened` gives.
      name: The tensor.
      path: The file, for messages.

    Raises:
      ValueError: the tensor has another type, or numbers that are not finite.
    """
    kind = file.get_slice(name).get_dtype()
    require_float(name, kind, path)
    # Published files are often in half precision, which our parameters are not.
    with np.errstate(over='ignore'):
        value = file.get_tensor(name).astype(np.float32)
    require_finite({name: value}, path)
    return value


def require_float(name: str, kind: str, path: str) -> None:
    """Refuses a tensor that is of none of the types `FLOATS`.

    Raises:
      ValueError: naming the tensor and its type.
    """
    if kind not in FLOATS:
        raise ValueError(
            f'{path}: {name!r} is of type {kind}, where {", ".join(FLOATS)} can be read; take the '
            'file in half or full precision.'
        )


def require_finite(tensors: Mapping[str, np.ndarray], path: str) -> None:
    """Refuses NaN and infinite numbers, which would spread over everything that is computed.

    Args:
      tensors: {name: array}; arrays of whole numbers pass.
      path: The file that they come from or go to, for messages.

    Raises:
      ValueError: naming the first tensor and how many there are.
    """
    damaged = {}
    for name, value in tensors.items():
        if np.issubdtype(value.dtype, np.inexact) and not np.isfinite(value).all():
            damaged[name] = value
    if damaged:
        name, value = next(iter(damaged.items()))
        count = np.count_nonzero(~np.isfinite(value))
        others = f' (and so have {len(damaged) - 1} other tensors)' if len(damaged) > 1 else ''
        raise ValueError(
            f'{path}: {name!r} has {count:,} of {value.size:,} numbers that are NaN or '
            f'infinite{others}; the file is damaged or its training diverged, so take another one.'
        )
