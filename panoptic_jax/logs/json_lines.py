"""Files of one JSON object per line, by step: metrics.jsonl and validation.jsonl.

They survive kills and are cut back on resume. What the numbers mean is the callers' affair.
"""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from panoptic_jax.machine import files

_SECONDS_BETWEEN_UPLOADS = 30


class JsonLines:
    """Appends to a file of lines, after cutting off what a resumed run will write again."""

    def __init__(self, path: epath.PathLike, start_step: int):
        """Opens the file, makes it if missing.

        Args:
          path: local or remote (`gs://`); object stores know no append, so there the whole file is
            written anew on each `flush`, and by `write` every half minute: some MB at the most.
          start_step: steps that are done. Lines of later steps go, and a half-written last line.
        """
        self._path = epath.Path(path)
        self._remote = files.is_remote(path)
        kept = [line for line in read(path) if line['step'] <= start_step]
        self._lines = [json.dumps(line) + '\n' for line in kept]
        self._put()

    def write(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Adds one line: the step and finite numbers or None, as `plain` makes them."""
        line = json.dumps({'step': step, **numbers}, allow_nan=False) + '\n'
        if not self._remote:
            with open(self._path, 'a') as file:
                file.write(line)
            return
        self._lines.append(line)
        self._whole = False
        if time.monotonic() - self._put_at > _SECONDS_BETWEEN_UPLOADS:
            self._put()

    def flush(self) -> None:
        """Puts the lines where they belong; local files have them already."""
        if not self._whole:
            self._put()

    def _put(self) -> None:
        files.write_whole(self._path, ''.join(self._lines))
        self._whole, self._put_at = True, time.monotonic()


def read(path: epath.PathLike) -> list[dict[str, Any]]:
    """All whole lines in order; none where there is no file. A half-written line is left out."""
    try:
        text = epath.Path(path).read_text()
    except FileNotFoundError:  # not asked before: a bucket out of reach would look like no file
        return []
    found = []
    for line in text.split('\n')[:-1]:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # a killed process stopped here and the next one went on
            continue
    return found


def plain(scalars: Mapping[str, Any]) -> dict[str, float | None]:
    """Python numbers of host or device scalars; None for None and for what is not finite."""
    found = {}
    for name, value in scalars.items():
        number = math.nan if value is None else float(value)
        found[name] = number if math.isfinite(number) else None
    return found
