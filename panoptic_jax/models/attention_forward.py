"""The forward pass of the TPU's attention kernel: scores, their softmax, and the mixed values.

A unit of work is a tile of queries of one head. Scores of some units are computed ahead of the one
whose softmax runs, so that the matrix units always have something to do.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models import attention_layout
from panoptic_jax.models.attention_layout import FLOAT_SUBLANES, LANES, Layout, columns

_AHEAD = 4  # units whose scores are computed ahead of the softmax
_MOST_GROUPS = 4  # for a single trip; the code of more would take long to compile


class _Unit(NamedTuple):
    """A tile of queries of a head: its group and part within the trip, and its first channel."""

    group: int
    part: int
    head: int
    tile: slice


class _Memory(NamedTuple):
    """What the kernel reads and writes: two or three arrays, and scratch memory.

    Attributes:
      qkv: Queries, keys and values.
      mixed: The result.
      logarithms: See `forward`; None if they are not asked for.
      queries: For each part at work, (queries, channels).
      keys: For each part at work, (keys, channels).
      values: For each part at work, (channels, keys).
      scores: For each unit at work, (keys, queries of a tile).
      tops: For each unit at work, the largest score of each query, in all rows.
      groups: For each group of a trip, the result (channels, queries).
      zero: See `attention_layout.unseen_zero`.
    """

    qkv: jax.Array
    mixed: jax.Array
    logarithms: jax.Array | None
    queries: list[jax.Array]
    keys: list[jax.Array]
    values: list[jax.Array]
    scores: list[jax.Array]
    tops: list[jax.Array]
    groups: list[jax.Array]
    zero: jax.Array


def forward(
    qkv: jax.Array, layout: Layout, *, interpret: bool, with_logarithms: bool
) -> list[jax.Array]:
    """[mixed (B, asking, C)], with the binary logarithms of the softmax's sums if asked for.

    These are float32 (B, groups, heads of a group, asking and what fills the lanes): a weight is
    two to the power of its score, times log2(e), less the logarithm.
    """
    groups_of_trip = _groups_of_trip(layout)
    units = _units(layout, groups_of_trip)

    def body(qkv_ref, mixed_ref, *refs):
        *logarithms, queries, keys, values, scores, tops, groups = refs
        memory = _Memory(
            qkv_ref, mixed_ref, *(logarithms or [None]), queries, keys, values, scores, tops,
            groups, attention_layout.unseen_zero(),
        )  # fmt: skip

        def trip(i, _):
            _trip(memory, layout, units, i * groups_of_trip)

        jax.lax.fori_loop(0, layout.groups // groups_of_trip, trip, init_val=None)

    logarithms = attention_layout.logarithms_shape(layout)
    shapes = [
        jax.ShapeDtypeStruct((layout.batch, layout.asking, layout.channels), qkv.dtype),
        jax.ShapeDtypeStruct((layout.batch, *logarithms), jnp.float32),
    ]
    blocks = [
        attention_layout.block(layout.queries, layout.channels),
        attention_layout.logarithms_block(layout),
    ]
    arrays = 2 if with_logarithms else 1
    return pl.pallas_call(
        body,
        grid=(layout.batch,),
        in_specs=[attention_layout.block(layout.rows, 3 * layout.channels)],
        out_specs=blocks[:arrays],
        out_shape=shapes[:arrays],
        scratch_shapes=_scratch(layout, qkv.dtype, units),
        name='attention',
        interpret=interpret,
        **attention_layout.compiler_settings(layout, qkv.dtype.itemsize, products=2, arrays=3),
    )(qkv)


def _groups_of_trip(layout):
    """A trip's first and last units find the matrix units idle, so a trip has some heads."""
    if layout.width != LANES:
        return 1
    if layout.groups <= _MOST_GROUPS:
        return layout.groups
    return 2 if layout.groups % 2 == 0 else 1


def _units(layout, groups):
    return [
        _Unit(group, part, head, tile)
        for group in range(groups)
        for part, heads in enumerate(layout.parts, start=group * len(layout.parts))
        for tile in layout.tiles
        for head in heads
    ]


def _scratch(layout, dtype, units):
    # Parts are read when their first scores are computed, while those before are still at work.
    units_of_part = sum(unit.part == 0 for unit in units)
    parts = min(units[-1].part + 1, _AHEAD // units_of_part + 2)
    slots = min(len(units), _AHEAD + 1)
    width = layout.part_width
    return [
        [pltpu.VMEM((layout.queries, width), dtype)] * parts,
        [pltpu.VMEM((layout.keys, width), dtype)] * parts,
        [pltpu.VMEM((width, layout.keys), dtype)] * parts,
        [pltpu.VMEM((layout.keys, layout.tile_size), jnp.float32)] * slots,
        [pltpu.VMEM((FLOAT_SUBLANES, layout.tile_size), jnp.float32)] * slots,
        [pltpu.VMEM((layout.width, layout.queries), jnp.float32)] * (units[-1].group + 1),
    ]


def _trip(memory, layout, units, first_group):
    for n in range(-_AHEAD, len(units)):
        if n + _AHEAD < len(units):
            ahead = units[n + _AHEAD]
            if n + _AHEAD == 0 or ahead.part != units[n + _AHEAD - 1].part:
                _read_part(memory, layout, ahead, first_group)
            _score(memory, layout, ahead, (n + _AHEAD) % len(memory.scores))
        if n >= 0:
            slot = n % len(memory.scores)
            _mix(memory, layout, units[n], first_group=first_group, slot=slot)


def _read_part(memory, layout, unit, first_group):
    place = unit.part % len(memory.queries)

    read = functools.partial(
        attention_layout.read_part,
        memory.qkv,
        layout,
        first_group + unit.group,
        start=unit.head,
    )
    memory.queries[place][:] = read(channel=0, rows=layout.queries)
    memory.keys[place][:] = read(channel=layout.channels, rows=layout.keys)
    # What lies beyond the tokens may be NaN, which times a weight of 0 is still NaN.
    values = read(channel=2 * layout.channels, rows=layout.keys)
    memory.values[place][:] = attention_layout.zero_rows_from(layout.count, values).T


def _score(memory, layout, unit, slot):
    """Scores lie as (keys, queries), so that sums run over sublanes; they lack their scale."""
    place = unit.part % len(memory.queries)
    query = memory.queries[place][unit.tile]
    size = attention_layout.size_of(unit.tile)
    start = unit.head % layout.part_width
    query = attention_layout.of_head(query, start, layout.head)
    scores = attention_layout.dot(memory.keys[place][:], query, attention_layout.TRANSPOSED)
    sure = layout.count // FLOAT_SUBLANES * FLOAT_SUBLANES
    top = scores[:sure].max(0, keepdims=True) if sure else None
    memory.scores[slot][:sure, :size] = scores[:sure]
    if sure < layout.keys:
        # Keys beyond the tokens get no weight.
        rest = scores[sure:]
        keys = jax.lax.broadcasted_iota(jnp.int32, rest.shape, 0)
        rest = jnp.where(keys < layout.count - sure, rest, -jnp.inf)
        memory.scores[slot][sure:, :size] = rest
        top_of_rest = rest.max(0, keepdims=True)
        top = jnp.maximum(top, top_of_rest) if sure else top_of_rest
    memory.tops[slot][:, :size] = jnp.broadcast_to(top, (FLOAT_SUBLANES, size))


def _mix(memory, layout, unit, *, first_group, slot):
    scale = layout.head**-0.5 * math.log2(math.e)
    tile, size = unit.tile, attention_layout.size_of(unit.tile)
    top = memory.tops[slot][pl.ds(memory.zero, FLOAT_SUBLANES), :size][:1]
    scores = memory.scores[slot][pl.ds(memory.zero, layout.keys), :size]
    weights = jnp.exp2((scores - top) * scale)
    total = attention_layout.sum_of_rows(weights)
    values = memory.values[unit.part % len(memory.values)]
    start = unit.head % layout.part_width
    values = values[start : start + layout.head]
    weights = weights.astype(values.dtype)
    mixed = attention_layout.dot(values, weights, attention_layout.PLAIN)  # (head, queries)
    result = memory.groups[unit.group]
    result[unit.head : unit.head + layout.head, tile] = mixed / total
    group = first_group + unit.group
    if memory.logarithms is not None:
        number = unit.head // layout.head
        memory.logarithms[0, group, number : number + 1, tile] = top * scale + jnp.log2(total)
    if unit.head + layout.head == layout.width:
        of_group = columns(0, group, layout.width)
        memory.mixed[0, tile, of_group] = result[:, tile].T.astype(memory.mixed.dtype)
