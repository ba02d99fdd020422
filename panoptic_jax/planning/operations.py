"""The operations of a compiled program with their times, read from the TPU compiler's text.

`planning/totals.py` adds the operations up, and `planning/prediction.py` decides what the numbers
mean for a run.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from panoptic_jax.machine.chips import Chip
from panoptic_jax.planning.bundles import Schedule

# The compiler gives no estimate for a kernel of ours. Such a kernel counts as long as its bundles
# take, its arithmetic at the peak, or its bytes at this share of the memory's bandwidth. Where its
# bundles are not known, its arithmetic counts instead, at this share of the peak.
KERNEL_SHARE_OF_PEAK = 0.35
KERNEL_SHARE_OF_BANDWIDTH = 0.80

_KERNEL = 'custom_call_target="tpu_custom_call"'
# Bytes of a number; types that are not named here have 4.
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 's64': 8, 'u64': 8}

# '%body (p.1: s32[]) -> s32[] {' opens a computation; the program begins at the one marked ENTRY.
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
# '  ROOT %out = f32[8,4]{1,0} add(%x, %x)' has the groups 'out', 'f32[8,4]{1,0}' and 'add'.
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z-]*)\(')
# 'f32[8,4]' has the groups 'f32' and '8,4'.
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')


class Operation(NamedTuple):
    """An instruction of the compiled program with its repetitions.

    Attributes:
      seconds: Time of all repetitions together; 0 where the compiler estimates nothing.
      kernel: Whether it is a kernel of ours.
      assumed: Whether `seconds` is our assumption for such a kernel.
      source: 'file:line' of the model's code; '' if the compiler invented the instruction.
      name: JAX's name for what the instruction computes.
      kind: The compiler's kind of instruction, such as 'fusion'.
      result_bytes: Bytes of the arrays that all repetitions give.
      repeats: How often it runs.
      schedule: Its bundles, once; None where they are not known.
      counted_seconds: Time of the bundles of all repetitions; 0 where they are not known.
    """

    seconds: float
    kernel: bool
    assumed: bool
    source: str
    name: str
    kind: str
    result_bytes: int
    repeats: int
    schedule: Schedule | None
    counted_seconds: float

    @property
    def is_gradient(self) -> bool:
        """Whether it is of a backward pass."""
        # 'transpose(...)' is how JAX marks what a gradient computes.
        return 'transpose(' in self.name


class _Listing(NamedTuple):
    """The parts of a compiled program's text.

    Attributes:
      computations: {name: lines of its instructions}.
      entry: Name of the computation at which the program begins.
      sources: {stack frame: 'file:line' of the model's code}.
      schedules: {instruction's name: its bundles}, as far as they are known.
    """

    computations: dict[str, list[str]]
    entry: str
    sources: dict[str, str]
    schedules: Mapping[str, Schedule]


def operations_of(
    text: str, chip: Chip, schedules: Mapping[str, Schedule] | None = None
) -> list[Operation]:
    """All instructions of a compiled program; those of a loop count as often as the loop runs.

    Args:
      text: What `as_text()` of the compiled program gives, compiled for `chip`.
      chip: The chip, whose clock turns cycles into seconds.
      schedules: {instruction's name: schedule}, from `bundles.schedules`.

    Raises:
      ValueError: the text does not say how often a loop runs.
    """
    listing = _parse(text, schedules or {})
    return list(_walk(listing, listing.entry, repeats=1, chip=chip))


def _with_equal_kernels(
    computations: Mapping[str, list[str]], schedules: Mapping[str, Schedule]
) -> dict[str, Schedule]:
    """Adds the kernels that the compiler made once for several calls, by the text of their body."""
    calls = {}
    for line in itertools.chain(*computations.values()):
        body = re.search(r'"body":"([^"]+)"', line)
        if _KERNEL in line and body:
            calls.setdefault(body[1], []).append(_INSTRUCTION.match(line)[1])
    found = dict(schedules)
    for names in calls.values():
        made = next((name for name in names if name in schedules), None)
        if made:
            found |= dict.fromkeys(names, schedules[made])
    return found


def _parse(text: str, schedules: Mapping[str, Schedule]) -> _Listing:
    computations: dict[str, list[str]] = {}
    entry = ''
    lines: list[str] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            is_entry, name = match.groups()
            lines = computations.setdefault(name, [])
            entry = name if is_entry else entry
        elif line.startswith('  '):
            lines.append(line)
    return _Listing(
        computations=computations,
        entry=entry,
        sources=_sources(text),
        schedules=_with_equal_kernels(computations, schedules),
    )


def _walk(listing: _Listing, name: str, *, repeats: int, chip: Chip) -> Iterator[Operation]:
    """The operations of a computation and of all that it calls."""
    for line in listing.computations[name]:
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        own_name, shapes, kind = match.groups()
        if kind == 'while':
            body = re.search(r'body=%?([\w.-]+)', line)[1]
            trips = _trips(line, listing.computations)
            yield from _walk(listing, body, repeats=repeats * trips, chip=chip)
            continue
        if kind in ('call', 'conditional'):
            # Which branch runs is not known here; the true one stands for both.
            called = re.search(r'(?:to_apply|true_computation)=%?([\w.-]+)', line)
            if called:
                yield from _walk(listing, called[1], repeats=repeats, chip=chip)
                continue
        schedule = listing.schedules.get(own_name)
        seconds, assumed = _seconds(line, chip, schedule)
        frame = re.search(r'stack_frame_id=(\d+)', line)
        label = re.search(r'op_name="([^"]*)"', line)
        yield Operation(
            seconds=repeats * seconds,
            kernel=_KERNEL in line,
            assumed=assumed,
            source=listing.sources.get(frame[1], '') if frame else '',
            name=label[1] if label else '',
            kind=kind,
            result_bytes=repeats * _array_bytes(shapes),
            repeats=repeats,
            schedule=schedule,
            counted_seconds=repeats * (schedule.cycles / chip.clock_hertz) if schedule else 0.0,
        )


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """How often a loop runs: what the compiler says, or the bound to which the loop counts."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    condition = re.search(r'condition=%?([\w.-]+)', line)[1]
    bounds = []
    for text in computations[condition]:
        bounds += re.findall(r'constant\((\d+)\)', text)
    # With several constants there is no telling which one is the bound.
    if len(bounds) != 1:
        raise ValueError(f'A loop of the compiled program has no known number of trips: {line}')
    return int(bounds[0])


def _seconds(line: str, chip: Chip, schedule: Schedule | None) -> tuple[float, bool]:
    """The time of an instruction, and whether it is our assumption."""
    if match := re.search(r'"estimated_cycles":"(\d+)"', line):
        return int(match[1]) / chip.clock_hertz, False
    if _KERNEL not in line:
        return 0.0, False
    flops = re.search(r'"cost_estimate":\{"flops":"(\d+)"', line)
    moved = re.search(r'"bytes_accessed":"(\d+)"', line)
    # A kernel that the compiler put in itself has no estimate: its arrays are moved once.
    moved_bytes = int(moved[1]) if moved else _array_bytes(line.split('metadata=')[0])
    memory = moved_bytes / (KERNEL_SHARE_OF_BANDWIDTH * chip.memory_bandwidth)
    arithmetic = int(flops[1]) / chip.peak_flops if flops else 0.0
    if schedule:
        # Bundles may hand rows to the matrix units faster than these take them.
        work = max(schedule.cycles / chip.clock_hertz, arithmetic)
    else:
        work = arithmetic / KERNEL_SHARE_OF_PEAK
    # A kernel computes while it reads and writes, so the longer of the two counts.
    return max(work, memory), not schedule or memory > work


def _array_bytes(shapes: str) -> int:
    """Bytes of all arrays in a text such as '(f32[8,4]{1,0}, f32[2]{0})'."""
    total = 0
    for kind, dimensions in _ARRAY.findall(shapes):
        size = _BYTES.get(kind, 4)
        # A scalar has no dimensions at all: 's32[]'.
        for dimension in re.findall(r'\d+', dimensions):
            size *= int(dimension)
        total += size
    return total


def _sources(text: str) -> dict[str, str]:
    """{stack frame: 'file:line'} of the innermost line of this package."""
    files = _numbered_rows(text, 'FileNames')
    locations = _numbered_rows(text, 'FileLocations')
    sources = {}
    for frame, row in _numbered_rows(text, 'StackFrames').items():
        location = locations.get(_field(row, 'file_location_id'), '')
        path = files.get(_field(location, 'file_name_id'), '').strip('"')
        _, package, tail = path.rpartition('panoptic_jax/')
        if package:
            sources[frame] = f'{tail}:{_field(location, "line")}'
            continue
        # JAX's and Flax's own lines take the source of their caller. The text counts callers from
        # one, 1 being none; callers come first in the table.
        caller = int(_field(row, 'parent_frame_id') or 1) - 1
        sources[frame] = sources.get(str(caller), '')
    return sources


def _numbered_rows(text: str, title: str) -> dict[str, str]:
    """{number: rest of the row} of the table with this title; {} where there is none."""
    match = re.search(rf'^{title}\n((?:\d+ .*\n)*)', text, re.MULTILINE)
    if not match:
        return {}
    return dict(row.split(' ', 1) for row in match[1].splitlines())


def _field(row: str, name: str) -> str:
    """The number after 'name=' in a row; '' where there is none."""
    match = re.search(rf'{name}=(\d+)', row)
    return match[1] if match else ''
