"""Which of a folder's pairs are kept: the others lie in its folder rejected/, in the same layout.

    rejected/       a set of its own, with the pictures and lists of the pairs that were rejected
    selection.json  what pairs had to pass, how many did, and why how many were rejected

All pairs were drawn and scored, so that another selection draws none of them again. The rules are
in `quality/selection.py`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from panoptic_jax.export import own_json
from panoptic_jax.export.layout import Layout
from panoptic_jax.export.records import Record
from panoptic_jax.machine import files, moves
from panoptic_jax.quality import judge as judges
from panoptic_jax.quality import selection
from panoptic_jax.quality.judge import Judge

_SELECTION = 'selection.json'


def rejected(layout: Layout) -> Layout:
    """Where rejected pairs lie."""
    return Layout(layout.folder / 'rejected', layout.name)


def is_current(folder: epath.Path, asked: Mapping[str, Any]) -> bool:
    """Whether the pairs of a finished folder were selected as is asked for now."""
    path = folder / _SELECTION
    there = own_json.read(path)['asked'] if path.exists() else {}
    return _wanted(asked) == there


def choose(lines: Iterable[Record], judge: Judge) -> tuple[dict[int, str], selection.Tally]:
    """{number of a pair: why it is rejected}, and the counts.

    Raises:
      ValueError: near copies are to be dropped, and pairs were drawn without looking for them.
    """
    groups: dict[Any, list[tuple[int, dict[str, float], Any]]] = {}
    for line in lines:
        if judge.training is not None and line.nearest is None:
            raise ValueError(
                f'Pair {line.id} was drawn without sample.drop_duplicates, so nothing is known of '
                'the training image that is nearest; choose another --config.sample.folder.'
            )
        own = line.id, line.scores, line.nearest
        groups.setdefault(_group(line, judge), []).append(own)
    reasons, tally = {}, selection.Tally()
    for group in groups.values():
        numbers, copies, nearest = zip(*group, strict=True)
        chosen = judges.choice(judge, copies, nearest)
        tally.add(chosen)
        reasons |= {n: why for n, why in zip(numbers, chosen.reasons, strict=True) if why}
    return reasons, tally


def _group(line: Record, judge: Judge) -> Any:
    """Pairs with the same one are copies of each other."""
    if not judge.gate.orders:
        return line.id
    asked = {name: value for name, value in line.request.items() if name != 'copy'}
    return json.dumps(asked, sort_keys=True)


def move(
    layout: Layout, reasons: Mapping[int, str], lines: Iterable[Record], *, has_maps: bool
) -> None:
    """Puts the pictures of all pairs where they belong; a kill leaves each in one of two places.

    Args:
      layout: The set.
      reasons: From `choose`.
      lines: All records.
      has_maps: Whether the pairs have maps.
    """
    apart = rejected(layout)
    folders = list(
        zip(layout.picture_folders(has_maps), apart.picture_folders(has_maps), strict=True)
    )
    there = [tuple(files.sizes_and_times(place) for place in both) for both in folders]
    for line in lines:
        is_rejected = line.id in reasons
        for both, names, suffix in zip(folders, there, _suffixes(line), strict=False):
            name = f'{line.stem}{suffix}'
            source, target = both if is_rejected else both[::-1]
            held = names[0] if is_rejected else names[1]
            if name in held:
                moves.move(source / name, target / name)


def _suffixes(line: Record) -> list[str]:
    return [line.file_name[len(line.stem) :], '.png', '.png']


def write(folder: epath.Path, asked: Mapping[str, Any], tally: selection.Tally) -> None:
    """Says what was selected; no file where everything is kept."""
    wanted = _wanted(asked)
    if wanted:
        files.write_json(folder / _SELECTION, {'asked': wanted, **tally.to_json()})
    else:
        (folder / _SELECTION).unlink(missing_ok=True)


def _wanted(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value}


def sentence(folder: epath.Path) -> str:
    """'Kept 91 of 128 pairs; rejected: ...'; '' where everything is kept."""
    path = folder / _SELECTION
    if not path.exists():
        return ''
    return selection.Tally.from_json(own_json.read(path)).sentence()
