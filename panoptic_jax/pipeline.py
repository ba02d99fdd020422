"""A trained model as one Python function. Offline jobs with restarts are `sample.py`'s."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from panoptic_jax import config
from panoptic_jax.models.forms import compute_dtype
from panoptic_jax.programs import sampler
from panoptic_jax.sample import load_encoders
from panoptic_jax.weights import file as weights_file


def load(
    path: str, autoencoder_weights: str = '', text_weights: str = '', **settings: Any
) -> Callable[..., tuple[np.ndarray, np.ndarray | None]]:
    """Opens an exported or imported weights file for drawing.

    Args:
      path: Of weights.safetensors.
      autoencoder_weights: As config.data.autoencoder_weights; '' for 'pixels', which has none.
      text_weights: As config.data.text_weights; '' for 'words', which has none.
      **settings: Fields of config.sample, such as guidance and evaluations.

    Returns:
      A function (captions, seed=0) -> (images (n, 256, 256, 3) uint8, maps (n, side, side) uint8
      category ids, or None of a model without maps). A pair depends on its caption, its place and
      the seed. Another number of captions compiles anew.

    Raises:
      FileNotFoundError, ValueError: no such weights, other encoders than the model's, a model that
        needs maps given, or no such setting.
    """
    params, empty_text, description = weights_file.load(path)
    if description['model']['given_map']:
        raise ValueError(
            f'{path} needs a map beside each caption; sample from a split with --mode=sample.'
        )
    autoencoder, text_encoder = load_encoders(description, autoencoder_weights, text_weights)
    chosen = config.default()
    if unknown := sorted(set(settings) - set(chosen.sample)):
        raise ValueError(f'config.sample has no field {unknown[0]!r}.')
    chosen.sample.update(settings)
    config.check(chosen)
    dtype = compute_dtype('auto')
    solve = jax.jit(sampler.make_sampler(description, empty_text, chosen.sample, dtype))

    def draw(captions: Sequence[str], seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        texts = text_encoder.encode(captions)
        latents, ids = solve(params, texts, sampler.keys(seed, 0, len(captions)))
        return autoencoder.decode(np.asarray(latents)), None if ids is None else np.asarray(ids)

    return draw
