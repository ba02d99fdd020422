"""A fused attention kernel for TPUs, in Pallas: one pass per example over its vector memory.

No score ever leaves that memory, and nothing is transposed outside of it: the kernel reads what the
layer's matrix product wrote and writes what the next one reads. The backward pass keeps nothing but
its input, since computing the scores anew costs less than fetching them. `models/forms.py` says
which arrays get the kernel.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# A vector register holds so many columns, and so many rows of 16-bit numbers.
_LANES = 128
_SUBLANES = 16
_VECTOR_MEMORY = 48 * 2**20  # bytes that the kernel may use
# Scores of all queries and keys of a head must fit into that memory.
_MOST_TOKENS = 1024

# Which axes a product sums over: left @ right, and left @ right.T.
_PLAIN = (((1,), (0,)), ((), ()))
_TRANSPOSED = (((1,), (1,)), ((), ()))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def kernel_attention(qkv: jax.Array, num_heads: int, interpret: bool = False) -> jax.Array:
    """Softmax attention, the same as `attention.einsum_attention`.

    Args:
      qkv: (B, T, 3C): queries, keys and values, each the heads side by side; B is one device's.
      num_heads: Divides C; see `kernel_takes`.
      interpret: Run as plain JAX, for tests on any platform.

    Returns:
      (B, T, C), of the type of `qkv`.
    """
    mixed, _ = _forward(qkv, num_heads, interpret)
    return mixed


def kernel_takes(tokens: int, size: int, num_heads: int) -> bool:
    """Whether some heads of `size` / `num_heads` channels fill whole registers, and tokens fit."""
    registers_are_full = size % _group_width(size // num_heads) == 0
    return registers_are_full and tokens <= _MOST_TOKENS


def _forward(qkv, num_heads, interpret):
    batch, count, size = qkv.shape
    channels = size // 3
    head = channels // num_heads
    width = _group_width(head)
    rows, keys = _padded(count)

    def body(qkv_ref, mixed_ref):
        def group(i, _):
            query, key, value = (
                qkv_ref[0, :, _columns(start, i, width)] for start in range(0, size, channels)
            )  # (rows, width) each
            # What lies beyond the tokens may be NaN, which times a weight of 0 is still NaN.
            key, value = key[:keys], _rows_until(count, value[:keys])
            of_heads = [
                _mix(query[:, h], key[:, h], value[:, h], count) for h in _heads(width, head)
            ]
            mixed_ref[0, :, _columns(0, i, width)] = jnp.concatenate(of_heads, axis=-1)

        jax.lax.fori_loop(0, channels // width, group, init_val=None)

    mixed = pl.pallas_call(
        body,
        grid=(batch,),
        in_specs=[_block(rows, size)],
        out_specs=_block(rows, channels),
        out_shape=jax.ShapeDtypeStruct((batch, count, channels), qkv.dtype),
        name='attention',
        interpret=interpret,
        **_compiler_settings(qkv, num_heads, products=2, arrays=4),
    )(qkv)
    return mixed, qkv


def _backward(num_heads, interpret, qkv, gradient):
    batch, count, size = qkv.shape
    channels = size // 3
    head = channels // num_heads
    width = _group_width(head)
    rows, keys = _padded(count)
    starts = range(0, size, channels)  # of queries, keys and values

    def body(qkv_ref, gradient_ref, out_ref):
        def group(i, _):
            # The sums over queries meet all rows here, so none may be NaN.
            def read(ref, start):
                return _rows_until(count, ref[0, :, _columns(start, i, width)])

            query, key, value = (read(qkv_ref, start) for start in starts)  # (rows, width) each
            of_mixed = read(gradient_ref, 0)
            key, value = key[:keys], value[:keys]
            of_heads = [
                _mix_gradients(
                    query[:, h], key[:, h], value[:, h], gradient=of_mixed[:, h], count=count
                )
                for h in _heads(width, head)
            ]
            of_queries_keys_values = zip(*of_heads, strict=True)
            for start, parts in zip(starts, of_queries_keys_values, strict=True):
                columns = _columns(start, i, width)
                out_ref[0, : parts[0].shape[0], columns] = jnp.concatenate(parts, axis=-1)

        jax.lax.fori_loop(0, channels // width, group, init_val=None)

    of_qkv = pl.pallas_call(
        body,
        grid=(batch,),
        in_specs=[_block(rows, size), _block(rows, channels)],
        out_specs=_block(rows, size),
        out_shape=jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
        name='attention_gradient',
        interpret=interpret,
        **_compiler_settings(qkv, num_heads, products=5, arrays=7),
    )(qkv, gradient)
    return (of_qkv,)


kernel_attention.defvjp(_forward, _backward)


def _mix(query, key, value, count):
    """One head's (queries, head). Scores lie as (keys, queries), so that sums run over sublanes."""
    weights, total = _weights(query, key, count)
    mixed = _dot(value.T, weights.astype(value.dtype), _PLAIN)  # (head, queries)
    return (mixed / total).T.astype(value.dtype)


def _mix_gradients(query, key, value, *, gradient, count):
    """One head's gradients of (query, key, value)."""
    weights, total = _weights(query, key, count)
    weights = weights / total
    of_value = _dot(weights.astype(value.dtype), gradient, _PLAIN)
    of_weights = _dot(value, gradient, _TRANSPOSED)
    total = (weights * of_weights).sum(0, keepdims=True)  # (1, queries)
    of_scores = weights * (of_weights - total)
    of_scores = of_scores.astype(query.dtype)  # (keys, queries)
    scale = query.shape[-1] ** -0.5
    of_key = _dot(of_scores, query * scale, _PLAIN)
    of_query = _dot(key.T, of_scores, _PLAIN).T * scale
    gradients = of_query, of_key, of_value
    return tuple(array.astype(query.dtype) for array in gradients)


def _weights(query, key, count):
    """exp(scores - max) (keys, queries), and its sum over the keys (1, queries); float32."""
    scores = _dot(key, query * query.shape[-1] ** -0.5, _TRANSPOSED)
    keys = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    # Keys beyond the tokens get no weight.
    scores = jnp.where(keys < count, scores, -jnp.inf)
    weights = jnp.exp(scores - scores.max(0, keepdims=True))
    total = weights.sum(0, keepdims=True)
    return weights, total


def _dot(left, right, dimensions):
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


def _group_width(head):
    """Channels of as few heads as fill whole registers."""
    return math.lcm(head, _LANES)


def _columns(start, group, width):
    return pl.ds(pl.multiple_of(start + group * width, _LANES), width)


def _heads(width, head):
    return [slice(start, start + head) for start in range(0, width, head)]


def _rows_until(count, array):
    rows = jax.lax.broadcasted_iota(jnp.int32, array.shape, 0)
    return jnp.where(rows < count, array, jnp.zeros_like(array))


def _padded(count):
    """(queries, keys) that are computed: tokens fill whole registers, along lanes or sublanes.

    A block hangs over the end of the tokens; what lies there is undefined and masked.
    """
    queries = math.ceil(count / _LANES) * _LANES
    keys = math.ceil(count / _SUBLANES) * _SUBLANES
    return queries, keys


def _block(rows, size):
    return pl.BlockSpec((1, rows, size), lambda example: (example, 0, 0))


def _compiler_settings(qkv, num_heads, products, arrays):
    """What is computed, for the compiler's schedule and our plans: `arrays` of (B, T, C) moved."""
    batch, count, size = qkv.shape
    channels = size // 3
    queries, keys = _padded(count)
    scores = batch * queries * keys
    # Examples are independent of each other, so a chip's cores may share them out.
    compiler_params = pltpu.CompilerParams(
        dimension_semantics=('parallel',), vmem_limit_bytes=_VECTOR_MEMORY
    )
    cost_estimate = pl.CostEstimate(
        flops=products * 2 * scores * channels,
        transcendentals=num_heads * scores,
        bytes_accessed=arrays * batch * queries * channels * qkv.dtype.itemsize,
    )
    return {'compiler_params': compiler_params, 'cost_estimate': cost_estimate}
