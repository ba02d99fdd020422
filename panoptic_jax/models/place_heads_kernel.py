"""`place_heads.join_heads` as a TPU kernel: one pass that reads each array once and writes one.

A head of 64 channels fills half of a register, and the compiler writes whatever is computed head by
head with the other half empty, several times. Here no number leaves its lane: sums over a head and
the exchange of its halves are products with constant matrices.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models import attention_layout
from panoptic_jax.models.attention_layout import SUBLANES
from panoptic_jax.models.place_heads import EPSILON, rotary_angles


class _Constants(NamedTuple):
    """What the kernels read besides their arrays, for a group of heads that fills its registers.

    Attributes:
      cosine: (N, width) float32.
      sine: (N, width) float32, negative in the first half of each head.
      together: (width, width), sums over each head.
      exchanged: (width, width), exchanges the halves of each head.
    """

    cosine: np.ndarray
    sine: np.ndarray
    together: np.ndarray
    exchanged: np.ndarray


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def kernel_join_heads(
    places: jax.Array, words: jax.Array, gain: jax.Array, interpret: bool = False
) -> jax.Array:
    """The same as `place_heads.join_heads`; B is one device's.

    Args:
      places: (B, N, 3C); see `join_takes`.
      words: (B, L, 2C).
      gain: (heads,).
      interpret: Run as plain JAX, for tests on any platform.

    Returns:
      (B, N + L, 3C).
    """
    batch, count, width = places.shape
    shape = jax.ShapeDtypeStruct((batch, count + words.shape[1], width), places.dtype)
    (joined,) = _call(
        _forward_body,
        [places, words],
        gain,
        outputs=[shape],
        interpret=interpret,
        name='join_heads',
    )
    return joined


def join_takes(places: jax.Array, words: jax.Array, num_heads: int) -> bool:
    """Whether heads and places fill whole registers, and all of an example fits into the memory."""
    _, count, size = places.shape
    head = size // 3 // num_heads
    width = attention_layout.group_width(head)
    registers_are_full = size // 3 % width == 0 and count % SUBLANES == 0
    # The backward pass holds places and words, their gradients, and the gradient of the result.
    joined = (count + words.shape[1]) * size
    values = 2 * math.prod(places.shape[1:]) + 2 * math.prod(words.shape[1:]) + joined
    constants = 2 * width * width * places.dtype.itemsize + 2 * count * width * 4
    # An example is computed while the next one is read; the other half is for what is computed.
    needed = 2 * (values * places.dtype.itemsize + constants)
    return registers_are_full and needed <= attention_layout.VECTOR_MEMORY // 2


def _forward(places, words, gain, interpret):
    return kernel_join_heads(places, words, gain, interpret), (places, words, gain)


def _backward(interpret, saved, gradient):
    places, words, gain = saved
    batch, _, width = places.shape
    of_gains = jax.ShapeDtypeStruct((batch, 1, 2 * width // 3), jnp.float32)
    of_places, of_words, of_gains = _call(
        _backward_body,
        [places, words, gradient],
        gain,
        outputs=[places, words, of_gains],
        interpret=interpret,
        name='join_heads_gradient',
    )
    of_queries = of_gains[:, :, : width // 3].reshape(batch, gain.shape[0], -1)
    of_gain = of_queries.sum(axis=(0, 2))  # (heads,)
    return of_places, of_words, of_gain


kernel_join_heads.defvjp(_forward, _backward)


def _call(body, inputs, gain, *, outputs, interpret, name):
    """Runs a body for each example, with the constants of these places after its inputs."""
    batch, count, width = inputs[0].shape
    size, num_heads = width // 3, gain.shape[0]
    # Keys have no gain: theirs is 1.
    gains = jnp.concatenate([jnp.repeat(gain, size // num_heads), jnp.ones(size)])[None]  # (1, 2C)
    constants = [gains, *_constants(count, size // num_heads, inputs[0].dtype)]
    moved = sum(np.prod(array.shape) * array.dtype.itemsize for array in (*inputs, *outputs))
    products = 4 * 2 * batch * count * 2 * size * constants[-1].shape[0]
    return pl.pallas_call(
        functools.partial(body, head=size // num_heads),
        grid=(batch,),
        in_specs=[
            *(attention_layout.block(*array.shape[1:]) for array in inputs),
            *(pl.BlockSpec(array.shape, lambda example: (0, 0)) for array in constants),
        ],
        out_specs=[attention_layout.block(*array.shape[1:]) for array in outputs],
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in outputs],
        name=name,
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=('parallel',), vmem_limit_bytes=attention_layout.VECTOR_MEMORY
        ),
        cost_estimate=pl.CostEstimate(
            flops=int(products), transcendentals=0, bytes_accessed=int(moved)
        ),
    )(*inputs, *constants)


def _constants(count, head, dtype):
    width = attention_layout.group_width(head)
    angles = np.tile(rotary_angles(round(count**0.5), head), 2 * width // head)  # (N, width)
    channels = np.arange(width)
    is_first = channels % head < head // 2
    partners = channels + np.where(is_first, head // 2, -(head // 2))
    heads = channels // head
    return _Constants(
        cosine=np.cos(angles),
        sine=np.where(is_first, -1, 1).astype(np.float32) * np.sin(angles),
        together=jnp.asarray(heads[:, None] == heads, dtype),
        exchanged=jnp.asarray(channels[:, None] == partners, dtype),
    )


def _product(array, matrix):
    """(rows, width) float32 times a constant matrix, in the type of the computation."""
    exact = jax.lax.Precision.HIGHEST if matrix.dtype == jnp.float32 else None
    array = array.astype(matrix.dtype)
    return jnp.dot(array, matrix, precision=exact, preferred_element_type=jnp.float32)


def _inverse_root(array, together, head):
    """1 / the root mean square of each head, in all of its lanes."""
    return jax.lax.rsqrt(_product(array * array, together) / head + EPSILON)


def _forward_body(places, words, gains, *refs, head):
    *constants, joined = refs
    constants = _Constants(*(ref[:] for ref in constants))
    count, size = places.shape[1], places.shape[2] // 3
    width = constants.cosine.shape[1]
    for start in range(0, 2 * size, width):  # queries, then keys
        own = slice(start, start + width)
        array = places[0, :, own].astype(jnp.float32)  # (N, width)
        exchanged = _product(array, constants.exchanged)
        turned = array * constants.cosine + exchanged * constants.sine
        normed = turned * _inverse_root(array, constants.together, head)
        joined[0, :count, own] = (normed * gains[:, own]).astype(joined.dtype)
    for start in range(0, size, width):
        array = words[0, :, start : start + width].astype(jnp.float32)  # (L, width)
        normed = array * _inverse_root(array, constants.together, head)
        joined[0, count:, size + start : size + start + width] = normed.astype(joined.dtype)
    joined[0, count:, :size] = jnp.zeros((words.shape[1], size), joined.dtype)
    joined[0, :count, 2 * size :] = places[0, :, 2 * size :]
    joined[0, count:, 2 * size :] = words[0, :, size:]


def _backward_body(places, words, gradient, gains, *refs, head):
    *constants, of_places, of_words, of_gains = refs
    constants = _Constants(*(ref[:] for ref in constants))
    count, size = places.shape[1], places.shape[2] // 3
    width = constants.cosine.shape[1]

    def of_normed(array, back, inverse):
        """The gradient of an array from that of the same with heads of root mean square 1."""
        agreement = _product(array * back, constants.together) / head
        return inverse * (back - array * agreement * inverse * inverse)

    for start in range(0, 2 * size, width):  # queries, then keys
        own = slice(start, start + width)
        array = places[0, :, own].astype(jnp.float32)  # (N, width)
        back = gradient[0, :count, own].astype(jnp.float32)
        # The turn the other way round; exchanging halves is its own inverse.
        back = back * constants.cosine + _product(back * constants.sine, constants.exchanged)
        inverse = _inverse_root(array, constants.together, head)
        of_gains[0, :, own] = (back * array * inverse).sum(axis=0, keepdims=True)
        of_places[0, :, own] = of_normed(array, back * gains[:, own], inverse).astype(
            of_places.dtype
        )
    for start in range(0, size, width):
        own = slice(start, start + width)
        array = words[0, :, own].astype(jnp.float32)  # (L, width)
        back = gradient[0, count:, size + start : size + start + width].astype(jnp.float32)
        inverse = _inverse_root(array, constants.together, head)
        of_words[0, :, own] = of_normed(array, back, inverse).astype(of_words.dtype)
    of_places[0, :, 2 * size :] = gradient[0, :count, 2 * size :]
    of_words[0, :, size:] = gradient[0, count:, 2 * size :]
