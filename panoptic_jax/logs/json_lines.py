"""Files of one JSON object per line, by step: metrics.jsonl and validation.jsonl.

They survive kills and are cut back on resume. `logs/dashboards.py` decides what the lines hold.
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

    def __init__(
        self,
        path: epath.PathLike,
        start_step: int,
        *,
        seconds_between_uploads: float = _SECONDS_BETWEEN_UPLOADS,
    ):
        """Opens the file, and makes it if it is missing.

        Args:
          path: Local or remote (`gs://`). Object stores know no append, so there every `flush`
            writes the whole file anew, and `write` does so every half minute: some MB at the most.
          start_step: Steps that are done. Lines of later steps are cut off, and so is a last line
            that was written in part.
          seconds_between_uploads: How often `write` writes a remote file anew.
        """
        self._path = epath.Path(path)
        self._remote = files.is_remote(path)
        self._seconds_between_uploads = seconds_between_uploads
        kept = [line for line in read(path) if line['step'] <= start_step]
        self._lines = [json.dumps(line) + '\n' for line in kept]
        self._put()

    def write(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Adds one line: the step, and finite numbers or None, as `plain` makes them.

        Raises:
          ValueError: the disk is full, or refuses otherwise.
        """
        line = json.dumps({'step': step, **numbers}, allow_nan=False) + '\n'
        if not self._remote:
            # Opened for each line, so that nothing is left in a buffer when the process is killed.
            with files.explaining(self._path, len(line)), open(self._path, 'a') as file:
                file.write(line)
            return
        self._lines.append(line)
        self._whole = False
        if time.monotonic() - self._put_at > self._seconds_between_uploads:
            self._put()

    def flush(self) -> None:
        """Writes lines that are not in the file yet; a local file has them already."""
        if not self._whole:
            self._put()

    def _put(self) -> None:
        files.write_whole(self._path, ''.join(self._lines))
        self._whole = True
        self._put_at = time.monotonic()


def read(path: epath.PathLike) -> list[dict[str, Any]]:
    """All whole lines in order; none where there is no file. Lines written in part are left out."""
    # Not asked for beforehand: a bucket that is out of reach would look like a missing file.
    try:
        text = epath.Path(path).read_text()
    except FileNotFoundError:
        return []
    lines = []
    for line in text.split('\n')[:-1]:
        # A killed process stopped inside such a line, and the next process went on behind it.
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def plain(scalars: Mapping[str, Any]) -> dict[str, float | None]:
    """Python numbers of host or device scalars; None for None and for what is not finite."""
    numbers = {}
    for name, value in scalars.items():
        number = math.nan if value is None else float(value)
        # JSON knows neither NaN nor infinity.
        numbers[name] = number if math.isfinite(number) else None
    return numbers
