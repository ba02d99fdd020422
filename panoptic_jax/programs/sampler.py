"""From a description to a pure sampling function: the program that a sampling job runs.

The method itself is `diffusion/solver.py` and `diffusion/guidance.py`; captions, files and devices
are the business of `sample.py`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.diffusion import bits, guidance, solver
from panoptic_jax.diffusion.plan import make_plan
from panoptic_jax.diffusion.streams import NAMES
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.programs.conditions import Conditions, decoders, start, start_noise
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.tasks import Task, check_task, usual_task

_NOTHING = Conditions()  # is given
_LARGEST_LATENT = 1e6  # latents of photographs stay below a hundred


class Drawn(NamedTuple):
    """What a sampler gives.

    Attributes:
      latents: (B, h, w, c) divided by the autoencoder's scale. NaN where the map is not finite.
      ids: (B, kh, kw) uint8 category ids; None for a model without maps.
      code_values: (B, kh, kw, instance_bits) the codes of instances as bits, unclipped, as
        `codes.read` takes them; None where no codes are drawn.
      bits: (B, kh, kw, 8) the categories as analog bits; None where maps are not refined.
      again: (B, kh, kw) uint8 category ids of a second map, drawn for the finished image; None
        where none is drawn.
    """

    latents: jax.Array
    ids: jax.Array | None
    code_values: jax.Array | None = None
    bits: jax.Array | None = None
    again: jax.Array | None = None


Sampler = Callable[..., Drawn]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How pairs are drawn: fields of `config.sample`, and of `config.image` and `config.map`.

    The config explains them.
    """

    evaluations: int
    solver: str
    grid: str
    guidance: float
    guidance_ratio_map: float
    guidance_from: float
    guidance_to: float
    offset: float
    image_start_std: float
    map_start_std: float
    clip_image: bool
    clip_map: bool
    decode: str
    refine: bool = False

    def guidance_of(self, names: Sequence[str], own: jax.Array | None = None) -> guidance.Guidance:
        """The guidance of these streams; the others are not drawn. `own` is (B,), of each pair."""
        strength = self.guidance if own is None else jnp.asarray(own)
        weights = {'image': strength, 'map': strength * self.guidance_ratio_map}
        drawn = {name: weights[name] for name in names}
        return guidance.Guidance(drawn, first=self.guidance_from, last=self.guidance_to)

    def start_std(self, name: str) -> float:
        """The std of the noise that a stream starts from; 0 for the stream's own."""
        return getattr(self, f'{name}_start_std')

    def clipped(self) -> list[str]:
        """Names of the streams that are clipped inside the solver."""
        return [name for name in NAMES if getattr(self, f'clip_{name}')]


def make_sampler(
    description: Description,
    sampling: Sampling,
    *,
    empty_text: np.ndarray,
    dtype: Any,
    forms: Forms = PLAIN,
    task: Task | None = None,
) -> Sampler:
    """Algorithm 2, the whole trajectory, as one pure function.

    Args:
      description: The model.
      sampling: How to draw.
      empty_text: (L, D) features of the empty caption.
      dtype: Type of the network's computation.
      forms: Forms of the network's heaviest parts, see `forms.for_mesh`.
      task: What is given; None for what the model is made for, see `tasks.usual_task`.

    Returns:
      A function (params, text (B, L, D), keys (B,), conditions) -> `Drawn`. The conditions are
      those of the task. Pair i depends on its own row of the arguments alone.

    Raises:
      ValueError: the weights cannot serve the task or the offset.
    """
    task = task or usual_task(description)
    check_task(description, task, sampling.offset)
    model = description.build(dtype, forms)
    inputs = dict(zip(NAMES, description.inputs(), strict=False))
    names = NAMES if description.has_map else NAMES[:1]
    roles = {name: getattr(task, name) for name in names}
    plan = make_plan(
        {name: role.start for name, role in roles.items()},
        evaluations=sampling.evaluations,
        solver=sampling.solver,
        grid=sampling.grid,
        offset=sampling.offset,
    )
    category_ids, settled_map = decoders(description, sampling.decode)

    def start_of(name, eps, clean, known):
        own = {'clean': clean.get(name), 'known': known.get(name), 'std': sampling.start_std(name)}
        return start(roles[name], description.streams[name], eps, **own)

    def sampler(params, text, keys, conditions=_NOTHING):
        # Once for all evaluations. Vectors stay: norms multiply by theirs in float32.
        params = jax.tree.map(lambda a: a.astype(dtype) if a.ndim > 1 else a, params)

        def predict(*arguments):
            return model.apply({'params': params}, *arguments)

        clean = conditions.clean_streams(keys, description)
        noise = {
            # One key per stream: the image's noise is the same with and without a map.
            name: start_noise(keys, number, inputs[name].shape[1:])
            for number, name in enumerate(names)
            if not roles[name].stands
        }
        known = conditions.known_parts(clean, noise)
        moving = {name: start_of(name, eps, clean, known) for name, eps in noise.items()}
        weights = sampling.guidance_of(plan.moving, conditions.guidance)
        without = jnp.float32(empty_text if conditions.negative is None else conditions.negative)
        states, values = solver.solve(
            guidance.guided(predict, text.astype(jnp.float32), without, weights),
            clean | moving,
            plan,
            description.streams,
            own_times=description.model.separate_times,
            clip=sampling.clipped(),
            known=known,
            finish={'map': settled_map},
        )
        latents = _image_of(states, values, clean, description)
        if 'map' not in values:
            return Drawn(latents, conditions.map)
        ids = category_ids(values['map'])
        return _pairs(latents, values['map'], ids, keep_bits=sampling.refine)

    return sampler


def _pairs(latents, map_values, ids, *, keep_bits):
    # Ids cannot say that they came of NaN, so the latents of the pair say it.
    is_finite = jnp.isfinite(map_values).all(axis=(1, 2, 3))
    latents = jnp.where(is_finite[:, None, None, None], latents, jnp.nan)
    code_values = map_values[..., bits.NUM_BITS :]  # (B, kh, kw, instance_bits)
    return Drawn(
        latents,
        ids,
        code_values if code_values.shape[-1] else None,
        map_values[..., : bits.NUM_BITS] if keep_bits else None,
    )


def _image_of(states, values, clean, description):
    """The latents to decode: (B, h, w, c), divided by the autoencoder's scale."""
    if 'image' not in states:
        latents = clean['image']
    elif description.streams['image'].prediction == 'noise':
        # The paper's way; the last data prediction magnifies what is wrong in the noise.
        latents = states['image']
    else:
        # The state at t = 1/1000 still has noise, 0.03 of the stream's noise_std.
        latents = values['image']
    return latents / description.autoencoder.scale


def on_devices(sampler: Sampler, params: dict[str, Any], mesh: jax.sharding.Mesh) -> Sampler:
    """The sampler, compiled, as a function of (text, keys, conditions) whose rows devices share."""
    rows = sharding.of_batch(mesh)
    split_params = sharding.of_tree(params, mesh)
    placed = sharding.place(params, split_params)
    compiled = jax.jit(sampler, in_shardings=(split_params, rows, rows, rows))

    def draw(text, keys, conditions=_NOTHING):
        text, conditions = sharding.place((text, conditions), rows)
        return compiled(placed, text, keys, conditions)

    return draw


def check_latents(latents: np.ndarray, names: Sequence[str], guidance: float) -> None:
    """Refuses what no picture can be made of: NaN, infinity and numbers far from any training.

    Args:
      latents: (n, h, w, c), as the sampler gives them.
      names: A name for each of the n pairs, such as 'pair 3'.
      guidance: What they were drawn with, for the message.

    Raises:
      FloatingPointError: naming the first of the pairs.
    """
    sizes = np.abs(latents.reshape(len(names), -1)).max(axis=1)
    # NaN is not at most anything.
    wrong = [name for name, size in zip(names, sizes, strict=True) if not size <= _LARGEST_LATENT]
    if wrong:
        more = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
        raise FloatingPointError(
            f'The sampler gave numbers that are not finite or far too large for {wrong[0]}{more}, '
            f'and nothing of the batch was kept. The guidance is {guidance:g}: take less than 10; '
            'if that changes nothing, take other weights or an earlier checkpoint.'
        )


def check_batch(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Refuses a batch that the devices of a process cannot share.

    Raises:
      ValueError: `batch_size` is no multiple of their number.
    """
    if batch_size % mesh.size:
        raise ValueError(
            f'sample.batch_size is {batch_size}; it must be a multiple of the {mesh.size} '
            'devices of a process.'
        )
