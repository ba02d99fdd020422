"""Weights as safetensors in our names, with all that is needed to use them in the metadata.

`weights/trained.py` chooses between files and checkpoints, `weights/checkpoint.py` reads
checkpoints, and `weights/foreign_names.py` knows the names of others.
"""

import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from panoptic_jax.diffusion import bits
from panoptic_jax.encoders import safetensors_files, weights_files
from panoptic_jax.machine import files, shipped
from panoptic_jax.models import names
from panoptic_jax.programs.description import Description
from panoptic_jax.weights import foreign_names

EMPTY_TEXT = 'empty_text'  # tensor name of the empty caption's features
_CHECKSUM = 'sha256'  # name in the metadata; files of before version 0.3.0 have none


class Weights(NamedTuple):
    """What a weights file holds.

    Attributes:
      params: The whole parameter tree, {'image': ...} and, for models with maps, {'map': ...}.
      empty_text: (L, D) features of the empty caption.
      description: What the model is.
    """

    params: Mapping[str, Any]
    empty_text: np.ndarray
    description: Description


def save(path: str, weights: Weights) -> None:
    """Writes a weights file, which appears when it is complete. Process 0 of a job writes it.

    Raises:
      ValueError: numbers that are not finite; nothing is written.
    """
    if jax.process_index():
        return
    file = epath.Path(path)
    content = to_bytes(weights, path)
    # An export may go into a folder that nobody has made yet.
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(file, content)


def to_bytes(weights: Weights, path: str) -> bytes:
    """The content of a weights file.

    Args:
      weights: What it holds.
      path: Where it goes, for messages.

    Raises:
      ValueError: numbers that are not finite.
    """
    parameters = flatten_dict(weights.params, sep='/')
    parameters[EMPTY_TEXT] = weights.empty_text
    # safetensors writes an array's memory as it lies: a turned or transposed view would be garbage.
    tensors = {name: np.asarray(value, order='C') for name, value in parameters.items()}
    safetensors_files.require_finite(tensors, f'{path} is not written')
    description = json.dumps(weights.description.to_json())
    content = safetensors.numpy.save(tensors)
    metadata = {'description': description, _CHECKSUM: _digest(description, content)}
    return safetensors_files.with_metadata(content, metadata)


def load(path: str) -> Weights:
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError, ValueError: no such file, a file that `save` did not write, a damaged one,
        or numbers that are not finite.
    """
    return from_bytes(read(path), path)


def from_bytes(content: bytes, path: str) -> Weights:
    """The same of a file's content; the path is for messages."""
    try:
        tensors = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        what = safetensors_files.explained(error, content, len(content))
        raise _not_ours(path, f'it {what}') from error
    except (KeyError, TypeError, ValueError) as error:  # types that NumPy does not have
        raise _not_ours(path, f'it has tensors of type {error}') from error
    metadata = _metadata(path, content[: safetensors_files.header_end(content)])
    description = _description(path, metadata)
    if metadata.get(_CHECKSUM) not in (None, _digest(metadata['description'], content)):
        raise _not_ours(path, 'its content is not what was written; copy or download it again')
    if EMPTY_TEXT not in tensors:
        raise _not_ours(path, f'it has no tensor {EMPTY_TEXT!r}')
    safetensors_files.require_finite(tensors, path)
    empty_text = tensors.pop(EMPTY_TEXT)
    _require_described(path, description, tensors, empty_text)
    if has_unknown_bit_order(description):
        logging.warning(
            '%s comes from an earlier --mode=import, which kept the order of bits of its source: '
            'the bits of its maps are turned. Import the source again to get a right file.',
            path,
        )
        tensors = {
            name: foreign_names.reversed_bits(name, value, bits.NUM_BITS)
            for name, value in tensors.items()
        }
        origin = {**description.origin, 'bit_order': bits.BIT_ORDER}
        description = dataclasses.replace(description, origin=origin)
    return Weights(unflatten_dict(tensors, sep='/'), empty_text, description)


def load_description(path: str) -> Description:
    """The description in a weights file, as it stands there; the tensors are not read.

    Raises:
      FileNotFoundError, ValueError: no such file, or a file that `save` did not write.
    """
    with _existing(path).open('rb') as file:
        start = file.read(safetensors_files.MOST_HEADER)
    return _description(path, _metadata(path, start))


def has_unknown_bit_order(description: Description) -> bool:
    """Whether a file's maps are in the order of bits of a source, which an import has to turn."""
    origin = description.origin
    return description.has_map and 'source' in origin and 'bit_order' not in origin


def read(path: str) -> bytes:
    """The content of a weights file.

    Raises:
      FileNotFoundError: there is none.
    """
    return _existing(path).read_bytes()


def _existing(path: str) -> epath.Path:
    file = epath.Path(weights_files.address(path, 'The weights file'))
    if not file.is_file():
        ours = ', '.join(shipped.names())
        raise FileNotFoundError(
            f'There is no weights file {path}, and none of that name in the package ({ours}).'
        )
    return file


def _metadata(path: str, start: bytes) -> dict[str, str]:
    """The metadata in a file's beginning, which holds the whole header."""
    try:
        # `safetensors.safe_open` reads metadata too, but only those of local files.
        metadata = safetensors_files.header(start).get('__metadata__')
    except (ValueError, AttributeError, RecursionError) as error:
        # Nobody asks for the tensors here: the beginning is as good as all.
        what = safetensors_files.explained(error, start, epath.Path(path).stat().length)
        raise _not_ours(path, f'it {what}') from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get('description'), str):
        raise _not_ours(path, 'it has no description, as the weights of encoders, say')
    return metadata


def _description(path: str, metadata: Mapping[str, str]) -> Description:
    try:
        return Description.from_json(json.loads(metadata['description']))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _not_ours(path, f'its metadata hold no description ({error!r})') from error


def _require_described(
    path: str, description: Description, tensors: Mapping[str, np.ndarray], empty_text: np.ndarray
) -> None:
    """Refuses tensors that are not the parameters of the model that the file describes."""
    settings, text = description.model, description.text
    if odd := _odd_fields(description):
        raise _not_ours(path, f'its description makes no model ({odd[0]:.200})')
    try:
        # A depth that is out of all proportion would take the memory for its shapes.
        deep = settings.depth > len(tensors)
        shapes = {} if deep else flatten_dict(description.abstract_parameters(), sep='/')
        description.valid_codes()
    # A damaged description can stumble anywhere.
    except Exception as error:
        raise _not_ours(path, f'its description makes no model ({error!r:.200})') from error
    wrong = [f'{name} is missing' for name in shapes if name not in tensors]
    wrong += [f'{name} is not part of the model' for name in tensors if name not in shapes]
    wrong += [
        f'{name} is {value.dtype.name} of {value.shape}, the model has {shapes[name].shape}'
        for name, value in tensors.items()
        if name in shapes and (value.shape, value.dtype.kind) != (shapes[name].shape, 'f')
    ]
    if empty_text.shape != (text.tokens, text.features) or empty_text.dtype.kind != 'f':
        wrong.append(f'{EMPTY_TEXT} is {empty_text.dtype.name} of {empty_text.shape}')
    if wrong:
        raise _not_ours(path, f'its content contradicts its description: {"; ".join(wrong[:3])}')


def _odd_fields(description: Description) -> list[str]:
    """The fields of a description that no model has, in words."""
    parts = (description.model, description.autoencoder, description.text)
    named = [(f'{field.name} is', field.type, getattr(part, field.name))
             for part in parts for field in dataclasses.fields(part)]  # fmt: skip
    named += [(f'{s}.noise_std is', float, v.noise_std) for s, v in description.streams.items()]
    named += [('a category is called', str, each.name) for each in description.categories.entries]
    odd = []
    for words, kind, value in named:
        # JSON does not tell 1.0 from 1, and a tuple's type names what it holds.
        kinds = (int, float) if kind is float else (typing.get_origin(kind) or kind,)
        if type(value) not in kinds or (kind is float and not math.isfinite(value)):
            odd.append(f'{words} {value!r}')
    if description.model.name not in names.NAMES:
        odd.append(f'name is {description.model.name!r}')
    return odd


def _not_ours(path: str, why: str) -> ValueError:
    why = ' '.join(why.split())  # a damaged name may be as long as the file
    return ValueError(
        f'{path} is not a weights file of panoptic_jax: {why:.600}. --mode=export writes one.'
    )


def _digest(description: str, content: bytes) -> str:
    """SHA-256 of a description and of all tensors' bytes."""
    digest = hashlib.sha256(description.encode())
    digest.update(memoryview(content)[safetensors_files.header_end(content) :])
    return digest.hexdigest()
