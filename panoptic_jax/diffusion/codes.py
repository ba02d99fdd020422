"""Codes of instances: eight more bits of a map that say which thing a pixel belongs to.

In training every thing of a map has a code that is drawn anew for each step, so no code means
anything but "the same thing as that pixel" (Pix2Seq-D, Chen et al. 2023). `diffusion/bits.py` has
the bits of categories, and `data/instances.py` makes numbered things of decoded codes.
"""

import jax
import jax.numpy as jnp

from panoptic_jax.diffusion import bits

_CODES = 256  # code 0: no thing
_SURE = 0.5  # the least mean agreement of a code's pixels with its bits, of 1
_TIMES = 4  # a code a bit away from one so many times larger is that code with a wrong bit


def draw(instance: jax.Array, key: jax.Array) -> jax.Array:
    """Codes of a batch of maps, without repeats within a map.

    Each code depends on the key and the map's place in the batch alone.

    Args:
      instance: (B, H, W) uint8, numbers of the things within their map; 0 for stuff, void, crowds.
      key: The step's random key for this purpose.

    Returns:
      (B, H, W) uint8: codes 1..255, the same for all pixels of a thing; 0 where `instance` is 0.
    """
    size = instance.shape[0]
    # The order of random numbers is a permutation, even where two of them are equal.
    order = jnp.argsort(jax.random.bits(key, (size, _CODES - 1)), axis=-1)  # (B, 255), 0..254
    none = jnp.zeros((size, 1), jnp.uint8)
    table = jnp.concatenate([none, (order + 1).astype(jnp.uint8)], axis=-1)  # (B, 256)
    numbers = instance.reshape(size, -1).astype(jnp.int32)
    return jnp.take_along_axis(table, numbers, axis=-1).reshape(instance.shape)


def read(values: jax.Array, is_thing: jax.Array, smallest: float) -> jax.Array:
    """Codes of generated bits, robust against wrong bits.

    One wrong bit gives a pixel another thing's code, or one that no thing has, and of codes of
    eight bits few are wholly right. So the codes of the map are found first: those that have
    `smallest` pixels of things, a block of 2 x 2 among them, which scattered errors do not form,
    and no code a bit away that has `_TIMES` as many pixels, which patches of errors have. Then each
    pixel takes the found code that correlates best with its own values and the mean of those
    around it; unsure bits count little. Beside the thresholded codes, a vote of neighbours, and the
    parts of this way alone, all of it together was best at 0.1 to 3 % of wrong bits. Weights that
    have not learned codes yet leave all bits near 0. What they say would join things at random, so
    a code whose pixels are unsure becomes 0, and connected areas are the things.

    Args:
      values: (B, H, W, 8) real numbers, not clipped.
      is_thing: (B, H, W) whether the pixel's category is a thing's; the others have no say.
      smallest: Pixels of the smallest thing.

    Returns:
      (B, H, W) uint8, 0 where `is_thing` is false. A thing's pixel may have code 0 as well: where
      the map shows a crowd, where the code is unsure, and all over a map of specks.
    """
    # One map after another: 256 correlations a pixel of a whole batch would take gigabytes.
    return jax.lax.map(lambda one: _read_map(*one, smallest), (values, is_thing))


def _read_map(values, is_thing, smallest):
    """`read` of one map: (H, W, 8), (H, W) -> (H, W)."""
    every = jnp.arange(_CODES, dtype=jnp.uint8)
    table = bits.ids_to_bits(every)  # (256, 8)
    is_found = _found(bits.bits_to_ids(values, every, 'threshold'), is_thing, table, smallest)
    weights = is_thing[..., None].astype(values.dtype)
    around = _sum_around(values * weights) / jnp.maximum(_sum_around(weights), 1)
    correlations = (values + around) @ table.T  # (H, W, 256)
    among_found = jnp.where(is_found, correlations, -jnp.inf)
    best = jnp.argmax(among_found, axis=-1).astype(jnp.uint8)
    best = jnp.where(is_thing, best, jnp.uint8(0))
    return jnp.where(_sureness(values, best)[best] >= _SURE, best, jnp.uint8(0))


def _sureness(values, code):
    """(256,) how much the pixels of each code agree with its bits, from -1 to 1."""
    own_bits = bits.ids_to_bits(code)  # (H, W, 8)
    agreement = jnp.mean(jnp.clip(values, -1, 1) * own_bits, axis=-1)  # (H, W)
    total = jnp.zeros(_CODES).at[code].add(agreement)
    return total / jnp.maximum(jnp.bincount(code.ravel(), length=_CODES), 1)


def _found(raw, is_thing, table, smallest):
    """(256,) whether a map has a code, from its thresholded codes (H, W)."""
    every = jnp.arange(_CODES, dtype=jnp.uint8)
    has_code = (raw[..., None] == every) & is_thing[..., None]  # (H, W, 256)
    area = jnp.sum(has_code, axis=(0, 1))  # (256,)
    rows = has_code[1:] & has_code[:-1]
    has_block = jnp.any(rows[:, 1:] & rows[:, :-1], axis=(0, 1))  # (256,)
    large = (area >= smallest) & has_block
    # Bits are -1 and 1, so codes that differ in one bit have the product 6.
    is_one_bit_away = table @ table.T == bits.NUM_BITS - 2  # (256, 256)
    outdoes = large & (area >= _TIMES * area[:, None]) & is_one_bit_away
    return large & ~jnp.any(outdoes, axis=-1)


def _sum_around(values):
    """(H, W, c) -> the same: sums over the 3 x 3 pixels around each pixel, inside the map."""
    return jax.lax.reduce_window(values, 0.0, jax.lax.add, (3, 3, 1), (1, 1, 1), 'SAME')
