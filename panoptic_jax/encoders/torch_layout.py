"""Published weights, in safetensors files with PyTorch's names and layouts, as linen parameters.

A linen tree says which weights are needed. Its modules have torch's names, so that nothing but the
kind of a parameter has to be translated. `encoders/weights_files.py` finds the file, and
`encoders/torch_arrays.py` holds the rule for layouts.
"""

import fnmatch
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from panoptic_jax.encoders import safetensors_files
from panoptic_jax.encoders.torch_arrays import linen_kernel

# Linen's kinds of parameters that torch calls otherwise.
_KINDS = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}


def load(
    path: str,
    shapes: Mapping[str, Any],
    *,
    owner: str,
    ignored: Sequence[str] = (),
    rename: Callable[[str], str] = str,
) -> tuple[dict[str, Any], str]:
    """Reads the parameters of one or several networks out of one file.

    Args:
      path: A local safetensors file.
      shapes: {prefix of the torch names: linen params of `jax.eval_shape(network.init, ...)`}; the
        prefix '' is allowed.
      owner: The weights that the file must hold, in words, for messages.
      ignored: Patterns of torch names that may be in the file without being used.
      rename: Turns a name in the file into the one that is looked for, for older spellings.

    Returns:
      {prefix: float32 parameters}, and the file's SHA-256.

    Raises:
      ValueError: the file lacks a weight, holds one too many, one of another shape or numbers that
        are not finite.
    """
    with safetensors_files.opened(path, owner) as file:
        names = {rename(name): name for name in file.keys()}  # noqa: SIM118 - not a mapping
        trees = {
            prefix: _fill(tree, prefix=prefix, names=names, file=file, path=path, owner=owner)
            for prefix, tree in shapes.items()
        }
    # A weight too many means another network, whose features would be wrong without any error.
    rest = [
        name
        for name in sorted(names)
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)
    ]
    if rest:
        raise ValueError(
            f'{path} holds {len(rest)} weights that do not belong there, the first {rest[0]!r}; it '
            f'must be {owner}.'
        )
    with open(path, 'rb') as file:
        return trees, hashlib.file_digest(file, 'sha256').hexdigest()


def _fill(
    tree: Any, *, prefix: str, names: dict[str, str], file: Any, path: str, owner: str
) -> Any:
    """The tree with the file's arrays in it; takes their names out of `names`."""

    def pick(key_path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        *modules, kind = (entry.key for entry in key_path)
        name_parts = [*modules, _KINDS.get(kind, kind)]
        name = '.'.join([prefix, *name_parts] if prefix else name_parts)
        if name not in names:
            raise ValueError(f'{path} lacks {name!r}; it must be {owner}, the whole file.')
        # What is left in `names` at the end belongs to none of the networks.
        value = safetensors_files.floats(file, names.pop(name), path)
        if kind == 'kernel':
            value = linen_kernel(value)
        if value.shape != leaf.shape:
            raise ValueError(
                f'{path}: {name!r} has shape {value.shape} in our layout where {leaf.shape} is '
                f'wanted; it must be {owner}.'
            )
        return value

    return jax.tree_util.tree_map_with_path(pick, tree)
