"""Scores on held-out images during training. `scoring/preview.py` draws pairs of them."""

from collections.abc import Callable

import jax
import numpy as np

from panoptic_jax.data import loader
from panoptic_jax.machine import sharding

NAMES = ('validation/loss_image',)  # the score that every model has

Validate = Callable[[dict, jax.Array], tuple[dict[str, jax.Array], dict[str, jax.Array]]]


def scores(
    validate: Validate,
    split: loader.Split,
    *,
    batch_size: int,
    batches: int,
    seed: int,
    batch_sharding: jax.sharding.NamedSharding,
) -> dict[str, float | None]:
    """Held-out losses and caption probes per stream, on the same images and noise each time.

    Args:
      validate: (batch, key) -> {stream: () mean loss}, and {stream: (2,) sums} such as
        `probe.caption_errors` gives.
      split: Its images in order; where the batches hold more of them, the images repeat.
      batch_size: Examples of a batch over all processes.
      batches: How many.
      seed: Decides noise and times.
      batch_sharding: Where a batch lies.

    Returns:
      {'validation/loss_image': ..., 'validation/loss_map': ...}: means over the batches; and
      {'probe/caption_image': ..., 'probe/caption_map': ...}: the error with the right captions over
      that with wrong ones, below 1 where the network follows the text; None where all captions are
      the same.
    """
    share = batch_size // jax.process_count()
    losses, errors = {}, {}
    for number in range(batches):
        first = number * batch_size + jax.process_index() * share
        records = [split[(first + i) % len(split)] for i in range(share)]
        arrays = ('latents', 'moments', 'category', 'instance')
        names = [name for name in arrays if name in records[0]]
        batch = {name: np.stack([record[name] for record in records]) for name in names}
        batch['text'] = np.stack([record['texts'][0] for record in records])
        key = jax.random.fold_in(jax.random.key(seed), number)
        placed = sharding.put_batch(batch, batch_sharding)
        means, sums = validate(placed, key)
        for stream, value in means.items():
            losses[stream] = losses.get(stream, 0.0) + float(value) / batches
        for stream, pair in sums.items():
            errors[stream] = errors.get(stream, 0.0) + np.asarray(pair, np.float64)
    found: dict[str, float | None] = {f'validation/loss_{s}': value for s, value in losses.items()}
    for stream, (right, wrong) in errors.items():
        found[f'probe/caption_{stream}'] = float(right / wrong) if wrong else None
    return found
