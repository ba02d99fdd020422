"""The lists of a samples folder: which pairs are there, by part and together.

`export/samples.py` has the layout and writes the parts, `export/sample_claim.py` says whose samples
they are.
"""

import functools
import heapq
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from etils import epath

from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.requests import Request
from panoptic_jax.export import coco_lists, records, sample_failures, sample_selection
from panoptic_jax.export.layout import Layout
from panoptic_jax.export.records import Record
from panoptic_jax.machine import files, hosts
from panoptic_jax.machine.interruption import Interruption
from panoptic_jax.quality.judge import Judge
from panoptic_jax.quality.selection import Tally

THREADS = 8  # that read or write small files: in a bucket each takes many milliseconds of waiting


class Entry(NamedTuple):
    """What is remembered of a pair that is there."""

    file_name: str
    request: Request


def read(layout: Layout, *, has_maps: bool) -> dict[int, Entry]:
    """{number: entry} of the pairs whose files are there, from the finished list and the parts.

    Files that are empty count as missing.
    """
    entries = {line.id: _entry(line) for line in records.read_lines(layout.records)}
    with futures.ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(records.read_all, part_paths(layout).values()):
            entries |= {line.id: _entry(line) for line in part}
    places = zip(
        layout.picture_folders(has_maps),
        sample_selection.rejected(layout).picture_folders(has_maps),
        strict=True,
    )
    for both in places:
        sizes = files.sizes_and_times(both[0]) | files.sizes_and_times(both[1])
        present = {name.rpartition('.')[0] for name, (size, _) in sizes.items() if size}
        entries = {
            number: entry
            for number, entry in entries.items()
            if entry.file_name.rpartition('.')[0] in present
        }
    return entries


def _entry(record: Record) -> Entry:
    return Entry(record.file_name, record.request)


def part_paths(layout: Layout) -> dict[int, epath.Path]:
    """{number of a batch's first pair: the file that says that the batch is done}."""
    names = files.sizes_and_times(layout.parts)
    stems = [name.removesuffix('.jsonl') for name in names if name.endswith('.jsonl')]
    firsts = sorted(int(stem) for stem in stems if stem.isdecimal())
    return {first: part_path(layout, first) for first in firsts}


def part_path(layout: Layout, first: int) -> epath.Path:
    """The file of the batch that begins with pair `first`."""
    return layout.parts / f'{first:08d}.jsonl'


def write_part(layout: Layout, first: int, lines: Sequence[Record], kept: Collection[int]) -> None:
    """Says that a batch is done: its new records, and those of `kept` that its part had before."""
    path = part_path(layout, first)
    new = {line.id for line in lines}
    before = records.read_all(path) if path.exists() else []
    old = [line for line in before if line.id in kept and line.id not in new]
    every = sorted([*old, *lines], key=lambda line: line.id)
    files.write_whole(path, records.joined(every))


def drop_missing(layout: Layout, entries: Mapping[int, Any]) -> None:
    """Takes from the parts the pairs whose files are missing; their batches are not done."""
    for path in part_paths(layout).values():
        lines = records.read_all(path)
        good = [line for line in lines if line.id in entries]
        if good and len(good) < len(lines):
            files.write_whole(path, records.joined(good))
        elif not good:
            path.unlink()


def lacking(
    there: Collection[int], failed: Collection[int], batches: Sequence[Sequence[int]]
) -> dict[int, list[int]]:
    """{first pair of a batch: the numbers of its pairs that are to be drawn}, where any are."""
    settled = {*there, *failed}
    numbers = {batch[0]: [n for n in batch if n not in settled] for batch in batches}
    return {first: missing for first, missing in numbers.items() if missing}


def wait_for_parts(
    layout: Layout, wanted: Mapping[int, Collection[int]], interruption: Interruption
) -> None:
    """Waits until the parts of all processes name the wanted pairs, or say why there are none.

    Args:
      layout: The set.
      wanted: From `lacking`.
      interruption: Ends the waiting, too.

    Raises:
      Interrupted: the interruption was asked for.
    """
    awaited = dict(wanted)

    def is_complete() -> bool:
        paths = part_paths(layout)
        failures = sample_failures.firsts(layout)
        for first in list(awaited):
            named = {line.id for line in records.read_all(paths[first])} if first in paths else ()
            # The part may still be that of a smaller job.
            if first in failures or {*named} >= {*awaited[first]}:
                del awaited[first]
        return not awaited

    hosts.wait_for(is_complete, 'the pairs of other processes', interruption)


def finish(
    layout: Layout,
    requests: Mapping[int, Request],
    categories: CategoryList,
    *,
    judge: Judge,
    has_maps: bool,
) -> Tally:
    """Joins the parts into COCO's lists, and adds to what these name already.

    A kill at any time leaves lists that name only pairs that are there.

    Args:
      layout: The set.
      requests: The pairs of the job. Parts of a larger job that was stopped stay for the next one.
      categories: The model's, with the ids of the source.
      judge: Says which pairs are kept.
      has_maps: Whether each pair has a map.

    Returns:
      How many pairs were kept, and how many rejected.
    """
    there = read(layout, has_maps=has_maps)
    listed = {line.id for line in records.read_lines(layout.records)}
    wanted = {number for number in there if number in requests or number in listed}

    def lines() -> Iterator[Record]:
        return (line for line in _merged(layout) if line.id in wanted)

    reasons, tally = sample_selection.choose(lines(), judge)
    sample_selection.move(layout, reasons, lines(), has_maps=has_maps)
    apart = sample_selection.rejected(layout)
    # Last, since it is what a reader asks for.
    with files.assembling(layout.records) as place:
        with open(place, 'wb') as file:
            for line in lines():
                line.rejected = reasons.get(line.id, '')
                file.write(records.line_of(line))
        listing = functools.partial(coco_lists.write, source=place, categories=categories)
        listing(layout, has_maps=has_maps, rejected=False)
        if reasons:
            listing(apart, has_maps=has_maps, rejected=True)
    if not reasons:
        apart.folder.rmtree(missing_ok=True)
    sample_failures.finish(layout, there)
    for path in part_paths(layout).values():
        if all(line.id in wanted for line in records.read_all(path)):
            path.unlink()
    if not part_paths(layout):
        layout.parts.rmtree(missing_ok=True)
    return tally


def _merged(layout: Layout) -> Iterator[Record]:
    """All records by their numbers; those of parts win over those of the list."""
    both = heapq.merge(records.read_lines(layout.records), _of_parts(layout), key=_number)
    for _, same in itertools.groupby(both, key=_number):
        *_, newest = same
        yield newest


def _of_parts(layout: Layout) -> Iterator[Record]:
    """The records of all parts by their numbers, though batches of several kinds interleave."""
    pending: list[tuple[int, int, Record]] = []
    count = itertools.count()  # so that no two records have to be compared
    for first, path in part_paths(layout).items():
        while pending and pending[0][0] < first:
            yield heapq.heappop(pending)[-1]
        for record in records.read_all(path):
            heapq.heappush(pending, (record.id, next(count), record))
    while pending:
        yield heapq.heappop(pending)[-1]


def _number(record: Record) -> int:
    return record.id
