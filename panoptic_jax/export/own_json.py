"""Reading the JSON that a job wrote into its samples folder: settings, parts, records.

What people write is read with other care, see `data/checked_json.py`.
"""

import json
from collections.abc import Callable
from typing import Any

from etils import epath


def read(path: epath.Path) -> Any:
    """The content of a file; raises ValueError where it is damaged."""
    return parsed(path.read_bytes(), path)


def parsed(content: bytes, path: epath.Path, decode: Callable[[bytes], Any] = json.loads) -> Any:
    """What a file, or a line of it, says.

    Args:
      content: The file or the line.
      path: The file.
      decode: Raises ValueError for what it cannot read.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        return decode(content)
    except ValueError as error:
        raise ValueError(
            f'{path} is damaged ({error}); restore it, or delete its folder and sample again.'
        ) from error
