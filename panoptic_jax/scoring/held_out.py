"""Losses on held-out images during training. `scoring/preview.py` draws pairs of them."""

from collections.abc import Callable

import jax
import numpy as np

from panoptic_jax.data import loader
from panoptic_jax.machine import sharding


def losses(
    step_losses: Callable[[dict, jax.Array], dict[str, jax.Array]],
    split: loader.Split,
    *,
    batch_size: int,
    batches: int,
    seed: int,
    batch_sharding: jax.sharding.NamedSharding,
) -> dict[str, float]:
    """Held-out losses per stream, on the same images and noise each time.

    Args:
      step_losses: (batch, key) -> {stream: () mean loss}.
      split: Its images in order; where the batches hold more of them, the images repeat.
      batch_size: Examples of a batch over all processes.
      batches: How many.
      seed: Decides noise and times.
      batch_sharding: Where a batch lies.

    Returns:
      {'validation/loss_image': ..., 'validation/loss_map': ...}: means over the batches.
    """
    share = batch_size // jax.process_count()
    sums = {}
    for number in range(batches):
        first = number * batch_size + jax.process_index() * share
        records = [split[(first + i) % len(split)] for i in range(share)]
        arrays = ('latents', 'moments', 'category', 'instance')
        names = [name for name in arrays if name in records[0]]
        batch = {name: np.stack([record[name] for record in records]) for name in names}
        batch['text'] = np.stack([record['texts'][0] for record in records])
        key = jax.random.fold_in(jax.random.key(seed), number)
        placed = sharding.put_batch(batch, batch_sharding)
        for stream, value in step_losses(placed, key).items():
            name = f'validation/loss_{stream}'
            sums[name] = sums.get(name, 0.0) + float(value) / batches
    return sums
