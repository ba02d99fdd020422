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
    """

    shared: float
    clean_image: float
    clean_map: float


def draw(key: jax.Array, size: int, shares: Shares | None = None) -> dict[str, jax.Array]:
    """Times of a batch: one uniform time for both streams (Algorithm 1), or times of their own.

    Args:
      key: Random key.
      size: B, examples of the batch.
      shares: For a network with own times; None for one time.

    Returns:
      'image' and 'map': (B,) int32, 1..1000, and 0 for a clean stream.
    """
    # Algorithm 1 prints t = randn(1, T); a uniform integer is meant.
    time = jax.random.randint(key, (size,), 1, schedule.NUM_STEPS + 1)
    if shares is None:
        return {'image': time, 'map': time}
    map_key, kind_key = jax.random.split(key)
    map_time = jax.random.randint(map_key, (size,), 1, schedule.NUM_STEPS + 1)
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
