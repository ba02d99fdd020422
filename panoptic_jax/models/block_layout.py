"""How the TPU's kernels of a U-ViT block cut their arrays, and the layer norm that both begin with.

The kernels themselves are in `models/mlp_kernel.py` and `models/product_kernel.py`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models.attention_layout import LANES, SUBLANES, VECTOR_MEMORY
from panoptic_jax.models.layers import LAYER_NORM_EPSILON

_CHUNKS = 512, 384, 256, 128  # channels at work at a time, of the wider side of a kernel
# Share of the vector memory that a kernel may take: the compiler keeps other arrays there, and
# refused size H's MLP on a TPU v5e, with 111 of 128 MiB, where a single layer had compiled.
_MEMORY_SHARE = 0.55


class Layout(NamedTuple):
    """The sizes of one kernel call; an example is worked off in one go.

    Attributes:
      batch: Examples.
      count: Tokens of each. A block hangs over their end; what lies there is undefined.
      channels: C, of the tokens.
      width: F, channels of what the norm's result is multiplied to.
      kernels: Matrices (C, F) that are multiplied with.
      cores: Cores that share the examples.
    """

    batch: int
    count: int
    channels: int
    width: int
    kernels: int
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
    def chunk(self) -> int:
        """Channels of F that are at work at a time."""
        return next(size for size in _CHUNKS if self.width % size == 0)

    @property
    def needed_memory(self) -> int:
        """Bytes of vector memory that the backward pass takes, which takes more than the forward.

        An example's arrays are there twice: it is computed while the next one is fetched.
        """
        kernels = self.kernels * self.channels * self.width
        tokens = self.rows * self.channels
        fetched = 2 * (3 * tokens + self.rows * self.width)
        turned = 2 * tokens
        # Of 16 bits, and of 32.
        numbers = fetched + turned + 2 * kernels
        sums = kernels + tokens + 6 * self.rows * self.chunk
        return 2 * numbers + 4 * sums


def layout_of(shape: tuple[int, ...], width: int, kernels: int, cores: int) -> Layout:
    """The layout for tokens of `shape` (B, T, C); cores that cannot share B evenly are not used."""
    batch, count, channels = shape
    cores = cores if batch % cores == 0 else 1
    return Layout(batch, count, channels, width, kernels, cores)


def fits(tokens: jax.Array, width: int, kernels: int, vector_memory: int) -> bool:
    """Whether tokens fill whole registers, of 16-bit numbers, and a core's memory holds an example.

    Args:
      tokens: (B, T, C), of which only shape and type count.
      width: F.
      kernels: Matrices (C, F).
      vector_memory: Bytes of the memory.
    """
    registers_are_full = tokens.shape[2] % LANES == 0 and width % LANES == 0
    if tokens.dtype != jnp.bfloat16 or not registers_are_full:
        return False
    needed = layout_of(tokens.shape, width, kernels, cores=1).needed_memory
    return needed <= _MEMORY_SHARE * vector_memory


def examples(layout: Layout, size: int) -> pl.BlockSpec:
    """An example's tokens of `size` channels."""
    return pl.BlockSpec((1, layout.rows, size), lambda core, n: (core * layout.examples + n, 0, 0))


def inputs(layout: Layout, widths: list[int], weights: tuple[jax.Array, ...]) -> list[pl.BlockSpec]:
    """What a kernel reads: an example of each array (B, T, width), and the weights' matrices."""
    of_examples = [examples(layout, width) for width in widths]
    return of_examples + [pl.BlockSpec(array.shape, lambda core, n: (0, 0)) for array in weights]


def gradients(
    layout: Layout, tokens: jax.Array, weights: tuple[jax.Array, ...]
) -> tuple[list[jax.ShapeDtypeStruct], list[pl.BlockSpec]]:
    """What a backward pass writes: tokens' gradients, and those of `weights`, which may be none.

    The weights' gradients are sums over a core's examples, (cores, *matrix); see `sum_of_cores`.
    """
    shapes = [jax.ShapeDtypeStruct(tokens.shape, tokens.dtype)]
    blocks = [examples(layout, layout.channels)]
    # A second buffer would hold nothing: the place does not change until the core is done.
    buffer = pl.Buffered(1)
    for array in weights:
        shapes.append(jax.ShapeDtypeStruct((layout.cores, *array.shape), array.dtype))
        shape = 1, *array.shape
        blocks.append(pl.BlockSpec(shape, lambda core, n: (core, 0, 0), pipeline_mode=buffer))
    return shapes, blocks


def sum_of_cores(array: jax.Array) -> jax.Array:
    """(cores, *matrix) -> matrix."""
    if array.shape[0] == 1:
        return array[0]
    return array.sum(axis=0, dtype=jnp.float32).astype(array.dtype)


def for_chunks(layout: Layout, work: Callable[[pl.Slice], None]) -> None:
    """Calls `work` with the channels (of F) that are at work together, a slice after another."""
    chunks = layout.width // layout.chunk
    # Those of a trip work at the same time; the code of all of them would take minutes to compile.
    of_trip = next(count for count in (2, 3, 1) if chunks % count == 0)

    def trip(n, _):
        for part in range(of_trip):
            start = (n * of_trip + part) * layout.chunk
            work(pl.ds(pl.multiple_of(start, layout.chunk), layout.chunk))

    if chunks == of_trip:
        trip(0, _=None)  # XLA for CPUs takes no loop of a single trip here
    else:
        jax.lax.fori_loop(0, chunks // of_trip, trip, init_val=None)


def normed(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens (rows, C) float32 with mean 0 and variance 1, and 1 / their deviations (rows, 1)."""
    mean = tokens.mean(axis=-1, keepdims=True)
    square = (tokens * tokens).mean(axis=-1, keepdims=True)
    variance = jnp.maximum(square - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    return (tokens - mean) * inverse, inverse


def normed_gradient(gradient: jax.Array, normed: jax.Array, inverse: jax.Array) -> jax.Array:
    """The gradient of tokens (rows, C) from that of `normed`, both float32."""
    common = gradient.mean(axis=-1, keepdims=True)
    along = (gradient * normed).mean(axis=-1, keepdims=True)
    return (gradient - common - normed * along) * inverse


def sum_of_rows(array: jax.Array) -> jax.Array:
    """(rows, columns) -> (1, columns) float32."""
    return array.astype(jnp.float32).sum(axis=0, keepdims=True)


def compiler_settings(layout: Layout, *, products: list[int], widths: list[int]) -> dict:
    """What is computed, for the compiler's schedule and our plans.

    Args:
      layout: The kernel's.
      products: For each product with or of a matrix (C, F), the rows of an example.
      widths: Channels of each array (B, T, channels) that is read or written.
    """
    kernel = layout.channels * layout.width
    compiler_params = pltpu.CompilerParams(
        dimension_semantics=('parallel', 'arbitrary'),
        vmem_limit_bytes=max(VECTOR_MEMORY, layout.needed_memory),
    )
    numbers = layout.batch * layout.rows * sum(widths) + layout.kernels * kernel
    cost_estimate = pl.CostEstimate(
        flops=2 * layout.batch * kernel * sum(products),
        transcendentals=layout.batch * layout.rows * layout.width,
        bytes_accessed=2 * numbers,
    )
    return {'compiler_params': compiler_params, 'cost_estimate': cost_estimate}
