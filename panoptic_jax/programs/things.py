"""From what a sampler drew to numbered things: codes are read on the device, areas on the host.

`diffusion/codes.py` reads codes, `data/instances.py` makes things of them, and of categories alone.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.data import instances
from panoptic_jax.data.categories import things_of
from panoptic_jax.data.example import Category
from panoptic_jax.diffusion import codes
from panoptic_jax.programs.sampler import Drawn


def of_drawn(
    drawn: Drawn, categories: Sequence[Category], *, min_area: float
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The maps of a batch without segments that are too small, and the numbers of their things.

    Args:
      drawn: What a sampler gave.
      categories: The list that the ids refer to.
      min_area: The smallest segment, as a share of the map's pixels; 0 leaves maps as they are, as
        maps that were given should be left.

    Returns:
      ids (B, H, W) uint8 and instances (B, H, W) uint16, see `instances.separate`; None for both
      where the model has no maps.
    """
    if drawn.ids is None:
        return None, None
    thing_ids = things_of(categories)
    own_codes = None
    if drawn.code_values is not None:
        smallest = min_area * drawn.ids.shape[1] * drawn.ids.shape[2]
        own_codes = np.asarray(_read(drawn.ids, drawn.code_values, thing_ids, smallest))
    return instances.of_batch(
        np.asarray(drawn.ids), codes=own_codes, thing_ids=thing_ids, min_area=min_area
    )


@functools.partial(jax.jit, static_argnums=(2, 3))
def _read(ids, code_values, thing_ids, smallest):
    is_thing = jnp.isin(ids, jnp.array(sorted(thing_ids), jnp.uint8))
    return codes.read(code_values, is_thing, smallest)
