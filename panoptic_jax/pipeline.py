"""A trained model as one Python function. `sample.py` is the offline job with restarts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from panoptic_jax import config
from panoptic_jax.data.request_lines import SEEDS
from panoptic_jax.encoders.load import load_encoders
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import compute_dtype
from panoptic_jax.programs import given_parts, things
from panoptic_jax.programs.keys import pair_keys
from panoptic_jax.programs.sampler import Sampler, Sampling, check_latents, make_sampler
from panoptic_jax.programs.tasks import Task, check_task, usual_task
from panoptic_jax.weights import file as weights_file

_ORDERS = {'together': 0.0, 'map first': 0.5, 'image first': -0.5}


def load(
    path: str,
    autoencoder_weights: str = '',
    text_weights: str = '',
    *,
    void_wins: bool = False,
    **settings: Any,
) -> Callable[..., tuple[np.ndarray, np.ndarray | None]]:
    """Opens an exported or imported weights file for drawing.

    Args:
      path: The file, weights.safetensors.
      autoencoder_weights: The path in `config.data.autoencoder_weights`; '' for 'pixels', which
        has no weights.
      text_weights: The path in `config.data.text_weights`; '' for 'words', which has no weights.
      void_wins: `config.data.void_wins` of the model's data, for maps that have to be pooled.
      **settings: Fields of `config.sample` that say how pairs are drawn, such as guidance and
        evaluations.

    Returns:
      A function (captions, seed=0, maps=None, images=None, known=None, strength=None, order=None)
      -> (images (n, 256, 256, 3) uint8, maps (n, side, side) uint8 category ids, or None for a
      model without maps; with refine=True their side is 256). A pair depends on its caption, its
      place, the seed and what is given. Another number of captions, or another combination of
      arguments, compiles anew.

      maps: One for each caption, kept as they are: the path of a picture, see
        `map_pictures.reader`, or an array (height, width) of ids, see `map_pictures.of_ids`.
      images: One for each caption, kept as they are: the path of a picture, or an array (height,
        width, 3) uint8. They are cropped to their central square.
      known: Which part of what is given is known; the rest is drawn. A mask for each caption, white
        where it is known: the path of a picture, or an array (height, width) of truth values.
        {'image': masks} or {'map': masks} says it of one of them, a list of all that is given.
      strength: How much of what is given is drawn anew, above 0.001 to 1: near 0 nearly nothing. A
        number for all that is given, or {'image': number, 'map': number}.
      order: 'together', 'map first', 'image first' or the share of the evaluations by which the map
        is ahead, -0.5 to 0.5; None for the setting `offset`.

      The function raises ValueError for arguments that make no sense or that the weights cannot
      serve, with a sentence that says which weights can; FileNotFoundError for missing pictures;
      and FloatingPointError where what was drawn is not finite.

    Raises:
      FileNotFoundError, ValueError: no such weights, other encoders than the model's, or no such
        setting.
    """
    weights = weights_file.load(path)
    description = weights.description
    sampling = _sampling(settings)
    encoders = load_encoders(
        description.autoencoder,
        description.text,
        autoencoder_weights=autoencoder_weights,
        text_weights=text_weights,
    )
    dtype = compute_dtype('auto', sharding.make_mesh())

    @functools.cache
    def sampler_of(task: Task, offset: float) -> Sampler:
        own = dataclasses.replace(sampling, offset=offset)
        sampler = make_sampler(
            description, own, empty_text=weights.empty_text, dtype=dtype, task=task
        )
        return jax.jit(sampler)

    # Weights that cannot be drawn with these settings are refused before the first caption.
    check_task(description, usual_task(description), sampling.offset)

    return _function(sampler_of, sampling, weights, encoders=encoders, void_wins=void_wins)


def _function(sampler_of, sampling, weights, *, encoders, void_wins):
    """What `load` returns; `sampler_of` compiles for a task and an offset."""
    description = weights.description

    def draw(
        captions: Sequence[str],
        seed: int = 0,
        maps: Sequence[Any] | None = None,
        images: Sequence[Any] | None = None,
        *,
        known: Mapping[str, Sequence[Any]] | Sequence[Any] | None = None,
        strength: Mapping[str, float] | float | None = None,
        order: str | float | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        _check(captions, seed)
        given = {
            name: values
            for name, values in (('map', maps), ('image', images))
            if values is not None
        }
        masks = given_parts.of_each(known, given, 'known')
        strengths = given_parts.of_each(strength, given, 'strength')
        given_parts.check_counts(given, masks, len(captions), description.given_map)
        task = given_parts.task(given, masks, strengths)
        solve = sampler_of(task, sampling.offset if order is None else _offset(order))
        conditions = given_parts.read(
            given,
            masks,
            description,
            encode=encoders.autoencoder.encode,
            void_wins=void_wins,
        )
        # (n, L, D)
        texts = encoders.text.encode(captions)
        keys = pair_keys(seed, first=0, count=len(captions))
        drawn = solve(weights.params, texts, keys, conditions)
        drawn = things.refined(drawn, description.categories.entries, sampling.decode)
        latents = np.asarray(drawn.latents)
        check_latents(latents, [f'caption {i}' for i in range(len(captions))], sampling.guidance)
        # (n, 256, 256, 3)
        pictures = encoders.autoencoder.decode(latents)
        return pictures, None if drawn.ids is None else np.asarray(drawn.ids)

    return draw


def _offset(order: Any) -> float:
    """The share of the evaluations by which the map is ahead of the image."""
    if isinstance(order, str) and order in _ORDERS:
        return _ORDERS[order]
    is_number = isinstance(order, int | float) and not isinstance(order, bool)
    if not is_number or not -0.5 <= order <= 0.5:
        raise ValueError(
            f"order is {order!r}; it must be 'together', 'map first', 'image first' or a number "
            'from -0.5 to 0.5.'
        )
    return float(order)


def _sampling(settings: dict[str, Any]) -> Sampling:
    """How pairs are drawn; the config's own checks refuse misspelt and impossible settings."""
    own = config.default()
    # Starting noise and clipping belong to the streams of a config.
    known = [name for name in config.sampling(own) if name in own.sample]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(
            f'config.sample has no field {unknown[0]!r} that says how a pair is drawn; the fields '
            f'are {", ".join(known)}.'
        )
    own.sample.update(settings)
    config.check(own)
    return Sampling(**config.sampling(own))


def _check(captions: Any, seed: Any) -> None:
    """Refuses what would be drawn as something else, such as the letters of one text."""
    is_list = isinstance(captions, Sequence | np.ndarray) and not isinstance(captions, str | bytes)
    if not is_list or not len(captions) or not all(isinstance(each, str) for each in captions):
        raise ValueError(f'captions is {captions!r}; it must be a list of texts.')
    is_number = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not is_number or not 0 <= seed < SEEDS:
        raise ValueError(f'seed is {seed!r}; it must be a whole number from 0 to 2^32 - 1.')
