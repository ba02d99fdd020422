"""From what a sampler drew to numbered things: codes are read on the device, areas on the host.

`diffusion/codes.py` reads codes, `data/instances.py` makes things of them, and of categories alone.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.data import geometry, instances
from panoptic_jax.data.categories import things_of, valid_codes
from panoptic_jax.data.example import Category
from panoptic_jax.diffusion import bits, codes
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


def refined(drawn: Drawn, categories: Sequence[Category], decode: str) -> Drawn:
    """What was drawn, its map in the size of the image: bits between pixels, then decoded.

    Borders then run where the bits of both sides weigh the same, and not along pixels of the map.
    A map that the sampler did not keep the bits of (`Sampling.refine`), such as one that was given,
    stays as it is.

    Args:
      drawn: What a sampler gave.
      categories: The list that the ids refer to.
      decode: What becomes of a code of no category, see `bits.bits_to_ids`.
    """
    if drawn.bits is None:
        return drawn
    valid = tuple(valid_codes(categories).tolist())
    ids = _enlarged_ids(drawn.bits, valid, decode)
    code_values = drawn.code_values
    if code_values is not None:
        code_values = _enlarged(code_values)
    return drawn._replace(ids=ids, code_values=code_values, bits=None)


@jax.jit
def _enlarged(values):
    batch, *_, channels = values.shape
    shape = (batch, geometry.IMAGE_SIDE, geometry.IMAGE_SIDE, channels)
    return jax.image.resize(values, shape, 'linear')


@functools.partial(jax.jit, static_argnums=(1, 2))
def _enlarged_ids(values, valid, decode):
    def of_one(one):
        return bits.bits_to_ids(_enlarged(one[None])[0], np.array(valid, np.uint8), decode)

    # One map after another: all categories of all pixels of a batch would take gigabytes.
    return jax.lax.map(of_one, values)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _read(ids, code_values, thing_ids, smallest):
    is_thing = jnp.isin(ids, jnp.array(sorted(thing_ids), jnp.uint8))
    return codes.read(code_values, is_thing, smallest)
