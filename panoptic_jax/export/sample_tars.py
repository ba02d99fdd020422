"""The store for millions of pairs: tar files of at most a thousand, as WebDataset reads them.

    NAME-00000.tar          for each pair KEY.png (or .jpg, .webp), KEY.panoptic.png,
                            KEY.semantic.png and KEY.json, the pair's record
    NAME-00000.stats.json   what is in it; written after it, and so the sign that it is done
    settings.json, rejected.jsonl, unfinished.json    as in `export/samples.py`

A shard holds the pairs of its numbers, 1000 by default, and is a unit: it is written whole. The
same pairs make the same bytes. `export/stores.py` is the store of single files.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

from etils import epath

from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.requests import Request, name_of
from panoptic_jax.export import (
    own_json,
    pair_files,
    records,
    sample_claim,
    sample_list,
    sample_selection,
)
from panoptic_jax.export.pair_files import Drawn, PairFiles
from panoptic_jax.export.stores import Batches, Job, Unit
from panoptic_jax.machine import files, hosts
from panoptic_jax.machine.interruption import Interruption


class TarStore:
    """Shards of tar files; a shard is a unit."""

    def __init__(self, job: Job) -> None:
        """Reads nothing yet."""
        self._job = job
        self._done: dict[int, dict[str, Any]] = {}  # {shard: its stats}
        self._drawn: dict[int, tuple[PairFiles, records.Record]] = {}  # of shards at work
        self._failed: dict[int, str] = {}  # the same

    @property
    def folder(self) -> epath.Path:
        """The samples folder."""
        return self._job.folder

    def check(self) -> None:
        """Looks at the folder; raises ValueError where it holds something else."""
        self._done = {}
        if not sample_claim.check_settings(self.folder, self._job.facts):
            return
        sizes = files.sizes_and_times(self.folder)
        for shard, numbers in self._shards().items():
            stats_path, tar_path = self._paths(shard)
            if stats_path.name not in sizes or tar_path.name not in sizes:
                continue
            stats = own_json.read(stats_path)
            there = [n for first, end in stats['numbers'] for n in range(first, end)]
            asked = [number for number in there if number in self._job.requests]
            if asked == there and _digest(self._job.requests, there) != stats['requests']:
                sample_claim.refuse(self.folder, [f'requests of {tar_path.name}'])
            # A shard of a smaller job, or of fewer good lines, is made anew.
            is_whole = there == numbers and sizes[tar_path.name][0] == stats['bytes']
            is_selected = stats['selection'] == self._job.selection
            if is_selected and (is_whole or {*numbers} < {*there}):
                self._done[shard] = stats

    def failed(self) -> dict[int, str]:
        """{number: reason} of the pairs that could not be drawn."""
        self.check()
        return {int(n): why for each in self._done.values() for n, why in each['failed'].items()}

    def where(self, number: int) -> str:
        """Where a pair lies, in words."""
        name = name_of(number, self._job.requests[number])
        _, tar_path = self._paths(number // self._job.facts['sample']['shard_pairs'])
        return f'{name} in {tar_path}'

    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        at_work = sample_claim.is_at_work(self.folder)
        return not at_work and all(map(self._is_done, self._shards()))

    def claim(self) -> None:
        """Says that the job is at work; for process 0, inside the lock of the folder."""
        sample_claim.claim(self.folder, self._job.facts, self._job.rejected)
        for shard in self._shards():
            stats_path, _ = self._paths(shard)
            if not self._is_done(shard):
                stats_path.unlink(missing_ok=True)

    def units(self, batches: Batches) -> list[Unit]:
        """All units in order; those that are done lack nothing."""
        return [
            Unit(batches(numbers), [] if self._is_done(shard) else numbers)
            for shard, numbers in self._shards().items()
        ]

    def add(self, unit: Unit, batch: Sequence[int], drawn: Drawn) -> None:
        """Takes a batch, a row for each of its numbers; the last of its shard writes the shard."""

        categories = CategoryList.from_json(self._job.facts['categories'])

        def encode(row: int) -> tuple[PairFiles, records.Record]:
            number = batch[row]
            return pair_files.of_pair(
                drawn,
                row,
                number=number,
                request=self._job.requests[number],
                facts=self._job.facts,
                categories=categories,
            )

        with futures.ThreadPoolExecutor(sample_list.THREADS) as pool:
            found = pool.map(encode, range(len(batch)))
            self._drawn.update(zip(batch, found, strict=True))
        self._write_if_whole(unit)

    def fail(self, unit: Unit, batch: Sequence[int], reason: str) -> None:
        """Writes down that a batch could not be drawn."""
        self._failed.update(dict.fromkeys(batch, reason))
        self._write_if_whole(unit)

    def wait(self, units: Sequence[Unit], interruption: Interruption) -> None:
        """Waits until the processes of the job have done all units."""
        names = {self._paths(shard)[0].name for shard in self._shards()}

        def is_complete() -> bool:
            return names <= {*files.sizes_and_times(self.folder)}

        hosts.wait_for(is_complete, 'the shards of other processes', interruption)

    def finish(self) -> None:
        """Nothing is left to write, once all units are done."""
        sample_claim.release(self.folder)

    def _shards(self) -> dict[int, list[int]]:
        """{shard: the numbers of its pairs}."""
        shards: dict[int, list[int]] = {}
        for number in self._job.requests:
            shards.setdefault(number // self._job.facts['sample']['shard_pairs'], []).append(number)
        return shards

    def _paths(self, shard: int) -> tuple[epath.Path, epath.Path]:
        name = f'{self._job.facts["sample"]["name"]}-{shard:05d}'
        return self.folder / f'{name}.stats.json', self.folder / f'{name}.tar'

    def _is_done(self, shard: int) -> bool:
        stats = self._done.get(shard)
        return stats is not None and not (self._job.redo_failed and stats['failed'])

    def _write_if_whole(self, unit: Unit) -> None:
        """Writes the shard, and then its stats, if this was the last of its batches."""
        numbers = unit.missing
        if not {*numbers} <= {*self._drawn, *self._failed}:
            return
        stats_path, tar_path = self._paths(numbers[0] // self._job.facts['sample']['shard_pairs'])
        failed = {number: self._failed.pop(number) for number in numbers if number in self._failed}
        drawn = [self._drawn.pop(number) for number in numbers if number not in failed]
        reasons, _ = sample_selection.choose((record for _, record in drawn), self._job.judge)
        pairs = [pair for pair in drawn if pair[1].id not in reasons]
        with files.assembling(tar_path) as place:
            _write_tar(place, pairs)
            size = os.path.getsize(place)
        stats = {
            'pairs': len(pairs),
            'numbers': _ranges(numbers),
            'failed': failed,
            'rejected': reasons,
            'selection': {**self._job.selection},
            'requests': _digest(self._job.requests, numbers),
            'bytes': size,
            'segments': _counted(pairs, self._job.facts['categories']),
        }
        files.write_json(stats_path, stats)


def _write_tar(path: str, pairs: Sequence[tuple[PairFiles, records.Record]]) -> None:
    with tarfile.open(path, 'w') as tar:
        for own, record in pairs:
            members = {record.file_name: own.image}
            if own.panoptic is not None:
                members[f'{record.stem}.panoptic.png'] = own.panoptic
                members[f'{record.stem}.semantic.png'] = own.semantic
            members[f'{record.stem}.json'] = records.line_of(record)
            for name, content in members.items():
                # Without owner and time, so that the same pairs are the same bytes.
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """[[first, end], ...] of ascending numbers."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] += 1
        else:
            ranges.append([number, number + 1])
    return ranges


def _digest(requests: Mapping[int, Request], numbers: Sequence[int]) -> str:
    content = json.dumps([requests[number] for number in numbers], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _counted(
    pairs: Sequence[tuple[PairFiles, records.Record]], categories: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, int]]:
    """{name of a category: how many segments and pixels it has}, of those that occur."""
    names = {entry['source_id']: entry['name'] for entry in categories}
    counts: dict[str, dict[str, int]] = {}
    for _, record in pairs:
        for segment in record.segments_info or ():
            own = counts.setdefault(names[segment.category_id], {'segments': 0, 'pixels': 0})
            own['segments'] += 1
            own['pixels'] += segment.area
    return dict(sorted(counts.items()))
