"""Panoptic maps as analog bits (Chen et al. 2022; the paper's section 3.1), and their pooling.

A category id becomes eight numbers, -1 or +1, which Gaussian noise can act on. Void is code 0; it
is trained and generated like a category. Files and category names are in `data/`.
"""

import jax
import jax.numpy as jnp
import numpy as np

NUM_BITS = 8  # channels of a map; ids are uint8
BIT_ORDER = 'least significant first'  # of the channels; files of weights name it


def ids_to_bits(ids: jax.Array) -> jax.Array:
    """Analog bits of category ids (section 3.1; `int2bits` of Algorithm 1).

    Args:
      ids: (...) uint8.

    Returns:
      (..., NUM_BITS) float32, -1 for a zero bit and +1 for a one, least significant bit first.
    """
    # As 32-bit integers, which a TPU's compiler does not write to memory before it uses them.
    places = jnp.arange(NUM_BITS, dtype=jnp.int32)
    bits = (ids[..., None].astype(jnp.int32) >> places) & 1  # (..., NUM_BITS)
    return bits.astype(jnp.float32) * 2 - 1


def bits_to_ids(values: jax.Array, valid_codes: np.ndarray, decode: str = 'nearest') -> jax.Array:
    """Category ids of analog bits; a bit is 1 where its value is positive (section 3.1).

    Args:
      values: (..., NUM_BITS) real numbers, not clipped: clipped values tie for most invalid codes.
      valid_codes: (n,) uint8, void and the categories of the data set, ascending.
      decode: What becomes of a code outside `valid_codes`. 'nearest' takes the valid code that
        correlates best with the values; 'threshold' takes void, as the paper does. 'no_void' takes
        the category that correlates best, for void as well: where weights are unsure of a thing's
        category, the means of its bits come near to those of void.

    Returns:
      (...) uint8.

    Raises:
      ValueError: `decode` is none of them.
    """
    if decode == 'no_void':
        valid_codes = valid_codes[valid_codes > 0]
    if decode in ('nearest', 'no_void'):
        valid_codes = jnp.asarray(valid_codes, jnp.uint8)
        # The thresholded code has the largest correlation of all 256, so valid codes keep it.
        correlations = values @ ids_to_bits(valid_codes).T  # (..., n)
        return valid_codes[jnp.argmax(correlations, axis=-1)]
    if decode == 'threshold':
        weights = 1 << jnp.arange(NUM_BITS, dtype=jnp.int32)
        ids = jnp.sum((values > 0) * weights, axis=-1).astype(jnp.uint8)
        is_valid = jnp.isin(ids, jnp.asarray(valid_codes, jnp.uint8))
        return jnp.where(is_valid, ids, jnp.uint8(0))
    raise ValueError(f"decode is {decode!r}; it must be 'nearest', 'no_void' or 'threshold'.")


def min_pool(
    category: np.ndarray | jax.Array,
    instance: np.ndarray | jax.Array,
    factor: int,
    void_wins: bool = False,
) -> tuple[np.ndarray | jax.Array, np.ndarray | jax.Array]:
    """Pools a panoptic map; each window becomes the (category, instance) pair of one of its pixels.

    The smallest category id wins, so that things win over stuff (section 3.1). Among pixels of
    one category the smallest instance number wins, which is the largest thing. Void loses, and so
    does a pixel without an instance. Pooling by a and then by b equals pooling by a * b.

    Args:
      category: (..., H, W) uint8 ids, 0 = void; NumPy or JAX arrays.
      instance: (..., H, W) uint8, 0 = none.
      factor: Side of a window in pixels; it must divide H and W.
      void_wins: The paper's literal pooling, in which void, being 0, is the smallest id.

    Returns:
      The pooled category and instance, (..., H / factor, W / factor) uint8.

    Raises:
      ValueError: `factor` does not divide H and W.
    """
    height, width = category.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f'A {height}x{width} map cannot be pooled by {factor}.')
    # Subtracting 1 in uint8 turns 0 into 255, which loses; 255 is no category and so stays free.
    shift = np.uint8(0 if void_wins else 1)
    high = (category - shift).astype(np.int32)
    low = (instance - np.uint8(1)).astype(np.int32)
    pairs = (high << 8) | low
    # Rows, then columns as rows: along the last axis a TPU takes six times as long for it all.
    rows_pooled = _pool_rows(pairs, factor)  # (..., H / factor, W)
    columns = rows_pooled.swapaxes(-1, -2)
    winner = _pool_rows(columns, factor).swapaxes(-1, -2)
    high = winner >> 8
    low = winner & 255
    return high.astype(np.uint8) + shift, low.astype(np.uint8) + np.uint8(1)


def _pool_rows(values, factor):
    *batch, height, width = values.shape
    windows = values.reshape(*batch, height // factor, factor, width)
    return windows.min(axis=-2)
