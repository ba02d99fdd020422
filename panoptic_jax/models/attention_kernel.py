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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def kernel_attention(qkv: jax.Array, num_heads: int, interpret: bool = False) -> jax.Array:
    """Softmax attention, the same as `attention.einsum_attention`.

    Args:
      qkv: (B, T, 3C): queries, keys and values, each the heads side by side; B is one device's.
      num_heads: Divides C; see `kernel_takes`.
      interpret: Run as plain JAX, for tests on any platform.

    Returns:
      (B, T, C), of the type of `qkv`.
    """
    (mixed,) = forward(qkv, num_heads, interpret=interpret, with_logarithms=False)
    return mixed


def kernel_takes(tokens: int, size: int, num_heads: int) -> bool:
    """Whether some heads of `size` / `num_heads` channels fill whole registers, and tokens fit."""
    registers_are_full = size % attention_layout.group_width(size // num_heads) == 0
    return registers_are_full and tokens <= _MOST_TOKENS


def _forward(qkv, num_heads, interpret):
    mixed, logarithms = forward(qkv, num_heads, interpret=interpret, with_logarithms=True)
    return mixed, (qkv, logarithms)


def _backward(num_heads, interpret, saved, gradient):
    return (backward(*saved, gradient, num_heads=num_heads, interpret=interpret),)


kernel_attention.defvjp(_forward, _backward)
