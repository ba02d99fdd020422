"""Weights as safetensors in our names, with all that is needed to use them in the metadata.

`weights/trained.py` chooses between files and checkpoints, `weights/checkpoint.py` reads
checkpoints, and `weights/foreign_names.py` knows the names of others.
"""

import dataclasses
import json
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
from panoptic_jax.machine import files
from panoptic_jax.programs.description import Description
from panoptic_jax.weights import foreign_names

EMPTY_TEXT = 'empty_text'  # tensor name of the empty caption's features
_HEADER_START = 8  # bytes of a safetensors file that hold the length of its header


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
    """Writes a weights file, which appears when it is complete. Process 0 of a job writes it."""
    if jax.process_index():
        return
    parameters = flatten_dict(weights.params, sep='/')
    parameters[EMPTY_TEXT] = weights.empty_text
    # safetensors writes an array's memory as it lies: a turned or transposed view would be garbage.
    tensors = {name: np.asarray(value, order='C') for name, value in parameters.items()}
    metadata = {'description': json.dumps(weights.description.to_json())}
    content = safetensors.numpy.save(tensors, metadata=metadata)
    file = epath.Path(path)
    # An export may go into a folder that nobody has made yet.
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(file, content)


def load(path: str) -> Weights:
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError, ValueError: no such file, or a file that `save` did not write.
    """
    content = read(path)
    try:
        tensors = safetensors.numpy.load(content)
        description = Description.from_json(json.loads(_metadata(content)['description']))
        empty_text = tensors.pop(EMPTY_TEXT)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path} is not a weights file of panoptic_jax ({error}); --mode=export writes one.'
        ) from error
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
    """The description in a weights file, as it stands there.

    Raises:
      FileNotFoundError, KeyError, ValueError: no such file, or a file that `save` did not write.
    """
    return Description.from_json(json.loads(_metadata(read(path))['description']))


def has_unknown_bit_order(description: Description) -> bool:
    """Whether a file's maps are in the order of bits of a source, which an import has to turn."""
    origin = description.origin
    return description.has_map and 'source' in origin and 'bit_order' not in origin


def read(path: str) -> bytes:
    """The content of a weights file.

    Raises:
      FileNotFoundError: there is none.
    """
    file = epath.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f'There is no weights file {path}.')
    return file.read_bytes()


def _metadata(content: bytes) -> dict[str, str]:
    # `safetensors.safe_open` reads metadata too, but only those of local files.
    length = int.from_bytes(content[:_HEADER_START], 'little')
    header = json.loads(content[_HEADER_START : _HEADER_START + length])
    return header['__metadata__']
