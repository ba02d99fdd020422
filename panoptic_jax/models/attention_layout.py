"""How the TPU's attention kernels cut tokens and heads to a core's registers."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# A vector register holds so many columns, and so many rows of 16-bit numbers.
LANES = 128
SUBLANES = 16
FLOAT_SUBLANES = 8  # rows of 32-bit numbers
# A sum of registers waits for the one before, unless it is several sums side by side.
_SUMS = 4
# Queries of a tile: a TPU v6e's matrix units have so many columns, and those of 128 columns take no
# longer for twice as many.
_TILE = 256
VECTOR_MEMORY = 64 * 2**20  # bytes that a kernel may use

# Which axes a product sums over: left @ right, and left @ right.T.
PLAIN = (((1,), (0,)), ((), ()))
TRANSPOSED = (((1,), (1,)), ((), ()))


class Layout(NamedTuple):
    """The sizes of one kernel call.

    Tokens fill whole registers, along lanes as queries or sublanes as keys. A block hangs over the
    end of the tokens; what lies there is undefined, may be NaN, and must not reach a token.

    Attributes:
      batch: Examples.
      count: Tokens of each.
      asking: Tokens that are queries, the first ones; all are keys.
      channels: All heads together.
      head: Channels of one head.
      width: Channels of a group, as few heads as fill whole registers.
      queries: Tokens that are computed along lanes.
      keys: Tokens that are computed along sublanes.
    """

    batch: int
    count: int
    asking: int
    channels: int
    head: int
    width: int
    queries: int
    keys: int

    @property
    def rows(self) -> int:
        """Rows of a block with all tokens."""
        return math.ceil(self.count / LANES) * LANES

    @property
    def groups(self) -> int:
        return self.channels // self.width

    @property
    def heads_of_group(self) -> int:
        return self.width // self.head

    @property
    def tiles(self) -> list[slice]:
        """The queries that are scored together; the last tile may have fewer than the others."""
        starts = range(0, self.queries, _TILE)
        return [slice(start, min(start + _TILE, self.queries)) for start in starts]

    @property
    def tile_size(self) -> int:
        """Queries of the largest tile."""
        return min(_TILE, self.queries)

    @property
    def parts(self) -> list[list[int]]:
        """The first channels of the heads that are read together, for each part of a group.

        Heads that share a register are told apart by zeros, which costs less than to move them.
        """
        heads = list(range(0, self.width, self.head))
        return [heads] if self.width == LANES else [[head] for head in heads]

    @property
    def part_width(self) -> int:
        return self.width if self.width == LANES else self.head


def layout_of(shape: tuple[int, ...], num_heads: int, queries: int | None) -> Layout:
    """The layout for queries, keys and values of `shape` (B, T, 3C); `queries` tokens ask."""
    batch, count, size = shape
    asking = queries or count
    head = size // 3 // num_heads
    return Layout(
        batch=batch,
        count=count,
        asking=asking,
        channels=size // 3,
        head=head,
        width=group_width(head),
        queries=math.ceil(asking / LANES) * LANES,
        keys=math.ceil(count / SUBLANES) * SUBLANES,
    )


def group_width(head: int) -> int:
    """Channels of as few heads of `head` channels as fill whole registers."""
    return math.lcm(head, LANES)


def block(rows: int, size: int) -> pl.BlockSpec:
    """One example's `rows` of `size` channels."""
    return pl.BlockSpec((1, rows, size), lambda example: (example, 0, 0))


def logarithms_shape(layout: Layout) -> tuple[int, ...]:
    """(groups, heads of a group, queries): an example's logarithms, see `attention_forward`."""
    return layout.groups, layout.heads_of_group, layout.queries


def logarithms_block(layout: Layout) -> pl.BlockSpec:
    """One example's logarithms."""
    return pl.BlockSpec((1, *logarithms_shape(layout)), lambda example: (example, 0, 0, 0))


def columns(start: int, group: jax.Array | int, width: int) -> pl.Slice:
    """The channels of a group, of queries, keys or values that begin at `start`."""
    return pl.ds(pl.multiple_of(start + group * width, LANES), width)


def read_part(
    array: jax.Array, layout: Layout, group: jax.Array | int, *, start: int, channel: int, rows: int
) -> jax.Array:
    """The rows of a part of a group's heads, from its first channel `start`.

    Args:
      array: A reference to one example's (1, T, channels).
      layout: The kernel's.
      group: The group's number.
      start: The part's first channel within the group.
      channel: Where queries, keys or values begin.
      rows: How many.
    """
    # Whole registers, and of these the part.
    first = start // LANES * LANES
    end = math.ceil((start + layout.part_width) / LANES) * LANES
    place = pl.multiple_of(channel + first + group * layout.width, LANES)
    registers = array[0, :rows, pl.ds(place, end - first)]
    return registers[:, start - first : start - first + layout.part_width]


def dot(left: jax.Array, right: jax.Array, dimensions: tuple) -> jax.Array:
    """A product of two matrices, summed in float32."""
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


def zero_rows_from(count: int, array: jax.Array) -> jax.Array:
    """`array` with zeros in its rows from `count` on; only the last registers are touched."""
    sure = count // SUBLANES * SUBLANES
    if sure >= array.shape[0]:
        return array
    rest = array[sure:]
    rows = jax.lax.broadcasted_iota(jnp.int32, rest.shape, 0)
    rest = jnp.where(rows < count - sure, rest, jnp.zeros_like(rest))
    return jnp.concatenate([array[:sure], rest], axis=0)


def sum_of_rows(array: jax.Array) -> jax.Array:
    """The sum of all rows (1, columns)."""
    rows = _SUMS * FLOAT_SUBLANES
    whole = array.shape[0] // rows * rows
    sums = [array[whole:].sum(0, keepdims=True)] if whole < array.shape[0] else []
    if whole:
        side_by_side = array[:whole].reshape(whole // rows, rows, array.shape[1]).sum(0)
        sums.append(side_by_side.sum(0, keepdims=True))
    return sum(sums)


def of_head(array: jax.Array, start: int, head: int) -> jax.Array:
    """`array` (rows, channels) with zeros in all but one head's channels.

    A product over the channels with it is that head's, with nothing moved between lanes.
    """
    if array.shape[1] == head:
        return array
    lanes = jax.lax.broadcasted_iota(jnp.int32, array.shape, 1)
    is_own = (lanes >= start) & (lanes < start + head)
    return jnp.where(is_own, array, jnp.zeros_like(array))


def size_of(tile: slice) -> int:
    """Queries of a tile."""
    return tile.stop - tile.start


def unseen_zero() -> jax.Array:
    """A multiple of a register's rows, always 0, which the compiler cannot know.

    What was stored and is loaded from there is really loaded: otherwise the compiler would keep the
    whole array in registers, of which there are too few, and move each one out and in by itself.
    """
    zero = jnp.minimum(pl.program_id(0), 0)
    return pl.multiple_of(zero * SUBLANES, SUBLANES)


def compiler_settings(layout: Layout, itemsize: int, products: int, arrays: int) -> dict:
    """What is computed, for the compiler's schedule and our plans.

    `arrays` of (B, T, C) are moved, and one of (B, asking, C).
    """
    scores = layout.batch * layout.queries * layout.keys
    tokens = arrays * layout.count + layout.asking
    # Examples are independent of each other, so a chip's cores may share them out.
    compiler_params = pltpu.CompilerParams(
        dimension_semantics=('parallel',), vmem_limit_bytes=VECTOR_MEMORY
    )
    cost_estimate = pl.CostEstimate(
        flops=products * 2 * scores * layout.channels,
        transcendentals=layout.channels // layout.head * scores,
        bytes_accessed=layout.batch * tokens * layout.channels * itemsize,
    )
    return {'compiler_params': compiler_params, 'cost_estimate': cost_estimate}
