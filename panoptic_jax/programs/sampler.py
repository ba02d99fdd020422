"""From weights to a pure sampling function, and what a record's map is at the model's resolution.

The method itself is `diffusion/solver.py`; captions, files and devices are `sample.py`'s.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from panoptic_jax.data import categories
from panoptic_jax.data.example import Category
from panoptic_jax.diffusion import bits, guidance, solver
from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.weights import file as weights_file

Sampler = Callable[..., tuple[jax.Array, jax.Array | None]]


def make_sampler(
    description: Mapping[str, Any],
    empty_text: np.ndarray,
    settings: ml_collections.ConfigDict,
    dtype: Any,
    forms: Forms = PLAIN,
) -> Sampler:
    """The whole trajectory as one pure function.

    Args:
      description: Of the model, see `weights.file.describe`.
      empty_text: (L, D) features of the empty caption.
      settings: `config.sample`.
      dtype: Of the network's computation.
      forms: See `forms.for_mesh`.

    Returns:
      A function (params, text (B, L, D), keys (B,), given ids (B, kh, kw) or None) -> (latents
      (B, h, w, c) divided by the autoencoder's scale, ids (B, kh, kw) uint8 or None). Pair i
      depends on its own row of the arguments alone.
    """
    model = weights_file.build_model(description, dtype, forms)
    x_shape, m_shape = (array.shape[1:] for array in weights_file.model_inputs(description)[:2])
    plan = solver.make_plan(settings.evaluations, settings.solver, settings.grid)
    codes = categories.valid_codes(category_list(description))
    map_std = settings.map_init_std or description['map_noise_std']
    has_map = description['model']['name'] != 'uvit'
    predicts_noise = description['model'].get('map_prediction') == 'noise'
    scale = description['autoencoder']['scale']

    def sampler(params, text, keys, given=None):
        # Once for all evaluations. Vectors stay: norms multiply by theirs in float32.
        params = jax.tree.map(lambda a: a.astype(dtype) if a.ndim > 1 else a, params)

        def start(number, shape):
            draw = lambda key: jax.random.normal(jax.random.fold_in(key, number), shape)  # noqa: E731
            return jax.vmap(draw)(keys)

        def predict(*arguments):
            return model.apply({'params': params}, *arguments)

        if given is not None:
            m = bits.ids_to_bits(given)
        else:
            m = map_std * start(1, m_shape) if has_map else None
        guided = guidance.guided(
            predict, text.astype(jnp.float32), jnp.float32(empty_text), settings.guidance
        )
        latents, map_values = solver.solve(
            guided,
            start(0, x_shape),
            m,
            plan,
            given is not None,
            settings.clip_map,
            description['map_noise_std'] if predicts_noise else None,
        )
        if map_values is not None:
            given = bits.bits_to_ids(map_values, codes, settings.decode)
        return latents / scale, given

    return sampler


def keys(seed: int, first: int, count: int) -> jax.Array:
    """(count,) keys of the pairs from number `first` on: pair n has the same in any batch."""
    numbers = jnp.arange(first, first + count)
    return jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)


def category_list(description: Mapping[str, Any]) -> list[Category]:
    """The categories of a description or a manifest."""
    return [Category(c['id'], c['name'], c['is_thing']) for c in description['categories']]


def map_side(description: Mapping[str, Any]) -> int:
    """Side of the model's maps, in pixels."""
    return description['autoencoder']['latent_shape'][0] * description['model']['patch_factor']
