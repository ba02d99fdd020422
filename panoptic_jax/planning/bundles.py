"""What the TPU compiler makes of kernels and fusions: their instruction bundles, counted.

A chip issues a bundle in each cycle, with a slot for each use of its units. The compiler writes the
bundles of everything that it compiles into a folder, where it is asked to. Waiting for memory is
not in them. `planning/operations.py` knows which instructions of a program they belong to.
"""

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

_ARGUMENTS = 'LIBTPU_INIT_ARGS'
# Of some 80 texts of each fusion we read two, and the others would fill the disk.
_TEXTS = 'final_bundles|final_hlo-static-per-bundle-utilization'
_BUNDLES = re.compile(r'\d+-(.*)-\d+-final_bundles\.txt')
_USES = '{}-[0-9]*-final_hlo-static-per-bundle-utilization.txt'

# ' 0x12 LB: >> { instructions }' has the groups 'LB', '>>' and the instructions. A loop's first
# bundle is marked LB, each '>' stands for a loop around the bundle, and empty bundles have none.
_BUNDLE = re.compile(r'\s*(?:0x[0-9a-f]+|0)\s+([A-Z]{2})?\s*:\s*(>*)\s*\{(.*)')
_EXIT = re.compile(r'scmp\.ge\.s32\.totalorder %\S+, (\d+) /\* loop exit test \*/')
# A loop that fetches what its next trip needs makes some trips more, in which nothing is computed.
_STAGE = re.compile(r'iteration index, stage = (\d+)')
# A branch around bundles that are for one trip of a loop alone: its first, or its last.
_COUNTER = re.compile(r'%(\w+) = sphi ')
_IS_OTHER = re.compile(r'%(\w+) = scmp\.ne\.s32\.totalorder (?:\(%\w+\), )?%(\w+), \d+')
_BRANCH = re.compile(r'sbr\.rel \(%(\w+)\) target = \$region(\d+)')
_SPILLS = 'VSTORE:SPILL'
_STORES = 'VSTORE'


class Schedule(NamedTuple):
    """How long a kernel or a fusion keeps its core busy.

    Attributes:
      cycles: Bundles, each as often as its loops run.
      busy: {unit: cycles that its uses take if all of its slots are filled}.
      spills: Share of the stores that only make room in the registers.
    """

    cycles: int
    busy: Mapping[str, float]
    spills: float


class _Loop:
    """A loop of a schedule while its lines are read; the whole program is one without parent."""

    def __init__(self, parent: '_Loop | _OneTrip | None', stages: int = 0) -> None:
        self.parent = parent
        self.stages = stages
        self.exit = None if parent else 1

    @property
    def trips(self) -> int | None:
        """Trips in which something is computed; None if they are not known."""
        return None if self.exit is None else self.exit - self.stages

    def repeats(self) -> int | None:
        """How often a bundle of the loop is issued; None if a loop's trips are not known."""
        outer = self.parent.repeats() if self.parent else 1
        return None if outer is None or self.trips is None else outer * self.trips


class _OneTrip(NamedTuple):
    """Bundles within `parent` that are issued in one trip of `loop` alone, until `end`."""

    parent: '_Loop | _OneTrip'
    loop: _Loop
    depth: int
    end: str

    def repeats(self) -> int | None:
        """How often one of the bundles is issued; None if a loop's trips are not known."""
        of_all = self.parent.repeats()
        return None if of_all is None else of_all // self.loop.trips


@contextlib.contextmanager
def written() -> Iterator[Path]:
    """A folder in which the compiler leaves what `schedules` reads, until the end of the block.

    The compiler looks at its arguments once in a process, before it compiles anything; so this
    process has one such folder. Where something was compiled for TPUs before, nothing is left.
    """
    folder = Path(tempfile.gettempdir()) / f'panoptic_jax_bundles_{os.getpid()}'
    own = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
    labels = f'--xla_jf_dump_llo_pass_label_regex={_TEXTS}'
    before = os.environ.get(_ARGUMENTS)
    os.environ[_ARGUMENTS] = ' '.join([*(before or '').split(), own, labels])
    folder.mkdir(exist_ok=True)
    # A program from the cache is not compiled, and leaves nothing.
    has_cache = jax.config.jax_enable_compilation_cache
    _use_cache(enabled=False)
    try:
        yield folder
    finally:
        _use_cache(enabled=has_cache)
        shutil.rmtree(folder)
        if before is None:
            del os.environ[_ARGUMENTS]
        else:
            os.environ[_ARGUMENTS] = before


def _use_cache(*, enabled: bool) -> None:
    jax.config.update('jax_enable_compilation_cache', enabled)
    # JAX asks the setting once, until its cache is reset.
    compilation_cache.reset_cache()


def schedules(folder: Path) -> dict[str, Schedule]:
    """{instruction's name: schedule} of what the compiler has left since the last call.

    The files are deleted, since the next program has instructions of the same names. An instruction
    whose loops run as often as its data say is left out.
    """
    found = {}
    for path in sorted(folder.glob('*-final_bundles.txt')):
        match = _BUNDLES.fullmatch(path.name)
        if match:
            start = glob.escape(path.name[: match.end(1)])
            (uses,) = folder.glob(_USES.format(start))
            schedule = read(path.read_text(), uses.read_text())
            if schedule:
                found[match[1]] = schedule
    for path in folder.iterdir():
        path.unlink()
    return found


def read(bundles: str, uses: str) -> Schedule | None:
    """The schedule in the compiler's two texts of one instruction.

    Args:
      bundles: Its bundles, a line each.
      uses: The uses of each unit, a line for each bundle, after the units' slots.

    Returns:
      None where the text does not say how often a loop runs.

    Raises:
      ValueError: the texts have different numbers of bundles.
    """
    repeats = [loop.repeats() for loop in _loops(bundles)]
    if None in repeats:
        return None
    units, slots, rows = _uses(uses)
    total = Counter()
    for count, row in zip(repeats, rows, strict=True):
        for unit, used in zip(units, row, strict=True):
            total[unit] += count * used
    busy = {unit: total[unit] / slots[unit] for unit in units if ':' not in unit}
    return Schedule(cycles=sum(repeats), busy=busy, spills=total[_SPILLS] / max(1, total[_STORES]))


def _loops(bundles: str) -> list[_Loop | _OneTrip]:
    """The innermost loop of each bundle, or what of it the bundle belongs to."""
    by_depth = [_Loop(parent=None)]
    counted, other, found = {}, {}, []
    depth, part = 0, None
    for line in bundles.splitlines():
        match = _BUNDLE.match(line)
        if not match:
            continue
        mark, levels, instructions = match.groups()
        is_empty = instructions.startswith('}')
        depth = depth if is_empty else len(levels)
        if part and re.search(rf'region {part.end}\b', line):
            part = None
        if mark == 'LB':
            stages = [int(stage) + 1 for stage in _STAGE.findall(instructions)]
            around = part if part and part.depth == depth - 1 else by_depth[depth - 1]
            loop = _Loop(parent=around, stages=max(stages, default=0))
            # The loop before it stays until here: bundles may follow its branch and belong to it.
            by_depth[depth:] = [loop]
            counted |= dict.fromkeys(_COUNTER.findall(instructions), loop)
        if exit_test := _EXIT.search(instructions):
            by_depth[depth].exit = int(exit_test[1])
        own = by_depth[depth]
        found.append(part if part and part.depth == depth else own)
        other |= {test: counted[name] for test, name in _IS_OTHER.findall(line) if name in counted}
        branch = _BRANCH.search(instructions)
        if branch and branch[1] in other and not part:
            part = _OneTrip(own, other[branch[1]], depth, end=branch[2])
    return found


def _uses(text: str) -> tuple[list[str], dict[str, int], list[list[int]]]:
    """(units, {unit: slots}, uses of each unit in each bundle)."""
    lines = text.splitlines()
    units = next(line for line in lines if 'MXU' in line).replace(' ', '').split(',')
    numbers = [[int(n) for n in line.split()] for line in lines if re.match(r'\s*\d', line)]
    slots, *rows = numbers
    return units, dict(zip(units, slots, strict=True)), rows
