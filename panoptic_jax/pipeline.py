"""A trained model as one Python function. `sample.py` is the offline job with restarts."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from panoptic_jax import config
from panoptic_jax.data.map_pictures import Form, of_ids, reader
from panoptic_jax.data.requests import SEEDS
from panoptic_jax.encoders.load import load_encoders
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import compute_dtype
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.sampler import Sampling, check_latents, make_sampler, pair_keys
from panoptic_jax.weights import file as weights_file


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
      A function (captions, seed=0, maps=None) -> (images (n, 256, 256, 3) uint8, maps (n, side,
      side) uint8 category ids, or None for a model without maps). A pair depends on its caption,
      its place and the seed. Another number of captions compiles anew.

      A model of given maps needs `maps`, one for each caption: the path of a picture, see
      `map_pictures.reader`, or an array (height, width) of category ids, see `map_pictures.of_ids`.

      The function raises ValueError for anything else than a list of texts, for a seed outside
      0 to 2^32 - 1, and for maps where there should be none, or none where there should be; and
      FloatingPointError where what was drawn is not finite.

    Raises:
      FileNotFoundError, ValueError: no such weights, other encoders than the model's, or no such
        setting.
    """
    params, empty_text, description = weights_file.load(path)
    sampling = _sampling(settings)
    encoders = load_encoders(
        description.autoencoder,
        description.text,
        autoencoder_weights=autoencoder_weights,
        text_weights=text_weights,
    )
    sampler = make_sampler(
        description,
        sampling,
        empty_text=empty_text,
        dtype=compute_dtype('auto', sharding.make_mesh()),
    )
    solve = jax.jit(sampler)

    def draw(
        captions: Sequence[str], seed: int = 0, maps: Sequence[Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        _check(captions, seed)
        given = _read_maps(maps, len(captions), description, void_wins)
        # (n, L, D)
        texts = encoders.text.encode(captions)
        keys = pair_keys(seed, first=0, count=len(captions))
        latents, ids = solve(params, texts, keys, given)
        latents = np.asarray(latents)
        check_latents(latents, [f'caption {i}' for i in range(len(captions))], sampling.guidance)
        # (n, 256, 256, 3)
        images = encoders.autoencoder.decode(latents)
        return images, None if ids is None else np.asarray(ids)

    return draw


def _sampling(settings: dict[str, Any]) -> Sampling:
    """How pairs are drawn; the config's own checks refuse misspelt and impossible settings."""
    own = config.default()
    known = config.sampling(own)
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


def _read_maps(
    maps: Sequence[Any] | None, count: int, description: Description, void_wins: bool
) -> np.ndarray | None:
    """(n, side, side) uint8 for a model of given maps, None for another one."""
    if not description.given_map:
        if maps is not None:
            raise ValueError('This model is given no maps; call it with captions alone.')
        return None
    if maps is None or len(maps) != count:
        there = 'none' if maps is None else len(maps)
        raise ValueError(
            f'This model needs a map for each of the {count} captions, and got {there}; give maps= '
            'a list of pictures or arrays.'
        )
    form = Form(description.categories, description.map_side, void_wins)
    read = reader(form)
    return np.stack(
        [
            of_ids(each, form) if isinstance(each, np.ndarray) else read(epath.Path(each))
            for each in maps
        ]
    )
