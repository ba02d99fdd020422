"""What the TPU compiler has decided: cycles, kernels, collectives and memory of a compiled program.

Reads the text of the scheduled program. Which program, for which chips, and what the numbers mean
for a run is `prediction.py`'s.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from panoptic_jax.machine.chips import Chip

# A kernel of ours has no estimate of the compiler's. It counts as long as its arithmetic takes at
# this share of the peak, or its bytes at this share of the memory's bandwidth.
KERNEL_SHARE_OF_PEAK, KERNEL_SHARE_OF_BANDWIDTH = 0.35, 0.80

_COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 's64': 8, 'u64': 8}

_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][a-z-]*)\(')
_ARRAY = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')


class Operation(NamedTuple):
    """An instruction of the schedule with its repetitions.

    Attributes:
      seconds: All of them together; 0 where the compiler estimates nothing.
      assumed: Whether `seconds` is our assumption for a kernel of ours.
      source: 'file:line' of the model's code, '' if the compiler invented it.
      name: JAX's name for what it computes.
      kind: The compiler's, such as 'fusion'.
      result_bytes: Of the arrays that it gives.
    """

    seconds: float
    assumed: bool
    source: str
    name: str
    kind: str
    result_bytes: int


def operations(text: str, chip: Chip) -> list[Operation]:
    """All instructions of a compiled program's `as_text()`, loops' as often as they run.

    Args:
      text: Scheduled for `chip`.
      chip: Its clock turns cycles into seconds.
    """
    computations, entry = _computations(text)
    sources = _sources(text)
    return list(_walk(entry, 1, computations, sources, chip))


def collective_bytes(found: list[Operation]) -> dict[str, int]:
    """{kind: bytes of the results on one device} of what passes between chips."""
    total = Counter()
    for operation in found:
        kind = operation.kind.removesuffix('-start')
        if kind in _COLLECTIVES:
            total[kind] += operation.result_bytes
    return dict(total)


def link_seconds(traffic: dict[str, int], chip: Chip) -> float:
    """Time of that on a chip's links if nothing hides it; an all-reduce passes everything twice."""
    passed = sum(2 * n if kind == 'all-reduce' else n for kind, n in traffic.items())
    return passed / chip.link_bandwidth


def costliest(found: list[Operation], count: int = 10) -> list[tuple[str, str, float, bool]]:
    """(source, name, seconds, assumed) by source line and its last name, the longest first."""
    total, assumed = Counter(), set()
    for operation in found:
        # 'transpose(...)' is how JAX marks what a gradient computes.
        backward = 'gradient of ' if 'transpose(' in operation.name else ''
        key = operation.source, backward + operation.name.rsplit('/', 1)[-1]
        total[key] += operation.seconds
        if operation.assumed:
            assumed.add(key)
    return [(*key, seconds, key in assumed) for key, seconds in total.most_common(count)]


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    found, lines, entry = {}, [], ''
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = found.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line.startswith('  '):
            lines.append(line)
    return found, entry


def _walk(name: str, repeats: int, computations: dict, sources: dict, chip: Chip) -> Iterator:
    for line in computations[name]:
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        kind = match[2]
        if kind == 'while':
            body = re.search(r'body=%?([\w.-]+)', line)[1]
            times = repeats * _trips(line, computations)
            yield from _walk(body, times, computations, sources, chip)
            continue
        if kind in ('call', 'conditional'):
            called = re.search(r'(?:to_apply|true_computation)=%?([\w.-]+)', line)
            if called:
                yield from _walk(called[1], repeats, computations, sources, chip)
                continue
        seconds, assumed = _seconds(line, chip)
        frame = re.search(r'stack_frame_id=(\d+)', line)
        label = re.search(r'op_name="([^"]*)"', line)
        yield Operation(
            repeats * seconds,
            assumed,
            sources.get(frame[1], '') if frame else '',
            label[1] if label else '',
            kind,
            repeats * _result_bytes(match[1]),
        )


def _trips(line: str, computations: dict) -> int:
    """How often a loop runs: what the compiler says, or the bound that it counts up to."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    condition = computations[re.search(r'condition=%?([\w.-]+)', line)[1]]
    bounds = [int(n) for text in condition for n in re.findall(r'constant\((\d+)\)', text)]
    if len(bounds) != 1:
        raise ValueError(f'A loop of the compiled program has no known number of trips: {line}')
    return bounds[0]


def _seconds(line: str, chip: Chip) -> tuple[float, bool]:
    if match := re.search(r'"estimated_cycles":"(\d+)"', line):
        return int(match[1]) / chip.clock_hertz, False
    if 'custom_call_target="tpu_custom_call"' not in line:
        return 0.0, False
    flops = re.search(r'"cost_estimate":\{"flops":"(\d+)"', line)
    moved = re.search(r'"bytes_accessed":"(\d+)"', line)
    arithmetic = int(flops[1]) / (KERNEL_SHARE_OF_PEAK * chip.peak_flops)
    memory = int(moved[1]) / (KERNEL_SHARE_OF_BANDWIDTH * chip.memory_bandwidth)
    return max(arithmetic, memory), True


def _result_bytes(shapes: str) -> int:
    total = 0
    for kind, dimensions in _ARRAY.findall(shapes):
        size = _BYTES.get(kind, 4)
        for dimension in filter(None, dimensions.split(',')):
            size *= int(dimension)
        total += size
    return total


def _sources(text: str) -> dict[str, str]:
    """Stack frame -> 'module.py:line' of the innermost line of this package."""
    tables = {}
    for title in ('FileNames', 'FileLocations', 'StackFrames'):
        match = re.search(rf'^{title}\n((?:\d+ .*\n)*)', text, re.MULTILINE)
        tables[title] = dict(row.split(' ', 1) for row in match[1].splitlines()) if match else {}

    def number(row, field):
        match = re.search(rf'{field}=(\d+)', row)
        return match[1] if match else ''

    found = {}
    for frame, row in tables['StackFrames'].items():
        place = tables['FileLocations'].get(number(row, 'file_location_id'), '')
        path = tables['FileNames'].get(number(place, 'file_name_id'), '').strip('"')
        _, package, tail = path.rpartition('panoptic_jax/')
        if package:
            found[frame] = f'{tail}:{number(place, "line")}'
        else:  # JAX's and Flax's own lines: the caller's
            # Counted from one, 1 being none; callers come first in the table.
            found[frame] = found.get(str(int(number(row, 'parent_frame_id') or 1) - 1), '')
    return found
