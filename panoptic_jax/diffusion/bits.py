"""Panoptic maps as analog bits (Chen et al. 2022; the paper's section 3.1), and their pooling.

A category id becomes eight numbers, -1 or +1, which Gaussian noise can act on. Void is code 0 and
is trained and generated like any other. Works on NumPy and JAX arrays alike; files and category
names live in `data/`.
"""

import jax
import jax.numpy as jnp
import numpy as np

NUM_BITS = 8


def ids_to_bits(ids: jax.Array) -> jax.Array:
    """Analog bits of category ids.

    Args:
      ids: (...) uint8.

    Returns:
      (..., 8) float32, -1 for a zero bit and +1 for a one, least significant bit first.
    """
    bits = (ids[..., None] >> jnp.arange(NUM_BITS, dtype=jnp.uint8)) & 1
    return bits.astype(jnp.float32) * 2 - 1


def bits_to_ids(values: jax.Array, valid_codes: np.ndarray, decode: str = 'nearest') -> jax.Array:
    """Category ids of analog bits; a bit is 1 where its value is positive.

    Args:
      values: (..., 8) real numbers. Unsaturated ones: clipped values tie for most invalid codes.
      valid_codes: (n,) uint8, void and the categories of the data set, ascending.
      decode: What becomes of a code outside `valid_codes`: 'nearest' takes the valid code that
        correlates best with the values, 'threshold' void (the paper).

    Returns:
      (...) uint8.
    """
    valid_codes = jnp.asarray(valid_codes, jnp.uint8)
    if decode == 'nearest':
        # The thresholded code has the largest correlation of all 256, so valid codes keep it.
        return valid_codes[jnp.argmax(values @ ids_to_bits(valid_codes).T, axis=-1)]
    if decode == 'threshold':
        weights = 1 << jnp.arange(NUM_BITS, dtype=jnp.int32)
        ids = jnp.sum((values > 0) * weights, axis=-1).astype(jnp.uint8)
        return jnp.where(jnp.isin(ids, valid_codes), ids, jnp.uint8(0))
    raise ValueError(f"decode is {decode!r}; it must be 'nearest' or 'threshold'.")


def min_pool(
    category: np.ndarray | jax.Array,
    instance: np.ndarray | jax.Array,
    factor: int,
    void_wins: bool = False,
) -> tuple[np.ndarray | jax.Array, np.ndarray | jax.Array]:
    """Pools a panoptic map; each window becomes the (category, instance) pair of one of its pixels.

    The smallest category id wins, so that things win over stuff (section 3.1), and among pixels of
    one category the smallest instance number, which is the largest thing. Void loses, as do
    pixels without an instance. Pooling by a and then by b equals pooling by a * b.

    Args:
      category: (..., H, W) uint8 ids, 0 = void.
      instance: (..., H, W) uint8, 0 = none.
      factor: Window side; must divide H and W.
      void_wins: The paper's literal pooling, in which void, being 0, is the smallest id.

    Returns:
      The pooled category and instance, (..., H / factor, W / factor) uint8.
    """
    height, width = category.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f'A {height}x{width} map cannot be pooled by {factor}.')
    # Subtracting 1 in uint8 turns 0 into 255, which loses; 255 is no category and so stays free.
    wrap = 0 if void_wins else 1
    high = (category - np.uint8(wrap)).astype(np.int32)
    low = (instance - np.uint8(1)).astype(np.int32)
    # Rows, then columns as rows: along the last axis a TPU takes six times as long for it all.
    columns = _pool_rows((high << 8) | low, factor).swapaxes(-1, -2)
    winner = _pool_rows(columns, factor).swapaxes(-1, -2)
    low = winner & 255
    return (winner >> 8).astype(np.uint8) + np.uint8(wrap), low.astype(np.uint8) + np.uint8(1)


def _pool_rows(values, factor):
    *batch, height, width = values.shape
    return values.reshape(*batch, height // factor, factor, width).min(axis=-2)
