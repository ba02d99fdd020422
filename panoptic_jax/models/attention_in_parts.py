"""Softmax attention in plain products, and in parts whose scores a CPU's cache can hold.

The forms for other platforms are in `models/attention.py`; `models/forms.py` chooses between them.
"""

import jax
import jax.numpy as jnp

SCORES_IN_CACHE = 2**20  # numbers; a part of this size and one of half of it take the same time


def unpacked(qkv: jax.Array, num_heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(B, T, 3C) -> queries, keys and values, (B, heads, T, C / heads) each.

    Heads lead, so that the products are plain batched ones: with tokens leading, the backward pass
    took up to twice as long on CPU.
    """
    batch, count, size = qkv.shape
    head_size = size // (3 * num_heads)
    heads = qkv.reshape(batch, count, 3, num_heads, head_size)
    return tuple(heads.transpose(2, 0, 3, 1, 4))


def packed(mixed: jax.Array) -> jax.Array:
    """(B, heads, T, C / heads) -> (B, T, C)."""
    batch, heads, count, size = mixed.shape
    return mixed.swapaxes(1, 2).reshape(batch, count, heads * size)


def mix(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Softmax attention, (..., queries, D) and twice (..., T, D); sums are float32."""
    scores = jnp.einsum(
        '...qd,...kd->...qk',
        query * query.shape[-1] ** -0.5,
        key,
        preferred_element_type=jnp.float32,
    )  # (..., queries, T)
    largest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - jax.lax.stop_gradient(largest))
    # Dividing the small result instead of the large weights saves a pass over the latter.
    mixed = weights.astype(value.dtype) @ value
    total = weights.sum(-1, keepdims=True)
    return (mixed / total).astype(value.dtype)


def attention_in_parts(
    qkv: jax.Array,
    num_heads: int,
    queries: int | None = None,
    scores_in_cache: int = SCORES_IN_CACHE,
) -> jax.Array:
    """Softmax attention, a few heads at a time where the scores of all of them are too many.

    At size S, 590 tokens and batch 4 the scores are 45 MB; in parts of 3 MB attention takes a
    third of the time on a CPU core, half with gradients.

    Args:
      qkv: (B, T, 3C): queries, keys and values, each the heads side by side.
      num_heads: Divides C.
      queries: Only so many tokens, the first ones, read the others; None: all of them do.
      scores_in_cache: The most scores of a part, but at least one head's.

    Returns:
      (B, queries, C), of the type of `qkv`.
    """
    query, key, value = unpacked(qkv, num_heads)
    query = query[:, :, :queries]
    all_heads = query.shape[0] * num_heads
    fitting = max(1, scores_in_cache // (query.shape[2] * key.shape[2]))
    if all_heads <= 2 * fitting:
        return packed(mix(query, key, value))
    # Parts of equal size, since a loop's rounds have one shape.
    part = max(n for n in range(1, fitting + 1) if all_heads % n == 0)
    parts = tuple(array.reshape(-1, part, *array.shape[2:]) for array in (query, key, value))
    # Scores are computed again for the gradient: writing them out and back takes longer.
    mix_again = jax.checkpoint(mix)
    mixed = jax.lax.map(lambda arrays: mix_again(*arrays), parts)  # (parts, part, queries, D)
    return packed(mixed.reshape(query.shape))
