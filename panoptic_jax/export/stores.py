"""Where the pairs of a job go: single files in COCO's layout, batch by batch.

A store says which batches lack, takes those that were drawn, and finishes the set.
`export/sample_tars.py` is the store of the other form.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.requests import Rejected, Request, name_of
from panoptic_jax.export import (
    sample_claim,
    sample_failures,
    sample_list,
    sample_selection,
    samples,
)
from panoptic_jax.export.layout import Layout
from panoptic_jax.export.pair_files import Drawn
from panoptic_jax.machine.interruption import Interruption
from panoptic_jax.quality.judge import Judge

Batches = Callable[[Sequence[int]], list[list[int]]]
"""Numbers of pairs -> the numbers of each batch, by the list of requests alone."""


class Unit(NamedTuple):
    """What is done as a whole, or not at all.

    Attributes:
      batches: The numbers of the pairs of each batch that has to be drawn.
      missing: The pairs among them that lack.
    """

    batches: list[list[int]]
    missing: list[int]


class Job(NamedTuple):
    """What the pairs of a job have in common.

    Attributes:
      folder: The samples folder.
      facts: From `sample_claim.promise`.
      requests: {number: request}.
      rejected: Lines of the requests that are wrong.
      has_maps: Whether each pair has a map.
      judge: What pairs are scored with and have to pass.
      selection: The settings that the judge was made of, by name.
      redo_failed: Whether pairs that could not be drawn are drawn once more.
    """

    folder: epath.Path
    facts: Mapping[str, Any]
    requests: Mapping[int, Request]
    rejected: Sequence[Rejected]
    has_maps: bool
    judge: Judge
    selection: Mapping[str, Any]
    redo_failed: bool = False


class FolderStore:
    """Single files in COCO's layout; a batch is a unit."""

    def __init__(self, job: Job) -> None:
        """Reads nothing yet."""
        self._job = job
        self._layout = Layout(job.folder, job.facts['sample']['name'])
        self._there: Mapping[int, Any] = {}

    @property
    def folder(self) -> epath.Path:
        """The samples folder."""
        return self._job.folder

    def check(self) -> None:
        """Looks at the folder; raises ValueError where it holds something else."""
        job = self._job
        self._there = sample_claim.check(job.folder, job.facts, job.requests, has_maps=job.has_maps)

    def failed(self) -> dict[int, str]:
        """{number: reason} of the pairs that could not be drawn."""
        return sample_failures.read(self._layout)

    def where(self, number: int) -> str:
        """Where a pair lies, in words."""
        job, layout = self._job, self._layout
        name = name_of(number, job.requests[number])
        image = f'{name}.{job.facts["sample"]["image_format"]}'
        if not (layout.images / image).exists():
            layout = sample_selection.rejected(layout)
        places = str(layout.images / image)
        return f'{places}, its map {layout.maps / name}.png' if job.has_maps else places

    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        failed = () if self._job.redo_failed else self.failed()
        if not sample_selection.is_current(self.folder, self._job.selection):
            return False
        return sample_claim.is_finished(
            self._job.folder, {*self._there, *failed}, self._job.requests
        )

    def claim(self) -> None:
        """Says that the job is at work; for process 0, inside the lock of the folder."""
        sample_claim.claim(self._job.folder, self._job.facts, self._job.rejected)
        if self._job.redo_failed:
            sample_failures.forget(self._layout)
        sample_list.drop_missing(self._layout, self._there)

    def units(self, batches: Batches) -> list[Unit]:
        """All units in order; those that are done lack nothing."""
        own = batches([*self._job.requests])
        failed = () if self._job.redo_failed else self.failed()
        missing = sample_list.lacking(self._there, failed, own)
        return [Unit([batch], missing.get(batch[0], [])) for batch in own]

    def add(self, unit: Unit, batch: Sequence[int], drawn: Drawn) -> None:
        """Writes a batch, a row for each of its numbers."""
        samples.write_part(
            self._layout,
            {number: row for row, number in enumerate(batch)},
            requests=self._job.requests,
            drawn=drawn,
            facts=self._job.facts,
            kept={*batch} - {*unit.missing},
        )

    def fail(self, unit: Unit, batch: Sequence[int], reason: str) -> None:
        """Writes down that a batch could not be drawn."""
        sample_failures.write(self._layout, batch[0], unit.missing, reason)

    def wait(self, units: Sequence[Unit], interruption: Interruption) -> None:
        """Waits until the processes of the job have done all units."""
        wanted = {unit.batches[0][0]: unit.missing for unit in units if unit.missing}
        sample_list.wait_for_parts(self._layout, wanted, interruption)

    def finish(self) -> None:
        """Writes the lists, once all units are done."""
        categories = CategoryList.from_json(self._job.facts['categories'])
        tally = sample_list.finish(
            self._layout,
            self._job.requests,
            categories,
            judge=self._job.judge,
            has_maps=self._job.has_maps,
        )
        sample_selection.write(self.folder, self._job.selection, tally)
        sample_claim.release(self._job.folder)
