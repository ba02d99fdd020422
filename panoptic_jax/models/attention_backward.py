"""The backward pass of the TPU's attention kernel.

The forward pass leaves the softmax's sums, so that weights need nothing but their scores: they are
computed as these leave the matrix units. A unit of work is a tile of queries of one head.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models import attention_layout
from panoptic_jax.models.attention_layout import (
    FLOAT_SUBLANES,
    LANES,
    PLAIN,
    TRANSPOSED,
    columns,
    dot,
    of_head,
)

# Heads at work: the products of one run while the scores of the next are computed.
_AT_WORK = 2
# Units at work: some are scored before the gradients of the scores of one are computed.
_SLOTS = 6


class _Memory(NamedTuple):
    """What the kernel reads and writes: four arrays, the result, and scratch memory.

    Attributes:
      qkv: Queries, keys and values.
      logarithms: See `attention_forward.forward`.
      gradient: The gradient of the forward pass's result.
      result: The gradients of `qkv`.
      parts: For each part at work, queries, keys, values and gradient, (rows, channels).
      turned: For each part at work, queries, keys and gradient, (channels, rows).
      tiles: For each unit at work, weights and their gradients, (keys, lanes).
      shares: For each unit at work, the sum over keys of weight * gradient, in all rows.
      weights: For each head at work, (keys, queries).
      of_scores: For each head at work, (keys, queries), the gradients of scores.
      groups: The gradients of a group's queries, keys and values, (channels, rows).
      zero: See `attention_layout.unseen_zero`.
    """

    qkv: jax.Array
    logarithms: jax.Array
    gradient: jax.Array
    result: jax.Array
    parts: list[list[jax.Array]]
    turned: list[list[jax.Array]]
    tiles: list[list[jax.Array]]
    shares: list[jax.Array]
    weights: list[jax.Array]
    of_scores: list[jax.Array]
    groups: list[jax.Array]
    zero: jax.Array


def backward(
    qkv: jax.Array,
    logarithms: jax.Array,
    gradient: jax.Array,
    *,
    num_heads: int,
    interpret: bool,
) -> jax.Array:
    """The gradient of `qkv`, from that of the result and the logarithms of the forward pass."""
    layout = attention_layout.layout_of(qkv.shape, num_heads)

    def body(*refs):
        memory = _Memory(*refs, attention_layout.unseen_zero())

        def trip(i, _):
            _trip(memory, layout, i)

        jax.lax.fori_loop(0, layout.groups, trip, init_val=None)

    rows = layout.groups, layout.heads_of_group, layout.queries
    of_qkv = attention_layout.block(layout.queries, 3 * layout.channels)
    of_mixed = attention_layout.block(layout.queries, layout.channels)
    of_logarithms = pl.BlockSpec((1, *rows), lambda example: (example, 0, 0, 0))
    return pl.pallas_call(
        body,
        grid=(layout.batch,),
        in_specs=[of_qkv, of_logarithms, of_mixed],
        out_specs=of_qkv,
        out_shape=jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
        scratch_shapes=_scratch(layout, qkv.dtype),
        name='attention_gradient',
        interpret=interpret,
        **attention_layout.compiler_settings(layout, qkv.dtype.itemsize, products=5, arrays=7),
    )(qkv, logarithms, gradient)


def _scratch(layout, dtype):
    parts = min(len(layout.parts), _AT_WORK)
    width, rows = layout.part_width, [layout.queries, layout.keys, layout.keys, layout.queries]
    queries, keys, _, gradient = rows
    scores = [pltpu.VMEM((layout.keys, layout.queries), dtype)] * _AT_WORK
    return [
        [[pltpu.VMEM((count, width), dtype) for count in rows]] * parts,
        [[pltpu.VMEM((width, count), dtype) for count in (queries, keys, gradient)]] * parts,
        [[pltpu.VMEM((layout.keys, LANES), jnp.float32)] * 2] * _SLOTS,
        [pltpu.VMEM((FLOAT_SUBLANES, LANES), jnp.float32)] * _SLOTS,
        scores,
        scores,
        [pltpu.VMEM((layout.width, count), dtype) for count in rows[:3]],
    ]


def _trip(memory, layout, group):
    """One group's heads; the scores of each are computed before the products of the one before."""
    heads = [(part, head) for part, heads in enumerate(layout.parts) for head in heads]
    units = [(part, head, tile) for part, head in heads for tile in layout.tiles]
    for n, (part, head, tile) in enumerate(units):
        if n == 0 or part != units[n - 1][0]:
            _read_part(memory, layout, group, part=part, start=head)
        _score(memory, layout, (group, part, head), tile=tile, slot=n % _SLOTS)
        if n:
            _subtract(memory, layout, units[n - 1][1:], (n - 1) % _SLOTS)
        if head and tile == layout.tiles[-1]:
            _multiply(memory, layout, *heads[head // layout.head - 1])
    _subtract(memory, layout, units[-1][1:], (len(units) - 1) % _SLOTS)
    _multiply(memory, layout, *heads[-1])
    starts = range(0, 3 * layout.channels, layout.channels)
    for start, gradients in zip(starts, memory.groups, strict=True):
        of_group = columns(start, group, layout.width)
        memory.result[0, : gradients.shape[1], of_group] = gradients[:].T


def _read_part(memory, layout, group, *, part, start):
    place = part % len(memory.parts)

    def read(array, channel, rows):
        of_part = attention_layout.read_part(
            array, layout, group, start=start, channel=channel, rows=rows
        )
        # The sums over queries and keys meet all rows, so none may be NaN.
        return attention_layout.zero_rows_from(layout.count, of_part)

    query, key, value, gradient = memory.parts[place]
    query[:] = read(memory.qkv, 0, layout.queries)
    key[:] = read(memory.qkv, layout.channels, layout.keys)
    value[:] = read(memory.qkv, 2 * layout.channels, layout.keys)
    gradient[:] = read(memory.gradient, 0, layout.queries)
    for array, turned in zip((query, key, gradient), memory.turned[place], strict=True):
        turned[:] = array[:].T


def _score(memory, layout, place, *, tile, slot):
    """A unit's weights and their gradients, as (keys, queries)."""
    group, part, head = place
    query, key, value, gradient = memory.parts[part % len(memory.parts)]
    start, tile = head % layout.part_width, slice(tile, tile + LANES)
    query, gradient = (of_head(array[tile], start, layout.head) for array in (query, gradient))
    # Queries beyond the tokens are zeros, and what the forward pass left for them may be NaN.
    lanes = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    number = head // layout.head
    logarithm = memory.logarithms[0, group, number : number + 1, tile]
    logarithm = jnp.where(lanes < layout.count - tile.start, logarithm, jnp.zeros_like(logarithm))
    scores = dot(key[:], query, TRANSPOSED)
    of_weights = dot(value[:], gradient, TRANSPOSED)
    weights = jnp.exp2(scores * (layout.head**-0.5 * math.log2(math.e)) - logarithm)
    weights = attention_layout.zero_rows_from(layout.count, weights)
    memory.weights[number % _AT_WORK][:, tile] = weights.astype(key.dtype)
    share = attention_layout.sum_of_rows(weights * of_weights)
    memory.tiles[slot][0][:], memory.tiles[slot][1][:] = weights, of_weights
    memory.shares[slot][:] = jnp.broadcast_to(share, memory.shares[slot].shape)


def _subtract(memory, layout, place, slot):
    """The gradients of a unit's scores."""
    head, tile = place
    keys = pl.ds(memory.zero, layout.keys)
    weights, of_weights = (array[keys] for array in memory.tiles[slot])
    share = memory.shares[slot][pl.ds(memory.zero, FLOAT_SUBLANES)][:1]
    of_scores = weights * (of_weights - share)
    result = memory.of_scores[head // layout.head % _AT_WORK]
    result[:, tile : tile + LANES] = of_scores.astype(result.dtype)


def _multiply(memory, layout, part, head):
    """One head's gradients, as (channels, rows): thus the longer sides are the matrix unit's."""
    at_work = head // layout.head % _AT_WORK
    start = head % layout.part_width
    turned = memory.turned[part % len(memory.turned)]
    query, key, gradient = (array[start : start + layout.head] for array in turned)
    rows = pl.ds(memory.zero, layout.keys)
    weights, of_scores = memory.weights[at_work][rows], memory.of_scores[at_work][rows]
    scale = layout.head**-0.5
    gradients = (
        dot(key, of_scores, PLAIN) * scale,
        dot(query, of_scores, TRANSPOSED) * scale,
        dot(gradient, weights, TRANSPOSED),
    )
    for array, found in zip(memory.groups, gradients, strict=True):
        array[head : head + layout.head] = found.astype(array.dtype)
