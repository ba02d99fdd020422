"""The backward pass of the TPU's MLP kernel: the gradients of tokens and, if asked for, weights.

Gradients of weights are summed over the examples in vector memory, those of the two kernels as
(channels, hidden channels): thus only arrays of C channels are transposed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models import block_layout
from panoptic_jax.models.attention_layout import PLAIN, TRANSPOSED, dot, zero_rows_from
from panoptic_jax.models.block_halves import MlpWeights
from panoptic_jax.models.block_layout import Layout, sum_of_rows
from panoptic_jax.models.gelu import gelu_and_slope


class _Memory(NamedTuple):
    """Scratch memory.

    Attributes:
      of_normed: (rows, C), the gradient of the norm's result.
      turned_normed: (C, rows), the norm's result.
      turned_gradient: (C, rows), the gradient of the MLP's result.
      of_kernel1: (C, F), summed over examples.
      of_kernel2: (C, F), likewise.
    """

    of_normed: jax.Array
    turned_normed: jax.Array
    turned_gradient: jax.Array
    of_kernel1: jax.Array
    of_kernel2: jax.Array


def backward(
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    weights: MlpWeights,
    layout: Layout,
    *,
    interpret: bool,
    with_weights: bool,
) -> tuple[jax.Array, MlpWeights | None]:
    """The gradients of tokens (B, T, C) and of weights.

    Args:
      arrays: Tokens (B, T, C), fc1's (B, T, F) of the forward pass, and the gradient (B, T, C).
      weights: Those of the forward pass, as matrices.
      layout: The kernel's.
      interpret: Run as plain JAX.
      with_weights: Whether gradients of weights are asked for.
    """
    channels = layout.channels
    widths = [channels, layout.width, channels]
    asked = weights if with_weights else ()
    shapes, blocks = block_layout.gradients(layout, arrays[0], asked)
    products = [layout.rows] * 2 + [layout.whole_rows] * (2 if with_weights else 0)
    settings = block_layout.compiler_settings(layout, products=products, widths=[*widths, channels])
    of_tokens, *of_weights = pl.pallas_call(
        functools.partial(_body, layout=layout, with_weights=with_weights),
        grid=(layout.cores, layout.examples),
        in_specs=block_layout.inputs(layout, widths, weights),
        out_specs=blocks,
        out_shape=shapes,
        scratch_shapes=_scratch(layout, arrays[0].dtype),
        name='mlp_gradient' if with_weights else 'mlp_gradient_of_tokens',
        interpret=interpret,
        **settings,
    )(*arrays, *weights)
    if not with_weights:
        return of_tokens, None
    return of_tokens, MlpWeights(*map(block_layout.sum_of_cores, of_weights))


def _scratch(layout, dtype):
    tokens = layout.rows, layout.channels
    of_kernels = pltpu.VMEM((layout.channels, layout.width), jnp.float32)
    turned = pltpu.VMEM(tokens[::-1], dtype)
    return _Memory(pltpu.VMEM(tokens, jnp.float32), turned, turned, of_kernels, of_kernels)


def _body(tokens_ref, hidden_ref, gradient_ref, *refs, layout, with_weights):
    count = len(MlpWeights._fields)
    weights, of_tokens, *refs = MlpWeights(*refs[:count]), *refs[count:]
    of_weights = MlpWeights(*refs[:count]) if with_weights else None
    memory = _Memory(*refs[-len(_Memory._fields) :])
    if with_weights:
        pl.when(pl.program_id(1) == 0)(lambda: _begin_sums(memory, of_weights))
    # What lies beyond the tokens may be NaN, which would reach every gradient of a weight.
    clean = functools.partial(zero_rows_from, layout.count)
    tokens, gradient = clean(tokens_ref[0]), clean(gradient_ref[0])
    normed, inverse = block_layout.normed(tokens.astype(jnp.float32))
    if with_weights:
        scaled = normed * weights.scale[:] + weights.shift[:]
        memory.turned_normed[:] = clean(scaled.astype(tokens.dtype)).T
        memory.turned_gradient[:] = gradient.T
        of_weights.bias2[0] += sum_of_rows(gradient)
    memory.of_normed[:] = jnp.zeros_like(memory.of_normed)

    def work(chunk):
        hidden = clean(hidden_ref[0, :, chunk]).astype(jnp.float32)
        activated, slope = gelu_and_slope(hidden)
        of_hidden = dot(gradient, weights.kernel2[chunk], TRANSPOSED) * slope
        if with_weights:
            of_weights.bias1[0, :, chunk] += sum_of_rows(of_hidden)
            activated = activated.astype(tokens.dtype)  # (rows, a chunk of F)
            memory.of_kernel2[:, chunk] += dot(memory.turned_gradient[:], activated, PLAIN)
        of_hidden = of_hidden.astype(tokens.dtype)
        memory.of_normed[:] += dot(of_hidden, weights.kernel1[:, chunk], TRANSPOSED)
        if with_weights:
            memory.of_kernel1[:, chunk] += dot(memory.turned_normed[:], of_hidden, PLAIN)

    block_layout.for_chunks(layout, work)
    of_normed = memory.of_normed[:]
    if with_weights:
        of_weights.shift[0] += sum_of_rows(of_normed)
        of_weights.scale[0] += sum_of_rows(of_normed * normed)
        pl.when(pl.program_id(1) == layout.examples - 1)(lambda: _end_sums(memory, of_weights))
    of_normed = of_normed * weights.scale[:]
    through_norm = block_layout.normed_gradient(of_normed, normed, inverse)
    of_tokens[0] = (gradient.astype(jnp.float32) + through_norm).astype(of_tokens.dtype)


def _begin_sums(memory, of_weights):
    of_vectors = of_weights.scale, of_weights.shift, of_weights.bias1, of_weights.bias2
    for sums in (memory.of_kernel1, memory.of_kernel2, *of_vectors):
        sums[:] = jnp.zeros_like(sums)


def _end_sums(memory, of_weights):
    of_weights.kernel1[0] = memory.of_kernel1[:].astype(of_weights.kernel1.dtype)
    of_weights.kernel2[0] = memory.of_kernel2[:].T.astype(of_weights.kernel2.dtype)
