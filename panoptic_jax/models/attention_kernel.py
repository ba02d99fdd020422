"""A fused attention kernel for TPUs, in Pallas: one pass per example over its vector memory.

No score ever leaves that memory, and nothing is transposed outside of it: the kernel reads what the
layer's matrix product wrote and writes what the next one reads. The backward pass keeps its input
and a number for each query and head; computing the scores anew costs less than fetching them.
`models/forms.py` says which arrays get the kernel.
"""

import functools

import jax

from panoptic_jax.models import attention_layout
from panoptic_jax.models.attention_backward import backward
from panoptic_jax.models.attention_forward import forward

# Scores of all queries and keys of a head must fit into that memory.
_MOST_TOKENS = 1024


def kernel_attention(
    qkv: jax.Array, num_heads: int, queries: int | None = None, interpret: bool = False
) -> jax.Array:
    """Softmax attention, the same as `attention.einsum_attention`.

    Args:
      qkv: (B, T, 3C): queries, keys and values, each the heads side by side; B is one device's.
      num_heads: Divides C; see `kernel_takes`.
      queries: Only so many tokens, the first ones, read the others; None: all of them do.
      interpret: Run as plain JAX, for tests on any platform.

    Returns:
      (B, queries, C), of the type of `qkv`.
    """
    return _attention(qkv, attention_layout.layout_of(qkv.shape, num_heads, queries), interpret)


def kernel_takes(tokens: int, size: int, num_heads: int) -> bool:
    """Whether some heads of `size` / `num_heads` channels fill whole registers, and tokens fit."""
    registers_are_full = size % attention_layout.group_width(size // num_heads) == 0
    return registers_are_full and tokens <= _MOST_TOKENS


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attention(qkv, layout, interpret):
    (mixed,) = forward(qkv, layout, interpret=interpret, with_logarithms=False)
    return mixed


def _forward(qkv, layout, interpret):
    mixed, logarithms = forward(qkv, layout, interpret=interpret, with_logarithms=True)
    return mixed, (qkv, logarithms)


def _backward(layout, interpret, saved, gradient):
    return (backward(*saved, gradient, layout=layout, interpret=interpret),)


_attention.defvjp(_forward, _backward)
