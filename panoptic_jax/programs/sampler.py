"""From a description to a pure sampling function: the program that a sampling job runs.

The method itself is `diffusion/solver.py` and `diffusion/guidance.py`; captions, files and devices
are the business of `sample.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.diffusion import bits, guidance, solver
from panoptic_jax.diffusion.trajectory import make_trajectory
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.programs.description import Description

Sampler = Callable[..., tuple[jax.Array, jax.Array | None]]

_LARGEST_LATENT = 1e6  # latents of photographs stay below a hundred


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How pairs are drawn: the fields of `config.sample` of the same names, which explains them."""

    evaluations: int
    solver: str
    grid: str
    guidance: float
    map_init_std: float
    clip_map: bool
    decode: str


def make_sampler(
    description: Description,
    sampling: Sampling,
    *,
    empty_text: np.ndarray,
    dtype: Any,
    forms: Forms = PLAIN,
) -> Sampler:
    """Algorithm 2, the whole trajectory, as one pure function.

    Args:
      description: The model.
      sampling: How to draw.
      empty_text: (L, D) features of the empty caption.
      dtype: Type of the network's computation.
      forms: Forms of the network's heaviest parts, see `forms.for_mesh`.

    Returns:
      A function (params, text (B, L, D), keys (B,), given ids (B, kh, kw) or None) -> (latents
      (B, h, w, c) divided by the autoencoder's scale, ids (B, kh, kw) uint8 or None). Pair i
      depends on its own row of the arguments alone. Latents are NaN where the map is not finite.
    """
    model = description.build(dtype, forms)
    image_input, map_input = description.inputs()[:2]
    trajectory = make_trajectory(
        evaluations=sampling.evaluations, solver=sampling.solver, grid=sampling.grid
    )
    codes = description.valid_codes()
    map_noise_std = description.map_noise_std
    # Algorithm 2 starts with std 1 where training has s; by default both are s.
    map_start_std = sampling.map_init_std or map_noise_std

    def sampler(params, text, keys, given=None):
        # Once for all evaluations. Vectors stay: norms multiply by theirs in float32.
        params = jax.tree.map(lambda a: a.astype(dtype) if a.ndim > 1 else a, params)

        def start_noise(stream, shape):
            def draw(key):
                return jax.random.normal(jax.random.fold_in(key, stream), shape)

            return jax.vmap(draw)(keys)

        def predict(*arguments):
            return model.apply({'params': params}, *arguments)

        # One key per stream: the image's noise is the same with and without a map.
        x = start_noise(0, image_input.shape[1:])  # (B, h, w, c)
        if given is not None:
            m = bits.ids_to_bits(given)  # (B, kh, kw, 8)
        elif description.has_map:
            m = map_start_std * start_noise(1, map_input.shape[1:])
        else:
            m = None
        guided = guidance.guided(
            predict, text.astype(jnp.float32), jnp.float32(empty_text), sampling.guidance
        )
        latents, map_values = solver.solve(
            guided,
            x,
            m,
            trajectory,
            given_map=given is not None,
            clip_map=sampling.clip_map,
            map_noise_std=map_noise_std if description.predicts_map_noise else None,
        )
        if map_values is not None:
            given = bits.bits_to_ids(map_values, codes, sampling.decode)  # (B, kh, kw)
            # Ids cannot say that they came of NaN, so the latents of the pair say it.
            is_finite = jnp.isfinite(map_values).all(axis=(1, 2, 3))
            latents = jnp.where(is_finite[:, None, None, None], latents, jnp.nan)
        return latents / description.autoencoder.scale, given

    return sampler


def pair_keys(seed: int, first: int, count: int) -> jax.Array:
    """(count,) keys of the pairs from number `first` on: pair n has the same key in any batch."""
    # A pair's number decides its key, not its place in a batch.
    numbers = jnp.arange(first, first + count)
    return jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)


def request_keys(seed: int, first: int, requests: Sequence[Mapping[str, Any]]) -> jax.Array:
    """(n,) keys of consecutive pairs, where some may have a seed of their own.

    Args:
      seed: The job's seed.
      first: Number of the first pair.
      requests: For each pair what was asked for; with 'seed' and 'copy' (0 if it is missing) the
        key is that of pair number 'copy' of that seed, wherever the pair stands.
    """
    keys = pair_keys(seed, first, len(requests))
    if not any('seed' in request for request in requests):
        return keys
    own = [
        pair_keys(request['seed'], request.get('copy', 0), 1)
        if 'seed' in request
        else keys[row : row + 1]
        for row, request in enumerate(requests)
    ]
    return jnp.concatenate(own)


def on_devices(sampler: Sampler, params: dict[str, Any], mesh: jax.sharding.Mesh) -> Sampler:
    """The sampler, compiled, as a function of (text, keys, given) whose rows the devices share."""
    rows = sharding.of_batch(mesh)
    split_params = sharding.of_tree(params, mesh)
    placed = sharding.place(params, split_params)
    compiled = jax.jit(sampler, in_shardings=(split_params, rows, rows, rows))

    def draw(text, keys, given=None):
        text, given = sharding.place((text, given), rows)
        return compiled(placed, text, keys, given)

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
