"""What each platform gets: forms of the networks' heaviest parts, and the computation's type.

All forms of a part have the same values, up to rounding. The forms of attention themselves are in
`models/attention.py`, `models/attention_in_parts.py` and `models/attention_kernel.py`;
`models/form_error.py` says how far they are from the plain ones on the devices at hand.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, PartitionSpec

from panoptic_jax.machine import chips
from panoptic_jax.models.attention import (
    cudnn_attention,
    cudnn_takes,
    einsum_attention,
    saved_attention,
)
from panoptic_jax.models.attention_in_parts import attention_in_parts
from panoptic_jax.models.attention_kernel import kernel_attention, kernel_takes
from panoptic_jax.models.attention_layout import VECTOR_MEMORY
from panoptic_jax.models.block_halves import (
    mlp_weights,
    normed_product,
    product_weights,
    residual_mlp,
)
from panoptic_jax.models.gelu import gelu_computed_again
from panoptic_jax.models.mlp_kernel import kernel_mlp, mlp_takes
from panoptic_jax.models.place_heads import join_heads
from panoptic_jax.models.place_heads_kernel import join_takes, kernel_join_heads
from panoptic_jax.models.product_kernel import kernel_normed_product, product_takes
from panoptic_jax.models.product_of_rows import product_of_rows

Attention = Callable[..., jax.Array]


class Forms(NamedTuple):
    """What blocks are made of.

    Attributes:
      attention: (qkv (B, T, 3C), heads, queries) -> (B, queries, C), see
        `attention.einsum_attention`.
      product: (array (..., m), kernel (m, n)) -> (..., n).
      join_heads: See `place_heads.join_heads`.
      normed_product: See `block_halves.normed_product`.
      mlp: See `block_halves.residual_mlp`.
      in_order: array -> the same array, see `in_order`.
      remat: Whether a gradient computes what is inside a block again, in the place of keeping it.
    """

    attention: Attention
    product: Callable[[jax.Array, jax.Array], jax.Array]
    join_heads: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] = join_heads
    normed_product: Callable[..., tuple[jax.Array, jax.Array]] = normed_product
    mlp: Callable[..., jax.Array] = residual_mlp
    in_order: Callable[[jax.Array], jax.Array] = lambda array: array
    remat: bool = False

    def block(self, kind: type[nn.Module]) -> type[nn.Module]:
        """The class to make blocks of: `kind`, or with remat a class with the same parameters."""
        return nn.remat(kind) if self.remat else kind


PLAIN = Forms(attention=einsum_attention, product=jnp.matmul)


def for_mesh(mesh: Mesh, fused: bool = True, platform: str | None = None) -> Forms:
    """The fastest forms on these devices.

    Args:
      mesh: With axes 'data' and 'fsdp', over which batches are split.
      fused: False: no kernels, only what the compiler makes of plain code. So it is on a TPU v4,
        whose cores have too little vector memory for our kernels.
      platform: The platform whose forms are taken; None for that of the devices. On other devices
        a TPU's kernel is interpreted.
    """
    # Decided once; the form of attention depends on the arrays too, and waits for them.
    devices_platform = _platform(mesh)
    platform = platform or devices_platform
    interpret = platform != devices_platform
    vector_memory, cores = _tpu_core(mesh)
    if platform == 'tpu' and vector_memory < VECTOR_MEMORY:
        fused = False

    def attention(qkv, num_heads, queries=None):
        form = attention_form(qkv, num_heads, platform=platform, num_devices=mesh.size)
        if form is kernel_attention:
            kernel = functools.partial(
                form, num_heads=num_heads, queries=queries, interpret=interpret
            )
            return _over_devices(kernel, mesh, [qkv])
        return form(qkv, num_heads, queries)

    def joined(places, words, gain):
        shared_evenly = places.shape[0] % mesh.size == 0
        if platform == 'tpu' and shared_evenly and join_takes(places, words, gain.shape[0]):
            kernel = functools.partial(kernel_join_heads, interpret=interpret)
            return _over_devices(kernel, mesh, [places, words], whole=[gain])
        return join_heads(places, words, gain)

    def half_of_block(kernel, fits, weights_of, layers):
        kernel = functools.partial(kernel, cores=cores, interpret=interpret)

        def form(tokens, norm, dense, *others):
            weights = weights_of(norm, dense, *others)
            shared_evenly = tokens.shape[0] % mesh.size == 0
            if weights and shared_evenly and fits(tokens, dense.features, vector_memory):
                return _over_devices(kernel, mesh, [tokens], whole=[weights])
            return layers(tokens, norm, dense, *others)

        return form

    def ordered(tokens):
        # The compiler would gather from all devices what it is told the order of.
        if tokens.shape[0] % mesh.size:
            return tokens
        return _over_devices(in_order, mesh, [tokens])

    forms = PLAIN._replace(attention=_plain_form(platform))
    if platform == 'cpu':
        forms = forms._replace(product=product_of_rows)
    if platform == 'gpu':
        again = functools.partial(residual_mlp, activation=gelu_computed_again)
        forms = forms._replace(mlp=again, in_order=ordered)
    if not fused:
        return forms
    forms = forms._replace(attention=attention, join_heads=joined)
    if platform == 'tpu':
        forms = forms._replace(
            normed_product=half_of_block(
                kernel_normed_product, product_takes, product_weights, normed_product
            ),
            mlp=half_of_block(kernel_mlp, mlp_takes, mlp_weights, residual_mlp),
        )
    return forms


def attention_form(qkv: jax.Array, num_heads: int, *, platform: str, num_devices: int) -> Attention:
    """The platform's fastest attention that takes these arrays; a plain one takes any.

    Args:
      qkv: (B, T, 3C), of which only shape and type count.
      num_heads: Divides C.
      platform: 'cpu', 'gpu' or 'tpu'.
      num_devices: Devices over which B is split.
    """
    batch, tokens, size = qkv.shape
    if platform == 'gpu' and cudnn_takes(qkv.dtype, size // 3 // num_heads):
        return cudnn_attention
    shared_evenly = batch % num_devices == 0
    if platform == 'tpu' and shared_evenly and kernel_takes(tokens, size // 3, num_heads):
        return kernel_attention
    # Parts are a loop over examples and heads, which the compiler would not split over devices.
    if platform == 'cpu' and num_devices == 1:
        return attention_in_parts
    return _plain_form(platform)


def compute_dtype(name: str, mesh: Mesh) -> Any:
    """The type of a network's computation.

    Args:
      name: 'float32', 'bfloat16', or 'auto': bfloat16 where the mesh's devices multiply it fast,
        float32 on CPU.
      mesh: The devices that compute.
    """
    if name == 'auto':
        name = 'float32' if _platform(mesh) == 'cpu' else 'bfloat16'
    return jnp.dtype(name)


@jax.custom_vjp
def in_order(array: jax.Array) -> jax.Array:
    """The same array, whose last axis lies together in memory; its gradient does so, too.

    XLA for GPUs chooses an order for all tokens of a network by what joins them, and took one with
    the examples closest together: every product then had its input written anew.
    """
    return with_layout_constraint(array, Layout(tuple(range(array.ndim))))


def _in_order_forward(array):
    return in_order(array), None


def _in_order_gradient(_, gradient):
    return (in_order(gradient),)


in_order.defvjp(_in_order_forward, _in_order_gradient)


def _over_devices(kernel, mesh, arrays, whole=()):
    """Calls a kernel on each device's part of `arrays`, and on all of `whole`."""
    # The compiler cannot split a kernel of ours over devices by itself.
    rows = PartitionSpec(('data', 'fsdp'))
    specs = (rows,) * len(arrays) + (PartitionSpec(),) * len(whole)
    over_devices = jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
    return over_devices(*arrays, *whole)


def _tpu_core(mesh):
    """(bytes of a core's vector memory, cores of a device)."""
    device = mesh.devices.flat[0]
    if device.platform != 'tpu':
        # A device that stands for a TPU stands for this one.
        return chips.known_chip('TPU v5e').vector_memory, 1
    chip = chips.known_chip(device.device_kind)
    return (chip.vector_memory if chip else VECTOR_MEMORY), device.num_cores


def _plain_form(platform):
    return saved_attention if platform == 'tpu' else einsum_attention


def _platform(mesh):
    return mesh.devices.flat[0].platform
