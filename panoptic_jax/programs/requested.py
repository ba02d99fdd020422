"""What a sampling job is asked for: its requests, what is given with them, and the task of both.

Requests come from prompts or from a split of prepared data. `data/requests.py` makes lists of
them; what the function of `pipeline.load` is given is read in `programs/given_parts.py`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from panoptic_jax.data import geometry, given_maps, loader
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.data.map_pictures import Form
from panoptic_jax.data.requests import Request, of_prompts, of_split
from panoptic_jax.programs import given_parts
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.tasks import Role, Task


@dataclasses.dataclass(frozen=True)
class Asked:
    """The fields of `config.sample` of the same names, which explains them."""

    prompt: str
    prompts: str
    split: str
    count: int
    seed: int
    given: str


class Requested(NamedTuple):
    """The pairs of a job.

    Attributes:
      requests: One for each pair.
      given: Numbers of pairs -> what is given besides their captions; None for nothing.
      task: What the sampler is made for.
    """

    requests: list[Request]
    given: Callable[[Sequence[int]], Conditions] | None
    task: Task


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
      FileNotFoundError, ValueError: the errors of `of_prompts`, `given_maps.of_requests` and
        `given_maps.of_split`; prompts where images are to be given.
    """
    form = Form(description.categories, description.map_side, void_wins)
    has_map = description.given_map or asked.given == 'map'
    task = Task(image=Role(asked.given == 'image'), map=Role(has_map))
    if manifest is None:
        if task.image.given:
            raise ValueError(
                "sample.given is 'image', which takes the images of sample.split; prompts have "
                'none. In Python, the function of pipeline.load takes images=.'
            )
        own = of_prompts(asked.prompt, asked.prompts, count=asked.count, given_map=has_map)
        if not has_map:
            return Requested(own, given=None, task=task)
        own, maps = given_maps.of_requests(own, epath.Path(asked.prompts).parent, form)
        return Requested(own, _of_maps(maps, description), task)
    split = loader.Split(data_dir, asked.split, cache)
    own = of_split(split, asked.count, asked.seed)
    if task.image.given:

        def images(numbers):
            records = [split[own[number]['record']] for number in numbers]
            return Conditions(image=np.stack([geometry.true_latents(each) for each in records]))

        return Requested(own, images, task)
    if not has_map:
        return Requested(own, given=None, task=task)
    maps = given_maps.of_split(own, split, manifest, form=form, data_dir=data_dir)
    return Requested(own, _of_maps(maps, description), task)


def _of_maps(maps: given_maps.Maps, description: Description) -> Callable:
    def conditions(numbers):
        return given_parts.of_ids(maps(numbers), description)

    return conditions
