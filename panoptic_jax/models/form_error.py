"""How far a platform's forms are from the plain ones, on random numbers and the devices at hand."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.models.joint_blocks import PlaceBlock
from panoptic_jax.models.uvit import Block


class Sizes(NamedTuple):
    """The sizes of a network's block.

    Attributes:
      batch: Examples.
      tokens: Tokens of each that attend.
      words: How many of them are words, which a joint network joins to its places; 0 for others.
      channels: Channels of a token.
      heads: Attention heads.
    """

    batch: int
    tokens: int
    words: int
    channels: int
    heads: int


def form_errors(forms: Forms, sizes: Sizes, dtype: Any) -> dict[str, float]:
    """{'attention_error', 'block_error'} of some forms, see the functions of these names."""
    batch, count, words, channels, heads = sizes
    tokens = jax.ShapeDtypeStruct((batch, count - words, channels), dtype)
    inputs = [tokens]
    if words:
        inputs.append(tokens.update(shape=(batch, words, channels)))
        inputs.append(jax.ShapeDtypeStruct((batch, channels), jnp.float32))
    qkv = tokens.update(shape=(batch, count, 3 * channels))
    block = functools.partial(PlaceBlock if words else Block, heads, dtype)
    return {
        'attention_error': attention_error(forms, qkv, heads, words),
        'block_error': block_error(forms, block, inputs),
    }


def attention_error(forms: Forms, qkv: jax.ShapeDtypeStruct, num_heads: int, words: int) -> float:
    """The error of a block's attention.

    Args:
      forms: Those in question, such as `forms.for_mesh(mesh)`.
      qkv: Shape (B, T, 3C) and type of queries, keys and values.
      num_heads: Divides C.
      words: How many of the T tokens are words of a joint network, whose heads `forms.join_heads`
        joins to those of places; 0 for other networks, where all tokens are alike.

    Returns:
      The largest difference of values and gradients, in standard deviations of the plain ones:
      some hundredths in bfloat16, 1e-5 in float32. More means a kernel that does not do its work
      here.
    """
    batch, count, width = qkv.shape
    size, places = width // 3, count - words
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [jax.random.normal(keys[0], (batch, places, width), qkv.dtype)]  # (B, N, 3C)
    gradient = jax.random.normal(keys[1], (batch, places, size), qkv.dtype)
    if words:
        arrays.append(jax.random.normal(keys[2], (batch, words, 2 * size), qkv.dtype))
        arrays.append(jax.random.uniform(keys[3], (num_heads,), minval=0.5, maxval=2.0))

    def attended(forms, *arrays):
        joined = forms.join_heads(*arrays) if words else arrays[0]
        return forms.attention(joined, num_heads, places)

    return _worst_deviation(attended, forms, arrays, gradient)


def block_error(
    forms: Forms, block: Callable[[Forms], nn.Module], inputs: list[jax.ShapeDtypeStruct]
) -> float:
    """The error of a whole block of a network, in the units of `attention_error`.

    Args:
      forms: Those in question.
      block: The block that is made of some forms.
      inputs: Shapes and types of its inputs; its output is like the first one.
    """
    keys = iter(jax.random.split(jax.random.key(0), 3 + len(inputs)))
    given = [jax.random.normal(next(keys), array.shape, array.dtype) for array in inputs]
    gradient = jax.random.normal(next(keys), inputs[0].shape, inputs[0].dtype)
    params = block(PLAIN).init(next(keys), *given)
    # What starts at zero would hide what it is multiplied with.
    leaves, tree = jax.tree.flatten(params)
    noise = jax.random.split(next(keys), len(leaves))
    moved = [
        leaf + 0.5 * leaf.shape[0] ** -0.5 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, noise, strict=True)
    ]

    def of_block(forms, params, *arrays):
        return block(forms).apply(params, *arrays)

    return _worst_deviation(of_block, forms, [jax.tree.unflatten(tree, moved), *given], gradient)


def _worst_deviation(
    function: Callable[..., jax.Array], forms: Forms, arguments: list[Any], gradient: jax.Array
) -> float:
    def values_and_gradients(forms, arguments, gradient):
        value, pull_back = jax.vjp(functools.partial(function, forms), *arguments)
        found = jax.tree.leaves([value, pull_back(gradient)])
        return [array.astype(jnp.float32) for array in found]

    # In units of the plain form, so that one bound serves all sizes.
    def deviations(array, plain):
        return jnp.abs(array - plain).max() / plain.std()

    # The arrays are arguments: a compiler computes with constants itself, a GPU's for minutes.
    @jax.jit
    def worst(arguments, gradient):
        ours = values_and_gradients(forms, arguments, gradient)
        plain = values_and_gradients(PLAIN, arguments, gradient)
        return jnp.stack(jax.tree.map(deviations, ours, plain)).max()

    return float(worst(arguments, gradient))
