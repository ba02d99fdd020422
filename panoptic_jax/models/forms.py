"""Which form of the networks' heaviest parts a platform gets; all forms have the same values."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from panoptic_jax.models.attention import cudnn_attention, einsum_attention, saved_attention
from panoptic_jax.models.attention_in_parts import attention_in_parts
from panoptic_jax.models.attention_kernel import kernel_attention, kernel_takes


class Forms(NamedTuple):
    """What blocks are made of.

    Attributes:
      attention: (qkv (B, T, 3C), heads) -> (B, T, C), see `attention.einsum_attention`.
      product: (array (..., m), kernel (m, n)) -> (..., n).
    """

    attention: Callable[[jax.Array, int], jax.Array]
    product: Callable[[jax.Array, jax.Array], jax.Array]


PLAIN = Forms(einsum_attention, jnp.matmul)


def for_mesh(mesh: Mesh, fused: bool = True) -> Forms:
    """The fastest forms on these devices that take the arrays at hand; plain ones fit always.

    Args:
      mesh: With axes 'data' and 'fsdp', over which batches are split.
      fused: False: no kernels, only what the compiler makes of plain code.
    """
    platform = _platform(mesh)
    rows = PartitionSpec(('data', 'fsdp'))
    plain = saved_attention if platform == 'tpu' else einsum_attention

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
        return plain(qkv, num_heads)

    product = product_of_rows if platform == 'cpu' else jnp.matmul
    return Forms(attention if fused else plain, product)


def compute_dtype(name: str) -> Any:
    """'auto' is bfloat16 where the platform multiplies it fast, float32 on CPU."""
    if name == 'auto':
        name = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return jnp.dtype(name)


def attention_error(mesh: Mesh, tokens: int, size: int, num_heads: int, dtype: jnp.dtype) -> float:
    """How far this mesh's attention is from the plain one, on random numbers and these devices.

    The largest difference of values and gradients, in standard deviations of the plain ones: some
    hundredths in bfloat16, 1e-5 in float32; more means a kernel that does not do its work here.
    """
    keys = jax.random.split(jax.random.key(0))
    qkv, gradient = (
        jax.random.normal(key, (mesh.size, tokens, width), dtype)
        for key, width in zip(keys, (3 * size, size), strict=True)
    )

    def both(attention):
        value, pull_back = jax.vjp(lambda x: attention(x, num_heads), qkv)
        return [array.astype(jnp.float32) for array in (value, *pull_back(gradient))]

    @jax.jit
    def worst():
        pairs = zip(both(for_mesh(mesh).attention), both(einsum_attention), strict=True)
        return jnp.stack([jnp.abs(a - b).max() / b.std() for a, b in pairs]).max()

    return float(worst())


def product_of_rows(array: jax.Array, kernel: jax.Array) -> jax.Array:
    """`array @ kernel` with all rows on one axis.

    On CPU that saves a third of a train step of size S; on TPU v5e it costs a sixteenth.
    """
    product = array.reshape(-1, array.shape[-1]) @ kernel
    return product.reshape(*array.shape[:-1], kernel.shape[-1])


def _platform(mesh):
    return mesh.devices.flat[0].platform
