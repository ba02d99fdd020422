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

from panoptic_jax.models import attention_heads, attention_layout
from panoptic_jax.models.attention_heads import AT_WORK
from panoptic_jax.models.attention_layout import (
    FLOAT_SUBLANES,
    PLAIN,
    TRANSPOSED,
    Layout,
    columns,
    dot,
    of_head,
)

# Units at work: some are scored before the gradients of the scores of one are computed.
_SLOTS = 4


class _Memory(NamedTuple):
    """What the kernel reads and writes: four arrays, the result, and scratch memory.

    Attributes:
      qkv: Queries, keys and values.
      logarithms: See `attention_forward.forward`.
      gradient: The gradient of the forward pass's result.
      result: The gradients of `qkv`.
      parts: For each part at work, queries, keys, values and gradient, (rows, channels).
      turned: For each part at work, queries, keys and gradient, (channels, rows).
      tiles: For each unit at work, weights and their gradients, (keys, queries of a tile).
      shares: For each unit at work, the sum over keys of weight * gradient, in all rows.
      weights: For each head at work, (keys, queries).
      of_scores: For each head at work, (keys, queries), the gradients of scores.
      found: The gradients of a group's queries, keys and values, (heads, channels, rows).
      staged: See `attention_heads.staging`.
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
    found: list[jax.Array]
    staged: list[jax.Array]
    zero: jax.Array


def backward(
    qkv: jax.Array,
    logarithms: jax.Array,
    gradient: jax.Array,
    *,
    layout: Layout,
    interpret: bool,
) -> jax.Array:
    """The gradient of `qkv`, from that of the result and the logarithms of the forward pass."""

    def body(*refs):
        memory = _Memory(*refs, attention_layout.unseen_zero())

        def of_group(group, _):
            if memory.staged:
                attention_heads.stage(memory, layout, group)
                # A loop over heads: the code of all of them would take minutes to compile.
                trips = layout.heads_of_group // attention_heads.at_work(layout)
                jax.lax.fori_loop(
                    0, trips, lambda i, _: _trip(memory, layout, group, i), init_val=None
                )
            else:
                _trip(memory, layout, group, 0)
            _write(memory, layout, group)

        jax.lax.fori_loop(0, layout.groups, of_group, init_val=None)

    of_qkv = attention_layout.block(layout.rows, 3 * layout.channels)
    of_mixed = attention_layout.block(layout.queries, layout.channels)
    of_logarithms = attention_layout.logarithms_block(layout)
    return pl.pallas_call(
        body,
        grid=(layout.batch,),
        in_specs=[of_qkv, of_logarithms, of_mixed],
        out_specs=of_qkv,
        out_shape=jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
        scratch_shapes=_scratch(layout, qkv.dtype),
        name='attention_gradient',
        interpret=interpret,
        **attention_layout.compiler_settings(layout, qkv.dtype.itemsize, products=5, arrays=6),
    )(qkv, logarithms, gradient)


def _scratch(layout, dtype):
    width, heads = layout.part_width, layout.heads_of_group
    staged = attention_heads.staging(layout, dtype)
    parts = attention_heads.at_work(layout) if staged else 1
    rows = [layout.queries, layout.keys, layout.keys, layout.queries]
    queries, keys, _, gradient = rows
    scores = [pltpu.VMEM((layout.keys, layout.queries), dtype)] * AT_WORK
    return [
        [[pltpu.VMEM((count, width), dtype) for count in rows]] * parts,
        [[pltpu.VMEM((width, count), dtype) for count in (queries, keys, gradient)]] * parts,
        [[pltpu.VMEM((layout.keys, layout.tile_size), jnp.float32)] * 2] * _SLOTS,
        [pltpu.VMEM((FLOAT_SUBLANES, layout.tile_size), jnp.float32)] * _SLOTS,
        scores,
        scores,
        [pltpu.VMEM((heads, layout.head, count), dtype) for count in rows[:3]],
        staged,
    ]


def _trip(memory, layout, group, trip):
    """Some heads of a group; the scores of each are computed before the products of the last."""
    heads = attention_heads.of_trip(layout, trip, is_staged=bool(memory.staged))
    units = [(head, tile) for head in heads for tile in layout.tiles]
    for n, (head, tile) in enumerate(units):
        if tile.start == 0 and head.start == 0:
            _read_part(memory, layout, group, head)
        _score(memory, layout, group, head, tile=tile, slot=n % _SLOTS)
        if n:
            _subtract(memory, layout, *units[n - 1], slot=(n - 1) % _SLOTS)
        if head.place and tile == layout.tiles[-1]:
            _multiply(memory, layout, heads[head.place - 1])
    _subtract(memory, layout, *units[-1], slot=(len(units) - 1) % _SLOTS)
    _multiply(memory, layout, heads[-1])


def _write(memory, layout, group):
    """The gradients of a group, where its queries, keys and values lie."""
    starts = range(0, 3 * layout.channels, layout.channels)
    for start, found in zip(starts, memory.found, strict=True):
        gradients = jnp.concatenate([found[n] for n in range(layout.heads_of_group)])
        of_group = columns(start, group, layout.width)
        memory.result[0, : gradients.shape[1], of_group] = gradients.T
    # The tokens that do not ask.
    silent = layout.keys - layout.queries
    if silent > 0:
        zeros = jnp.zeros((silent, layout.width), memory.result.dtype)
        memory.result[0, layout.queries : layout.keys, columns(0, group, layout.width)] = zeros


def _read_part(memory, layout, group, head):
    parts = attention_heads.parts(memory, layout, group, head)
    arrays = memory.parts[head.part]
    for array, part in zip(arrays, parts, strict=True):
        array[:] = part
    query, key, _, gradient = arrays
    for array, turned in zip((query, key, gradient), memory.turned[head.part], strict=True):
        turned[:] = array[:].T


def _score(memory, layout, group, head, *, tile, slot):
    """A unit's weights and their gradients, as (keys, queries)."""
    query, key, value, gradient = memory.parts[head.part]
    size = attention_layout.size_of(tile)
    query, gradient = (of_head(array[tile], head.start, layout.head) for array in (query, gradient))
    # Queries beyond the tokens are zeros, and what the forward pass left for them may be NaN.
    lanes = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
    logarithm = attention_heads.logarithms(memory, group, head, tile)
    logarithm = jnp.where(lanes < layout.asking - tile.start, logarithm, jnp.zeros_like(logarithm))
    scores = dot(key[:], query, TRANSPOSED)
    of_weights = dot(value[:], gradient, TRANSPOSED)
    weights = jnp.exp2(scores * (layout.head**-0.5 * math.log2(math.e)) - logarithm)
    weights = attention_layout.zero_rows_from(layout.count, weights)
    memory.weights[head.place % AT_WORK][:, tile] = weights.astype(key.dtype)
    share = attention_layout.sum_of_rows(weights * of_weights)
    for array, values in zip(memory.tiles[slot], (weights, of_weights), strict=True):
        array[:, :size] = values
    memory.shares[slot][:, :size] = jnp.broadcast_to(share, (FLOAT_SUBLANES, size))


def _subtract(memory, layout, head, tile, *, slot):
    """The gradients of a unit's scores."""
    keys = pl.ds(memory.zero, layout.keys)
    size = attention_layout.size_of(tile)
    weights, of_weights = (array[keys, :size] for array in memory.tiles[slot])
    share = memory.shares[slot][pl.ds(memory.zero, FLOAT_SUBLANES), :size][:1]
    of_scores = weights * (of_weights - share)
    result = memory.of_scores[head.place % AT_WORK]
    result[:, tile] = of_scores.astype(result.dtype)


def _multiply(memory, layout, head):
    """One head's gradients, as (channels, rows): thus the longer sides are the matrix unit's."""
    at_work = head.place % AT_WORK
    turned = memory.turned[head.part]
    own = slice(head.start, head.start + layout.head)
    query, key, gradient = (array[own] for array in turned)
    rows = pl.ds(memory.zero, layout.keys)
    weights, of_scores = memory.weights[at_work][rows], memory.of_scores[at_work][rows]
    scale = layout.head**-0.5
    gradients = (
        dot(key, of_scores, PLAIN) * scale,
        dot(query, of_scores, TRANSPOSED) * scale,
        dot(gradient, weights, TRANSPOSED),
    )
    for found, array in zip(memory.found, gradients, strict=True):
        found[head.number] = array.astype(found.dtype)
