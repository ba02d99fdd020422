"""What a sampling job is asked for: its pairs, what is given with them, and what each is made for.

Requests come from prompts or from a split of prepared data. `data/requests.py` makes lists of
them, and `programs/line_parts.py` reads what lines give; what the function of `pipeline.load` is
given is read in `programs/given_parts.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from panoptic_jax.data import geometry, given_maps, loader
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.data.map_pictures import Form
from panoptic_jax.data.request_lines import Line
from panoptic_jax.data.requests import Rejected, Request, of_prompts, of_split
from panoptic_jax.programs import given_parts
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.line_parts import LineParts, task_of
from panoptic_jax.programs.tasks import Role, Task, check_task


@dataclasses.dataclass(frozen=True)
class Asked:
    """The fields of `config.sample` of the same names, which explains them."""

    prompt: str
    prompts: str
    split: str
    count: int
    seed: int
    given: str
    guidance: float
    offset: float


class Kind(NamedTuple):
    """What the requests of one compiled sampler have in common.

    Attributes:
      task: What is given.
      guidance: Whether each has a guidance of its own.
      negative: Whether each has a text in the place of the empty caption.
    """

    task: Task
    guidance: bool = False
    negative: bool = False


class Requested(NamedTuple):
    """The pairs of a job.

    Attributes:
      requests: {number of the pair: its request}.
      rejected: Lines that no pair is drawn for.
      kind_of: Request -> its kind.
      conditions: (numbers of pairs of one kind, encoder of images, encoder of texts) -> what is
        given besides their captions.
    """

    requests: dict[int, Request]
    rejected: list[Rejected]
    kind_of: Callable[[Mapping[str, Any]], Kind]
    conditions: Callable[..., Conditions]


def batches(requested: Requested, batch_size: int, numbers: Sequence[int]) -> list[list[int]]:
    """The numbers of each batch, by the list alone: whatever machine draws it, and what is there.

    Args:
      requested: The pairs.
      batch_size: Pairs in a batch, all of one kind, in the order of the list.
      numbers: Numbers of pairs, ascending.
    """
    by_kind: dict[Kind, list[int]] = {}
    for number in numbers:
        kind = requested.kind_of(requested.requests[number])
        by_kind.setdefault(kind, []).append(number)
    parts = [
        own[first : first + batch_size]
        for own in by_kind.values()
        for first in range(0, len(own), batch_size)
    ]
    return sorted(parts)


def of_job(
    asked: Asked,
    description: Description,
    manifest: Manifest | None,
    *,
    data_dir: str,
    cache: str,
    void_wins: bool,
) -> Requested:
    """The pairs that a job is asked for.

    Args:
      asked: What the user set.
      description: The model.
      manifest: The prepared data of `asked.split`; None where prompts are set.
      data_dir: The folder of these data.
      cache: Folder for copies of shards in a bucket.
      void_wins: How maps that prompts give are pooled.

    Raises:
      FileNotFoundError, ValueError: the errors of `of_prompts`, `given_maps.of_split` and
        `check_task`.
    """
    if manifest is None:
        return _of_prompts(asked, description, void_wins)
    has_map = description.given_map or asked.given == 'map'
    task = Task(image=Role(asked.given == 'image'), map=Role(has_map))
    check_task(description, task, asked.offset)
    split = loader.Split(data_dir, asked.split, cache)
    own = of_split(split, asked.count, asked.seed).requests

    def nothing(numbers, encode_image, encode_text):
        return Conditions()

    def images(numbers, encode_image, encode_text):
        records = [split[own[number]['record']] for number in numbers]
        return Conditions(image=np.stack([geometry.true_latents(each) for each in records]))

    def maps(numbers, encode_image, encode_text):
        return given_parts.of_ids(maps_of(numbers), description)

    conditions = images if task.image.given else nothing
    if has_map:
        form = Form(description.categories, description.map_side, void_wins)
        maps_of = given_maps.of_split(own, split, manifest, form=form, data_dir=data_dir)
        conditions = maps
    return Requested(own, [], lambda request: Kind(task), conditions)


def _of_prompts(asked: Asked, description: Description, void_wins: bool) -> Requested:
    folder = epath.Path(asked.prompts).parent
    parts = LineParts(folder, description, void_wins=void_wins, offset=asked.offset)

    def accept(line: Line) -> Request:
        _check_given(line, asked, description)
        return parts.accept(line)

    own, rejected = of_prompts(asked.prompt, asked.prompts, count=asked.count, accept=accept)

    def conditions(numbers, encode_image, encode_text):
        return parts.conditions([own[n] for n in numbers], encode_image, encode_text)

    return Requested(own, rejected, _kind_of_line, conditions)


def _kind_of_line(request: Mapping[str, Any]) -> Kind:
    return Kind(task_of(request), 'guidance' in request, 'negative' in request)


def _check_given(line: Line, asked: Asked, description: Description) -> None:
    """Refuses a line that lacks what the model or the job needs, or whose text has no effect."""
    if description.given_map and not line.map:
        raise ValueError(
            f'This model needs a map beside each caption, and {line.caption!r} has none; '
            'take sample.prompts=FILE.jsonl with lines {"caption": ..., "map": ...}, or leave '
            'sample.prompts and sample.prompt empty to take those of sample.split.'
        )
    if asked.given != 'nothing' and not getattr(line, asked.given):
        raise ValueError(
            f'sample.given is {asked.given!r}, and {line.caption!r} names none; take '
            f'sample.prompts=FILE.jsonl with lines {{"caption": ..., "{asked.given}": ...}}.'
        )
    if line.negative is not None and not (line.guidance or asked.guidance):
        raise ValueError(
            "'negative' has no effect without guidance; set the line's guidance or sample.guidance."
        )
