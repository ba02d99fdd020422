"""How the TPU's MLP kernels cut their arrays, and the parameters that they read."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models.attention_layout import LANES, SUBLANES, VECTOR_MEMORY

CHUNK = 512  # hidden channels at work at a time
EPSILON = 1e-5  # of the norm, PyTorch's


class Weights(NamedTuple):
    """The parameters of a block's second half.

    Attributes:
      scale: (C,) float32, the norm's.
      shift: (C,) float32, the norm's.
      kernel1: (C, F), in the type of the computation.
      bias1: (F,) float32.
      kernel2: (F, C), likewise.
      bias2: (C,) float32.
    """

    scale: jax.Array
    shift: jax.Array
    kernel1: jax.Array
    bias1: jax.Array
    kernel2: jax.Array
    bias2: jax.Array


class Layout(NamedTuple):
    """The sizes of one kernel call; an example is worked off in one go.

    Attributes:
      batch: Examples.
      count: Tokens of each. A block hangs over their end; what lies there is undefined.
      channels: C.
      hidden: F.
      cores: Cores that share the examples.
    """

    batch: int
    count: int
    channels: int
    hidden: int
    cores: int

    @property
    def rows(self) -> int:
        """Rows of a block with all tokens."""
        return math.ceil(self.count / SUBLANES) * SUBLANES

    @property
    def whole_rows(self) -> int:
        """Rows that a product over the tokens takes, which fills whole matrix units."""
        return math.ceil(self.count / LANES) * LANES

    @property
    def examples(self) -> int:
        """Examples of a core."""
        return self.batch // self.cores

    @property
    def needed_memory(self) -> int:
        """Bytes of vector memory that the backward pass takes, which takes more than the forward.

        An example's arrays are there twice: it is computed while the next one is fetched.
        """
        weights = self.channels * self.hidden
        tokens = self.rows * self.channels
        fetched = 2 * (3 * tokens + self.rows * self.hidden)
        turned = 2 * tokens
        of_kernels = 2 * weights
        numbers = fetched + turned + 2 * weights + of_kernels  # of 16 bits
        at_work = 6 * self.rows * CHUNK
        return 2 * numbers + 4 * (of_kernels + tokens + at_work)


def layout_of(shape: tuple[int, ...], hidden: int, cores: int) -> Layout:
    """The layout for tokens of `shape` (B, T, C); cores that cannot share B evenly are not used."""
    batch, count, channels = shape
    cores = cores if batch % cores == 0 else 1
    return Layout(batch, count, channels, hidden, cores)


def examples(layout: Layout, size: int) -> pl.BlockSpec:
    """An example's tokens of `size` channels."""
    return pl.BlockSpec((1, layout.rows, size), lambda core, n: (core * layout.examples + n, 0, 0))


def whole(array: jax.Array) -> pl.BlockSpec:
    """A matrix that all examples read."""
    return pl.BlockSpec(array.shape, lambda core, n: (0, 0))


def of_core(shape: tuple[int, int]) -> pl.BlockSpec:
    """A core's matrix of (cores, *shape)."""
    return pl.BlockSpec(
        (1, *shape), lambda core, n: (core, 0, 0), pipeline_mode=pl.Buffered(buffer_count=1)
    )


def for_chunks(layout: Layout, work: Callable[[pl.Slice], None]) -> None:
    """Calls `work` with the hidden channels that are at work together, one slice after another."""
    chunks = layout.hidden // CHUNK
    # Two in a trip work at the same time; the code of all of them would take minutes to compile.
    of_trip = 2 if chunks % 2 == 0 else 1

    def trip(n, _):
        for part in range(of_trip):
            start = (n * of_trip + part) * CHUNK
            work(pl.ds(pl.multiple_of(start, CHUNK), CHUNK))

    if chunks == of_trip:
        trip(0, None)  # XLA for CPUs takes no loop of a single trip here
    else:
        jax.lax.fori_loop(0, chunks // of_trip, trip, init_val=None)


def normed(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens (rows, C) float32 with mean 0 and variance 1, and 1 / their deviations (rows, 1)."""
    mean = tokens.mean(axis=-1, keepdims=True)
    square = (tokens * tokens).mean(axis=-1, keepdims=True)
    variance = jnp.maximum(square - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    return (tokens - mean) * inverse, inverse


def compiler_settings(layout: Layout, products: list[int], moved: int) -> dict:
    """What is computed, for the compiler's schedule and our plans.

    Args:
      layout: The kernel's.
      products: For each product of tokens with a kernel, or for a kernel, the rows of an example.
      moved: Bytes of an example that are read or written.
    """
    weights = layout.channels * layout.hidden
    compiler_params = pltpu.CompilerParams(
        dimension_semantics=('parallel', 'arbitrary'),
        vmem_limit_bytes=max(VECTOR_MEMORY, layout.needed_memory),
    )
    cost_estimate = pl.CostEstimate(
        flops=2 * layout.batch * weights * sum(products),
        transcendentals=layout.batch * layout.rows * layout.hidden,
        bytes_accessed=layout.batch * moved + 2 * 2 * weights,
    )
    return {'compiler_params': compiler_params, 'cost_estimate': cost_estimate}
