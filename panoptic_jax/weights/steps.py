"""The steps that a training has saved, and how one of them is read.

`weights/checkpoint.py` saves them. `weights/recovery.py` finds the newest one that is whole.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from panoptic_jax.machine import files
from panoptic_jax.machine.disk import first_line
from panoptic_jax.weights import orbax_files

DIGITS = 8  # of the step in a folder's name; reader and writer must agree


class Unreadable(Exception):
    """A step that cannot be read; the text says why."""


class Step:
    """One saved step.

    Attributes:
      number: Optimiser steps done.
      folder: Where it lies.
      meta: What the training says about itself.
    """

    def __init__(self, folder: epath.Path, number: int):
        """Reads what is small.

        Args:
          folder: Where the step lies.
          number: Optimiser steps done.

        Raises:
          Unreadable: it is not there, or not JSON.
        """
        self.number, self.folder = number, folder
        self.meta = self._json('meta')

    def position(self) -> dict[str, Any]:
        """The position in the data."""
        return self._json('data')

    def state(self, abstract_state: Any) -> Any:
        """The whole state, laid out as the shardings of `abstract_state` say.

        Every process of a job has to call this.

        Raises:
          Unreadable: the arrays cannot be read.
          ValueError: they hold numbers that are not finite.
        """
        return self._arrays(orbax_files.read_state, abstract_state)

    def parts(self, abstract_parts: dict) -> dict:
        """Some parts of a state alone, for example {'ema': ..., 'frozen': ...}, on this process.

        Raises:
          Unreadable: the arrays cannot be read.
          ValueError: they hold numbers that are not finite.
        """
        return self._arrays(orbax_files.read_parts, abstract_parts)

    def _json(self, part: str) -> dict:
        try:
            content = json.loads((self.folder / part / 'metadata').read_text())
        except (ValueError, FileNotFoundError) as error:
            raise Unreadable(f'its {part} cannot be read ({brief(error)})') from error
        if not isinstance(content, dict):
            raise Unreadable(f'its {part} is no JSON object')
        return content

    def _arrays(self, read: Callable[[epath.Path, Any], Any], abstract: Any) -> Any:
        try:
            arrays = read(self.folder, abstract)
        # Orbax and TensorStore raise errors of many kinds for damaged files.
        except Exception as error:
            raise Unreadable(f'its arrays cannot be read ({brief(error)})') from error
        if name := _not_finite(arrays):
            raise ValueError(
                f'The checkpoint {self.folder} holds NaN or infinity in {name}; move this folder '
                'away to go on from an older checkpoint.'
            )
        return arrays


def folder_of(workdir: str) -> epath.Path:
    """The folder of a workdir's checkpoints."""
    folder = epath.Path(workdir) / 'checkpoints'
    # Orbax wants absolute paths. epath would put the current folder before a bucket.
    return folder if files.is_remote(folder) else folder.absolute()


def name_of(number: int) -> str:
    """The name of a step's folder."""
    return f'{number:0{DIGITS}d}'


def numbers(workdir: str) -> list[int]:
    """The steps that a workdir holds as far as names and markers tell, newest first."""
    try:
        found = [int(path.name) for path in folder_of(workdir).iterdir() if _is_step(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, reverse=True)


def _is_step(path: epath.Path) -> bool:
    # An unfinished one has another name. In a bucket, where nothing is renamed, it lacks a marker.
    return (
        path.name.isdecimal()
        and path.name == name_of(int(path.name))
        and orbax_files.is_finished(path)
    )


def brief(error: Exception) -> str:
    """The first line of an error's words, cut to a readable length."""
    line = first_line(error)
    return line if len(line) <= 200 else line[:200] + ' ...'


def _not_finite(arrays: Any) -> str:
    """The name of the first array that holds NaN or infinity; '' where there is none."""
    leaves = jax.tree.leaves_with_path(arrays)
    floats = [(path, a) for path, a in leaves if jnp.issubdtype(a.dtype, jnp.inexact)]
    # One program for all arrays: many small ones that each ask all devices can block one another.
    finite = jax.device_get(_are_finite([array for _, array in floats]))
    for (path, _), good in zip(floats, finite, strict=True):
        if not good:
            return jax.tree_util.keystr(path, simple=True, separator='/')
    return ''


@jax.jit
def _are_finite(arrays: list[jax.Array]) -> list[jax.Array]:
    # NaN and infinity times zero are NaN. XLA compiles this sum for CPUs in less than half of the
    # time that `isfinite(array).all()` takes, for which a start waited seconds.
    return [jnp.isfinite((array * 0).sum()) for array in arrays]
