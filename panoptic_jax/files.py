"""Files that are there whole or not at all, at local paths and in buckets.

Shards are `data/shards.py`'s, checkpoints Orbax's, growing logs `json_lines.py`'s.
"""

import json
from typing import Any

from etils import epath


def write_whole(path: epath.PathLike, content: bytes | str) -> None:
    """Writes under a temporary name and renames, so that a kill leaves the old file or the new."""
    path = epath.Path(path)
    unfinished = path.with_name(path.name + '.tmp')
    if isinstance(content, str):
        unfinished.write_text(content)
    else:
        unfinished.write_bytes(content)
    unfinished.replace(path)


def write_json(path: epath.PathLike, content: Any) -> None:
    """The same for anything JSON-able, indented for the reader."""
    write_whole(path, json.dumps(content, indent=1) + '\n')
