"""A trained model as one Python function. `sample.py` is the offline job with restarts."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from panoptic_jax import config
from panoptic_jax.encoders.load import load_encoders
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import compute_dtype
from panoptic_jax.programs.sampler import Sampling, make_sampler, pair_keys
from panoptic_jax.weights import file as weights_file


def load(
    path: str, autoencoder_weights: str = '', text_weights: str = '', **settings: Any
) -> Callable[..., tuple[np.ndarray, np.ndarray | None]]:
    """Opens an exported or imported weights file for drawing.

    Args:
      path: The file, weights.safetensors.
      autoencoder_weights: The path in `config.data.autoencoder_weights`; '' for 'pixels', which
        has no weights.
      text_weights: The path in `config.data.text_weights`; '' for 'words', which has no weights.
      **settings: Fields of `config.sample`, such as guidance and evaluations.

    Returns:
      A function (captions, seed=0) -> (images (n, 256, 256, 3) uint8, maps (n, side, side) uint8
      category ids, or None for a model without maps). A pair depends on its caption, its place and
      the seed. Another number of captions compiles anew.

    Raises:
      FileNotFoundError, ValueError: no such weights, other encoders than the model's, a model that
        needs maps given, or no such setting.
    """
    params, empty_text, description = weights_file.load(path)
    if description.given_map:
        raise ValueError(
            f'{path} needs a map beside each caption; sample from a split with --mode=sample.'
        )
    encoders = load_encoders(
        description.autoencoder,
        description.text,
        autoencoder_weights=autoencoder_weights,
        text_weights=text_weights,
    )
    # The config's own checks refuse misspelt and impossible settings.
    own = config.default()
    if unknown := sorted(set(settings) - set(own.sample)):
        raise ValueError(f'config.sample has no field {unknown[0]!r}.')
    own.sample.update(settings)
    config.check(own)
    sampler = make_sampler(
        description,
        Sampling(**config.sampling(own)),
        empty_text=empty_text,
        dtype=compute_dtype('auto', sharding.make_mesh()),
    )
    solve = jax.jit(sampler)

    def draw(captions: Sequence[str], seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        # (n, L, D)
        texts = encoders.text.encode(captions)
        latents, ids = solve(params, texts, pair_keys(seed, first=0, count=len(captions)))
        # (n, 256, 256, 3)
        images = encoders.autoencoder.decode(np.asarray(latents))
        return images, None if ids is None else np.asarray(ids)

    return draw
