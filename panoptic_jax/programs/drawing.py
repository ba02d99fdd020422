"""The batches of a sampling job: from the requests of a batch to its images and maps.

`programs/requested.py` says what is in a batch, `programs/sampler.py` is what is compiled, and
`sample.py` is the job.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from panoptic_jax.encoders.load import Encoders
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import Forms
from panoptic_jax.programs import sampler, things
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.keys import request_keys
from panoptic_jax.programs.requested import Requested
from panoptic_jax.programs.tasks import Role, Task

_SECOND_MAP = 3  # after the streams' noise and the codes, see `programs/conditions.py`
IMAGE_TO_MAP = Task(image=Role(given=True))


class Means(NamedTuple):
    """What all batches of a job are drawn with.

    Attributes:
      description: The model.
      params: Its parameters, on the host.
      empty_text: (L, D) features of the empty caption.
      encoders: The model's encoders.
      mesh: The devices of this process.
      dtype: Type of the network's computation.
      forms: Forms of the network's heaviest parts.
      sampling: How pairs are drawn.
      seed: The job's.
      batch_size: Pairs of a batch.
      min_area: The smallest segment of a map that was drawn.
      second_map: Whether a second map is drawn for each finished image.
    """

    description: Description
    params: Any
    empty_text: np.ndarray
    encoders: Encoders
    mesh: jax.sharding.Mesh
    dtype: Any
    forms: Forms
    sampling: sampler.Sampling
    seed: int
    batch_size: int
    min_area: float
    second_map: bool = False


Draw = Callable[[Sequence[int]], sampler.Drawn]


def make_draw(means: Means, requested: Requested) -> Draw:
    """A function: numbers of a batch -> what was drawn for them; it compiles for each task once."""
    encoders = means.encoders
    sampler_of = _samplers(means)

    def draw(batch):
        # The last batch of a kind is filled up, so that one compilation serves all.
        rows = [*batch, *[batch[-1]] * (means.batch_size - len(batch))]
        padded = [requested.requests[row] for row in rows]
        text = encoders.text.encode([request['caption'] for request in padded])
        keys = request_keys(means.seed, rows, padded)
        conditions = requested.conditions(rows, encoders.autoencoder.encode, encoders.text.encode)
        drawn = sampler_of(requested.kind_of(padded[0]).task)(text, keys, conditions)
        if means.second_map:
            # Noise of its own: from the same noise both maps would share their errors.
            keys = jax.vmap(lambda key: jax.random.fold_in(key, _SECOND_MAP))(keys)
            given = Conditions(image=drawn.latents)
            drawn = drawn._replace(again=sampler_of(IMAGE_TO_MAP)(text, keys, given).ids)
        return jax.block_until_ready(drawn)

    return draw


def _samplers(means: Means) -> Callable[[Task], sampler.Sampler]:
    @functools.cache
    def params_on_devices():
        # Once for all tasks, and not at all for a process without a share.
        return sharding.place(means.params, sharding.of_tree(means.params, means.mesh))

    @functools.cache
    def sampler_of(task):
        program = sampler.make_sampler(
            means.description,
            means.sampling,
            empty_text=means.empty_text,
            dtype=means.dtype,
            forms=means.forms,
            task=task,
        )
        return sampler.on_devices(program, params_on_devices(), means.mesh)

    return sampler_of


def decoded(
    means: Means, requested: Requested, batch: Sequence[int], drawn: sampler.Drawn
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The images, maps and instances of a batch, see `things.of_drawn`.

    Raises:
      FloatingPointError: they are not finite.
    """
    latents = np.asarray(drawn.latents)
    names = [f'pair {number}' for number in batch]
    sampler.check_latents(latents[: len(batch)], names, means.sampling.guidance)
    images = means.encoders.autoencoder.decode(latents)
    categories = means.description.categories.entries
    is_given = requested.kind_of(requested.requests[batch[0]]).task.map.given
    drawn = things.refined(drawn, categories, means.sampling.decode)
    # Maps that were given stay as they are.
    min_area = 0.0 if is_given else means.min_area
    return images, *things.of_drawn(drawn, categories, min_area=min_area)
