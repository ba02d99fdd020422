"""Batches that could not be drawn: written down with the reason, so that the job goes on.

    parts/N.failed.json   while the job is at work: the batch that starts at pair N
    failed.jsonl          in a finished folder: a line for each pair

`sample.redo` draws them again. `export/sample_list.py` has the batches that could be drawn.
"""

import json
from collections.abc import Collection, Sequence

from etils import epath

from panoptic_jax.export import own_json
from panoptic_jax.export.layout import Layout
from panoptic_jax.machine import files

FAILED = 'failed.jsonl'
_ENDING = '.failed.json'


def write(layout: Layout, first: int, numbers: Sequence[int], reason: str) -> None:
    """Says that the batch that begins with pair `first` could not be drawn."""
    path = layout.parts / f'{first:08d}{_ENDING}'
    files.write_json(path, {'numbers': [*numbers], 'reason': reason})


def firsts(layout: Layout) -> set[int]:
    """The first pairs of the batches that could not be drawn since the job began."""
    return {int(path.name.removesuffix(_ENDING)) for path in _paths(layout)}


def read(layout: Layout) -> dict[int, str]:
    """{number: reason} of pairs that could not be drawn, now or when the folder was finished."""
    path = layout.folder / FAILED
    lines = path.read_bytes().splitlines() if path.exists() else []
    entries = [own_json.parsed(line, path) for line in lines]
    found = {entry['number']: entry['reason'] for entry in entries}
    for part in _paths(layout):
        content = own_json.read(part)
        found |= dict.fromkeys(content['numbers'], content['reason'])
    return found


def forget(layout: Layout) -> None:
    """Makes pairs that could not be drawn pairs that lack."""
    (layout.folder / FAILED).unlink(missing_ok=True)
    for path in _paths(layout):
        path.unlink()


def finish(layout: Layout, there: Collection[int]) -> None:
    """Joins the parts into one list; there is none where all pairs could be drawn."""
    path = layout.folder / FAILED
    failed = {n: why for n, why in sorted(read(layout).items()) if n not in there}
    lines = [json.dumps({'number': n, 'reason': why}) + '\n' for n, why in failed.items()]
    if lines:
        files.write_whole(path, ''.join(lines))
    else:
        path.unlink(missing_ok=True)
    # After the list: a kill in between must not lose them.
    for part in _paths(layout):
        part.unlink()


def _paths(layout: Layout) -> list[epath.Path]:
    names = sorted(files.sizes_and_times(layout.parts))
    return [layout.parts / name for name in names if name.endswith(_ENDING)]
