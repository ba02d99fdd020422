"""Softmax attention over packed heads: the plain form, cuDNN's, and which form a platform gets.

All forms take the queries, keys and values of all heads as one matrix product leaves them, and give
back what the next one takes. The TPU's kernel is `attention_kernel.py`'s, the form for CPUs
`attention_in_parts.py`'s.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from panoptic_jax.models.attention_in_parts import attention_in_parts, mix, packed, unpacked
from panoptic_jax.models.attention_kernel import kernel_attention, kernel_takes

Attention = Callable[[jax.Array, int], jax.Array]


def einsum_attention(qkv: jax.Array, num_heads: int) -> jax.Array:
    """Plain softmax attention; the softmax and its sum are float32.

    Args:
      qkv: (B, T, 3C): queries, keys and values, each the heads side by side.
      num_heads: Divides C.

    Returns:
      (B, T, C), of the type of `qkv`.
    """
    return packed(mix(*unpacked(qkv, num_heads)))


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
