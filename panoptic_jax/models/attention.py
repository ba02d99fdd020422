"""Softmax attention over packed heads: the plain form, and a fused kernel for TPUs.

Both take the queries, keys and values of all heads as one matrix product leaves them, and give back
what the next one takes. Which form a platform gets is said in `for_devices`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec

from panoptic_jax.models.attention_in_parts import attention_in_parts, mix, packed, unpacked

Attention = Callable[[jax.Array, int], jax.Array]

_LANES = 128  # of a TPU's vector registers
_SUBLANES = 16  # of them, with 16-bit numbers
_KERNEL_MEMORY = 32 * 2**20  # bytes of a core's vector memory that the kernel may use


def einsum_attention(qkv: jax.Array, num_heads: int) -> jax.Array:
    """Plain softmax attention; the softmax and its sum are float32.

    Args:
      qkv: (B, T, 3C): queries, keys and values, each the heads side by side.
      num_heads: Divides C.

    Returns:
      (B, T, C), of the type of `qkv`.
    """
    return packed(mix(*unpacked(qkv, num_heads)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def kernel_attention(qkv: jax.Array, num_heads: int, interpret: bool = False) -> jax.Array:
    """The same in one pass per example over a TPU's vector memory: no score ever leaves it.

    The backward pass keeps nothing but `qkv`: computing the scores anew costs less than fetching
    them. Heads must fit a register's 128 lanes, see `kernel_takes`.

    Args:
      qkv: (B, T, 3C) as above; B is of one device.
      num_heads: Divides C.
      interpret: Run as plain JAX, for tests on any platform.
    """
    return _forward(qkv, num_heads, interpret)[0]


def kernel_takes(tokens: int, size: int, num_heads: int) -> bool:
    """Whether heads of `size` / `num_heads` channels pair up to 128 lanes, and tokens fit."""
    head = size // num_heads
    return _LANES % head == 0 and size % _LANES == 0 and tokens <= 1024


def cudnn_attention(qkv: jax.Array, num_heads: int) -> jax.Array:
    """The same by cuDNN's fused kernels, in bfloat16 or float16 on an NVIDIA GPU."""
    batch, count, size = qkv.shape
    query, key, value = jnp.moveaxis(qkv.reshape(batch, count, 3, num_heads, -1), 2, 0)
    mixed = jax.nn.dot_product_attention(query, key, value, implementation='cudnn')
    return mixed.reshape(batch, count, size // 3)


def for_mesh(mesh: Mesh, fused: bool = True) -> Attention:
    """The fastest form on these devices that takes the arrays at hand; the plain one fits always.

    Args:
      mesh: With axes 'data' and 'fsdp', over which batches are split.
      fused: False: the plain form everywhere.
    """
    platform = _platform(mesh)
    rows = PartitionSpec(('data', 'fsdp'))

    def attention(qkv, num_heads):
        batch, count, size = qkv.shape
        if platform == 'gpu' and qkv.dtype != jnp.float32:
            return cudnn_attention(qkv, num_heads)
        takes = kernel_takes(count, size // 3, num_heads)
        if platform == 'tpu' and takes and batch % mesh.size == 0:
            # The compiler cannot split a kernel of ours over devices by itself.
            kernel = functools.partial(kernel_attention, num_heads=num_heads)
            return jax.shard_map(kernel, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(
                qkv
            )
        if platform == 'cpu' and mesh.size == 1:
            return attention_in_parts(qkv, num_heads)
        return einsum_attention(qkv, num_heads)

    return attention if fused else einsum_attention


def _platform(mesh):
    return mesh.devices.flat[0].platform


def _forward(qkv, num_heads, interpret):
    batch, count, size = qkv.shape
    head = size // (3 * num_heads)
    rows, keys = _padded(count)

    def body(qkv_ref, mixed_ref):
        def group(i, _):
            query, key, value = (_lanes(qkv_ref, size // 3 * j, i) for j in range(3))
            key, value = key[:keys], _rows_until(count, value[:keys])
            mixed = [
                _mix(query[:, part], key[:, part], value[:, part], count) for part in _heads(head)
            ]
            mixed_ref[0, :, _slice(0, i)] = jnp.concatenate(mixed, axis=-1)

        jax.lax.fori_loop(0, size // (3 * _LANES), group, None)

    call = pl.pallas_call(
        body,
        grid=(batch,),
        in_specs=[_block(rows, size)],
        out_specs=_block(rows, size // 3),
        out_shape=jax.ShapeDtypeStruct((batch, count, size // 3), qkv.dtype),
        name='attention',
        interpret=interpret,
        **_compiler_settings(2, batch, count, size // 3, num_heads, 4 * qkv.dtype.itemsize),
    )
    return call(qkv), qkv


def _backward(num_heads, interpret, qkv, gradient):
    batch, count, size = qkv.shape
    head = size // (3 * num_heads)
    rows, keys = _padded(count)

    def body(qkv_ref, gradient_ref, out_ref):
        def group(i, _):
            packed = [_lanes(qkv_ref, size // 3 * j, i) for j in range(3)]
            operands = [_rows_until(count, x) for x in (*packed, _lanes(gradient_ref, 0, i))]
            query, key, value, of_mixed = operands
            operands = query, key[:keys], value[:keys], of_mixed
            parts = [
                _mix_gradients(*(x[:, part] for x in operands), count) for part in _heads(head)
            ]
            for j, of_heads in enumerate(zip(*parts, strict=True)):
                columns = _slice(size // 3 * j, i)
                out_ref[0, : of_heads[0].shape[0], columns] = jnp.concatenate(of_heads, axis=-1)

        jax.lax.fori_loop(0, size // (3 * _LANES), group, None)

    call = pl.pallas_call(
        body,
        grid=(batch,),
        in_specs=[_block(rows, size), _block(rows, size // 3)],
        out_specs=_block(rows, size),
        out_shape=jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
        name='attention_gradient',
        interpret=interpret,
        **_compiler_settings(5, batch, count, size // 3, num_heads, 7 * qkv.dtype.itemsize),
    )
    return (call(qkv, gradient),)


kernel_attention.defvjp(_forward, _backward)


def _mix(query, key, value, count):
    """One head's (rows, head) output. Scores lie as (keys, queries): sums run over sublanes."""
    weights, total = _weights(query, key, count)
    mixed = jax.lax.dot_general(
        value.T, weights.astype(value.dtype), _PLAIN, preferred_element_type=jnp.float32
    )
    return (mixed / total).T.astype(value.dtype)


def _mix_gradients(query, key, value, gradient, count):
    """One head's gradients of (query, key, value), (rows, head) each."""
    weights, total = _weights(query, key, count)
    weights = weights / total
    of_value = _dot(weights.astype(value.dtype), gradient, _PLAIN)
    of_weights = _dot(value, gradient, _TRANSPOSED)
    of_scores = weights * (of_weights - (weights * of_weights).sum(0, keepdims=True))
    of_scores = of_scores.astype(query.dtype)
    scale = query.shape[-1] ** -0.5
    of_key = _dot(of_scores, query * scale, _PLAIN)
    of_query = _dot(key.T, of_scores, _PLAIN).T * scale
    return tuple(x.astype(query.dtype) for x in (of_query, of_key, of_value))


def _weights(query, key, count):
    """exp(scores - max) (keys, queries), and its sum over the keys (1, queries); float32."""
    scores = _dot(key, query * query.shape[-1] ** -0.5, _TRANSPOSED)
    keys = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    scores = jnp.where(keys < count, scores, -jnp.inf)
    weights = jnp.exp(scores - scores.max(0, keepdims=True))
    return weights, weights.sum(0, keepdims=True)


_PLAIN = (((1,), (0,)), ((), ()))
_TRANSPOSED = (((1,), (1,)), ((), ()))


def _dot(left, right, dimensions):
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


def _slice(start, group):
    return pl.ds(pl.multiple_of(start + group * _LANES, _LANES), _LANES)


def _lanes(ref, start, group):
    """(rows, 128) of as many heads as fill the lanes."""
    return ref[0, :, _slice(start, group)]


def _heads(head):
    return [slice(start, start + head) for start in range(0, _LANES, head)]


def _rows_until(count, array):
    rows = jax.lax.broadcasted_iota(jnp.int32, array.shape, 0)
    return jnp.where(rows < count, array, jnp.zeros_like(array))


def _block(rows, size):
    return pl.BlockSpec((1, rows, size), lambda example: (example, 0, 0))


def _padded(count):
    """(queries, keys) that are computed: tokens fill whole registers, along lanes or sublanes.

    A block hangs over the end of the tokens; what lies there is undefined and masked.
    """
    return -(-count // _LANES) * _LANES, -(-count // _SUBLANES) * _SUBLANES


def _compiler_settings(products, batch, count, size, num_heads, bytes_per_element):
    rows, keys = _padded(count)
    return {
        'compiler_params': pltpu.CompilerParams(
            dimension_semantics=('parallel',), vmem_limit_bytes=_KERNEL_MEMORY
        ),
        'cost_estimate': pl.CostEstimate(
            flops=products * 2 * batch * rows * keys * size,
            transcendentals=batch * num_heads * rows * keys,
            bytes_accessed=batch * rows * size * bytes_per_element,
        ),
    }
