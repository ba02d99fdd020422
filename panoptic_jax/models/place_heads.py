"""What places and words bring to attention: normalised queries and keys, turned by their places.

The layers that make them, and the attention that reads them, are in `models/joint_blocks.py`; the
form for TPUs is in `models/place_heads_kernel.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np

EPSILON = 1e-6  # added to mean squares before their root


def rotary_angles(side: int, head_size: int) -> np.ndarray:
    """Angles (side * side, head_size / 2) by which pairs of a head's channels turn at each place.

    Half of the pairs turn with the row, half with the column: from a few turns over the picture's
    side down to an eighth of one, geometrically. A side counts as 1 whatever its number of places.
    """
    most, least = 2 * np.pi * 2.0, 2 * np.pi / 8  # over the whole side
    pairs = head_size // 4
    over_side = np.geomspace(most, least, pairs)
    rows, columns = np.divmod(np.arange(side * side), side)
    angles = [axis[:, None] / side * over_side for axis in (rows, columns)]
    return np.concatenate(angles, axis=-1).astype(np.float32)


def rotate(heads: jax.Array, angles: np.ndarray) -> jax.Array:
    """Turns pairs of channels: (B, N, heads, D), (N, D / 2) -> (B, N, heads, D).

    The scores of two turned arrays depend on differences of angles only, hence on relative places.
    """
    cosine, sine = (
        function(angles)[:, None].astype(heads.dtype) for function in (jnp.cos, jnp.sin)
    )  # (N, 1, D / 2)
    first, second = jnp.split(heads, 2, axis=-1)
    turned = first * cosine - second * sine, first * sine + second * cosine
    return jnp.concatenate(turned, axis=-1)


def normed_heads(array: jax.Array, num_heads: int) -> jax.Array:
    """(B, T, C) -> (B, T, heads, C / heads) float32, each vector of root mean square 1."""
    heads = array.reshape(*array.shape[:2], num_heads, -1).astype(jnp.float32)
    mean_square = jnp.square(heads).mean(axis=-1, keepdims=True)
    return heads * jax.lax.rsqrt(mean_square + EPSILON)


def join_heads(places: jax.Array, words: jax.Array, gain: jax.Array) -> jax.Array:
    """Puts the queries, keys and values of places and words together, for any form of attention.

    Args:
      places: (B, N, 3C), queries, keys and values of the places of a square, each all heads side by
        side.
      words: (B, L, 2C), keys and values.
      gain: (heads,) float32. Scores of normalised queries and keys cannot grow without bounds; it
        sharpens them.

    Returns:
      (B, N + L, 3C): queries and keys of root mean square 1, those of places turned, the words'
      queries zeros. A word has no place: its key is not turned.
    """
    batch, count, width = places.shape
    size = width // 3
    num_heads = gain.shape[0]
    query, key, value = jnp.split(places, 3, axis=-1)
    word_key, word_value = jnp.split(words, 2, axis=-1)
    angles = rotary_angles(round(count**0.5), size // num_heads)
    query = rotate(normed_heads(query, num_heads) * gain[:, None], angles)
    key = rotate(normed_heads(key, num_heads), angles)
    word_key = normed_heads(word_key, num_heads)
    query, key, word_key = (
        heads.reshape(batch, -1, size).astype(places.dtype) for heads in (query, key, word_key)
    )
    of_places = jnp.concatenate([query, key, value], axis=-1)
    of_words = jnp.concatenate([jnp.zeros_like(word_key), word_key, word_value], axis=-1)
    return jnp.concatenate([of_places, of_words], axis=1)
