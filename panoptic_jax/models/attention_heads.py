"""Which heads the backward pass of the TPU's attention kernel has at work, and where they lie.

Heads that share a register are read together. Heads of other widths begin anywhere in a register,
where no loop can address them; they are staged: put one behind the other.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models import attention_layout
from panoptic_jax.models.attention_layout import LANES, Layout

# The products of one head run while the scores of the next are computed.
AT_WORK = 2


class Head(NamedTuple):
    """A head at work.

    Attributes:
      place: Its place within the trip.
      number: Its number within the group.
      part: The part of the trip that it is read with.
      start: Its first channel in that part.
    """

    place: int
    number: jax.Array | int
    part: int
    start: int


def at_work(layout: Layout) -> int:
    """Heads of a trip."""
    if layout.width == LANES:
        return layout.heads_of_group
    return AT_WORK if layout.heads_of_group % AT_WORK == 0 else 1


def of_trip(layout: Layout, trip: jax.Array | int, *, is_staged: bool) -> list[Head]:
    """The heads of a trip."""
    count = at_work(layout)
    if is_staged:
        return [Head(n, trip * count + n, part=n, start=0) for n in range(count)]
    return [Head(n, n, part=0, start=n * layout.head) for n in range(count)]


def staging(layout: Layout, dtype: jnp.dtype) -> list[Any]:
    """Scratch memory for queries, keys, values, gradient and logarithms; [] where none is needed.

    These are (heads, rows, channels), and (heads, 1, queries) float32.
    """
    if layout.width == LANES:
        return []
    heads = layout.heads_of_group
    rows = layout.queries, layout.keys, layout.keys, layout.queries
    arrays = [pltpu.VMEM((heads, count, layout.head), dtype) for count in rows]
    return [*arrays, pltpu.VMEM((heads, 1, layout.queries), jnp.float32)]


def stage(memory: Any, layout: Layout, group: jax.Array) -> None:
    """Fills the staging of `memory`, an `attention_backward._Memory`, with a group's heads."""
    *staged_parts, staged_logarithms = memory.staged
    for number in range(layout.heads_of_group):
        own = _read(memory, layout, group, number * layout.head)
        for staged, part in zip(staged_parts, own, strict=True):
            staged[number] = part
        staged_logarithms[number] = memory.logarithms[0, group, number : number + 1]


def parts(memory: Any, layout: Layout, group: jax.Array, head: Head) -> list[jax.Array]:
    """Queries, keys, values and gradient of the part that begins with a head, (rows, channels)."""
    if memory.staged:
        return [staged[head.number] for staged in memory.staged[:-1]]
    return _read(memory, layout, group, head.start)


def logarithms(memory: Any, group: jax.Array, head: Head, tile: slice) -> jax.Array:
    """A head's logarithms (1, lanes) for a tile of queries."""
    if memory.staged:
        return memory.staged[-1][head.number, :, tile]
    return memory.logarithms[0, group, head.number : head.number + 1, tile]


def _read(memory, layout, group, start):
    def read(array, channel, rows, count):
        of_part = attention_layout.read_part(
            array, layout, group, start=start, channel=channel, rows=rows
        )
        # The sums over queries and keys meet all rows, so none may be NaN.
        return attention_layout.zero_rows_from(count, of_part)

    return [
        read(memory.qkv, 0, layout.queries, layout.asking),
        read(memory.qkv, layout.channels, layout.keys, layout.count),
        read(memory.qkv, 2 * layout.channels, layout.keys, layout.count),
        read(memory.gradient, 0, layout.queries, layout.asking),
    ]
