"""Softmax attention over packed heads: the plain form, one for XLA on TPUs, and cuDNN's.

All forms take the queries, keys and values of all heads as one matrix product leaves them, and give
back what the next product takes. The TPU's kernel is in `models/attention_kernel.py` and the form
for CPUs in `models/attention_in_parts.py`; `models/forms.py` says which platform gets which.
"""

import functools

import jax
import jax.numpy as jnp

from panoptic_jax.models.attention_in_parts import mix, packed, unpacked

_CUDNN_CHANNELS = 128  # of a head; from Hopper on twice as many


def einsum_attention(qkv: jax.Array, num_heads: int, queries: int | None = None) -> jax.Array:
    """Plain softmax attention; the softmax and its sum are float32.

    Args:
      qkv: (B, T, 3C): queries, keys and values, each the heads side by side.
      num_heads: Divides C.
      queries: Only so many tokens, the first ones, read the others; None: all of them do.

    Returns:
      (B, queries, C), of the type of `qkv`.
    """
    query, key, value = unpacked(qkv, num_heads)
    return packed(mix(query[:, :, :queries], key, value))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def saved_attention(qkv: jax.Array, num_heads: int, queries: int | None = None) -> jax.Array:
    """The same in the form that a TPU's compiler does best: three fifths of the plain one's time.

    The weights are kept for the gradient in the type of `qkv`.
    """
    mixed, _ = _saved_forward(qkv, num_heads, queries)
    return mixed


def _split(array, count, num_heads):
    """(B, T, count * C) -> `count` arrays (B, T, heads, C / heads), nothing transposed."""
    parts = jnp.split(array, count, axis=-1)
    return [part.reshape(*part.shape[:2], num_heads, -1) for part in parts]


def _join(parts):
    """Arrays (B, T, heads, C / heads) -> (B, T, count * C)."""
    flat = [part.reshape(*part.shape[:2], -1) for part in parts]
    return jnp.concatenate(flat, axis=-1)


def _saved_forward(qkv, num_heads, queries):
    query, key, value = _split(qkv, 3, num_heads)
    query = query[:, :queries] * query.shape[-1] ** -0.5
    scores = jnp.einsum('bqhd,bkhd->bhqk', query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1).astype(qkv.dtype)  # (B, heads, queries, T)
    mixed = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
    joined = mixed.reshape(*mixed.shape[:2], -1)  # (B, queries, C)
    return joined, (qkv, weights, mixed)


def _saved_backward(num_heads, queries, saved, gradient):
    qkv, weights, mixed = saved
    query, key, value = _split(qkv, 3, num_heads)
    query = query[:, :queries]
    scale = query.shape[-1] ** -0.5
    (gradient,) = _split(gradient, 1, num_heads)
    of_value = jnp.einsum('bhqk,bqhd->bkhd', weights, gradient)
    of_weights = jnp.einsum('bqhd,bkhd->bhqk', gradient, value, preferred_element_type=jnp.float32)
    # The sum of weights * of_weights over the keys, from what is a T-th of their size.
    shares = gradient.astype(jnp.float32) * mixed.astype(jnp.float32)
    total = shares.sum(-1)  # (B, queries, heads)
    of_scores = weights.astype(jnp.float32) * (of_weights - total.swapaxes(1, 2)[..., None])
    of_scores = of_scores.astype(qkv.dtype)  # (B, heads, queries, T)
    of_query = jnp.einsum('bhqk,bkhd->bqhd', of_scores, key) * scale
    of_key = jnp.einsum('bhqk,bqhd->bkhd', of_scores, query * scale)
    silent = key.shape[1] - query.shape[1]
    of_query = jnp.pad(of_query, [(0, 0), (0, silent), (0, 0), (0, 0)])
    of_qkv = _join([of_query, of_key, of_value])
    return (of_qkv.astype(qkv.dtype),)


saved_attention.defvjp(_saved_forward, _saved_backward)


def cudnn_takes(dtype: jnp.dtype, channels: int) -> bool:
    """Whether cuDNN has kernels for this type and so many channels of a head, on any NVIDIA GPU."""
    return dtype != jnp.float32 and channels % 8 == 0 and channels <= _CUDNN_CHANNELS


def cudnn_attention(qkv: jax.Array, num_heads: int, queries: int | None = None) -> jax.Array:
    """The same by cuDNN's fused kernels, where `cudnn_takes` the arrays, on an NVIDIA GPU."""
    batch, count, size = qkv.shape
    queries = queries or count
    query, key, value = _split(qkv, 3, num_heads)  # (B, T, heads, C / heads) each
    query = query[:, :queries]
    lengths = {}
    # JAX has no gradient of cuDNN's attention for an odd number of tokens, so that one more, which
    # is told to be beyond the end, is put behind them.
    if queries % 2 or count % 2:
        query, key, value = (_even(array) for array in (query, key, value))
        lengths = {
            'query_seq_lengths': jnp.full(batch, queries, jnp.int32),
            'key_value_seq_lengths': jnp.full(batch, count, jnp.int32),
        }
    mixed = jax.nn.dot_product_attention(query, key, value, implementation='cudnn', **lengths)
    return mixed[:, :queries].reshape(batch, queries, size // 3)


def _even(array):
    """(B, T, heads, D) with a token more where T is odd."""
    return jnp.pad(array, [(0, 0), (0, array.shape[1] % 2), (0, 0), (0, 0)])
