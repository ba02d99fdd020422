"""The law of training times: when each stream of an example is, from 0 (clean) to 1000 (noise).

`diffusion/schedule.py` says how much noise a time stands for; the solver's times are in
`diffusion/plan.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from panoptic_jax.diffusion import schedule


@dataclasses.dataclass(frozen=True)
class Shares:
    """The examples that a model with own times is trained on, as shares of a batch.

    What is left of the batch has two independent times.

    Attributes:
      shared: One time for both streams.
      clean_image: The image is clean, which trains image -> map.
      clean_map: The map is clean, which trains map -> image.
      power: Times are this power of uniform numbers: above 1 more of them are near 0, where
        outlines are decided.
    """

    shared: float
    clean_image: float
    clean_map: float
    power: float = 1.0


def draw(key: jax.Array, size: int, shares: Shares | None = None) -> dict[str, jax.Array]:
    """Times of a batch: one uniform time for both streams (Algorithm 1), or times by shares.

    Args:
      key: Random key.
      size: B, examples of the batch.
      shares: For a network with own times; None for one time.

    Returns:
      'image' and 'map': (B,) int32, 1..1000, and 0 for a clean stream.
    """
    if shares is None:
        time = _noisy_times(key, size)
        return {'image': time, 'map': time}
    time = _noisy_times(key, size, shares.power)
    map_key, kind_key = jax.random.split(key)
    map_time = _noisy_times(map_key, size, shares.power)
    # One uniform number says which of the four kinds an example is.
    kind = jax.random.uniform(kind_key, (size,))
    image_ends = shares.shared + shares.clean_image
    is_shared = kind < shares.shared
    has_clean_image = (kind >= shares.shared) & (kind < image_ends)
    has_clean_map = (kind >= image_ends) & (kind < image_ends + shares.clean_map)
    return {
        'image': jnp.where(has_clean_image, 0, time),
        'map': jnp.where(has_clean_map, 0, jnp.where(is_shared, time, map_time)),
    }


def _noisy_times(key: jax.Array, size: int, power: float = 1.0) -> jax.Array:
    """(size,) int32, 1..1000."""
    if power == 1.0:
        # Algorithm 1 prints t = randn(1, T); a uniform integer is meant.
        return jax.random.randint(key, (size,), 1, schedule.NUM_STEPS + 1)
    share = jax.random.uniform(key, (size,)) ** power
    times = 1 + (schedule.NUM_STEPS * share).astype(jnp.int32)
    # A root of a number just below 1 rounds to 1.
    return jnp.minimum(times, schedule.NUM_STEPS)
