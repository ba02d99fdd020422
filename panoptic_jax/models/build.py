"""From a model's name and sizes to a linen module, its first parameters and its arithmetic cost.

The settings come from `programs/description.py`; the networks are in `models/uvit.py`,
`models/one_stream.py`, `models/two_stream.py` and `models/joint.py`.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.models import two_stream
from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.models.joint import Joint
from panoptic_jax.models.one_stream import OneStream
from panoptic_jax.models.uvit import UViT

_OF_STREAMS = {'one_stream': OneStream, 'two_stream': two_stream.TwoStream}


def build(
    name: str,
    *,
    latent_shape: tuple[int, int, int],
    text_tokens: int,
    map_channels: int,
    hidden_size: int,
    depth: int,
    num_heads: int,
    patch_size: int = 2,
    patch_factor: int = 2,
    given_map: bool = False,
    zero_map_input: bool = False,
    map_bounded: bool = True,
    join: str = 'tokens',
    separate_times: bool = False,
    zero_conv_bias: bool = False,
    dtype: Any = jnp.float32,
    forms: Forms = PLAIN,
) -> nn.Module:
    """A network `apply({'params': params}, x_t, m_t, text, t) -> Prediction(image, map)`.

    Args:
      name: 'uvit', 'one_stream', 'two_stream' or 'joint'.
      latent_shape: (h, w, c) of the image latents.
      text_tokens: L, tokens per caption.
      map_channels: Channels of a map.
      hidden_size: Channels per token; see `uvit.SIZES` for the published sizes.
      depth: Even number of blocks besides the middle one; 'joint' has no middle one.
      num_heads: Attention heads; their number must divide `hidden_size`.
      patch_size: Latent pixels per image token, along each side.
      patch_factor: Map pixels per latent pixel, along each side.
      given_map: The map is a condition, not an output.
      zero_map_input: The network sees zeros for the map.
      map_bounded: Predicted maps are within (-1, 1), as clean ones are; noise has no bounds.
      join: 'tokens': image and map have tokens of their own; 'channels': the two patches of a place
        share one (one_stream; 'joint' is built so).
      separate_times: The map has a time of its own, and t is (B, 2).
      zero_conv_bias: Zero-convs of a two-stream model have a bias, as the authors' weights do.
      dtype: Type of the computation; parameters are float32.
      forms: Forms of the heaviest parts, see `forms.for_mesh`.

    Returns:
      A module whose parameters are {'image': ..., 'map': ...}, for 'uvit' {'image': ...}; 'joint'
      has a tree of its own.
    """
    blocks = {'hidden_size': hidden_size, 'num_heads': num_heads, 'dtype': dtype, 'forms': forms}
    if name == 'joint':
        return Joint(
            latent_channels=latent_shape[-1],
            map_channels=map_channels,
            patch_size=patch_size,
            patch_factor=patch_factor,
            depth=depth,
            map_bounded=map_bounded,
            separate_times=separate_times,
            **blocks,
        )
    image_stream = blocks | {
        'latent_shape': tuple(latent_shape),
        'patch_size': patch_size,
        'text_tokens': text_tokens,
        'depth': depth,
    }
    # There are as many map tokens as image tokens: larger maps have larger patches (section 3.1).
    map_stream = blocks | {
        'channels': map_channels,
        'num_tokens': math.prod(latent_shape[:2]) // patch_size**2,
        'patch': patch_size * patch_factor,
        'predicts': not given_map,
        'bounded': map_bounded,
        'has_positions': join == 'tokens',
        'has_time': separate_times,
        'zero_conv_bias': zero_conv_bias,
        'num_blocks': depth + 1 if name == 'two_stream' else 0,
    }
    if name == 'uvit':
        return UViT(image_stream)
    return _OF_STREAMS[name](image_stream, map_stream, given_map, zero_map_input)


def example_inputs(
    *,
    latent_shape: tuple[int, int, int],
    patch_factor: int,
    text_shape: tuple[int, int],
    map_channels: int,
    separate_times: bool = False,
    batch_size: int = 1,
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Abstract inputs of a network.

    Args:
      latent_shape: (h, w, c) of the image latents.
      patch_factor: k, map pixels per latent pixel, along each side.
      text_shape: (L, D): tokens per caption, features per token.
      map_channels: Channels of a map.
      separate_times: Whether the map has a time of its own.
      batch_size: B.

    Returns:
      x_t (B, h, w, c), m_t (B, kh, kw, map_channels) and text (B, L, D) float32; t int32, (B,) or
      with separate times (B, 2).
    """
    height, width, _ = latent_shape
    map_shape = height * patch_factor, width * patch_factor, map_channels
    arrays = [
        jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
        for shape in (latent_shape, map_shape, text_shape)
    ]
    t = jax.ShapeDtypeStruct((batch_size, 2) if separate_times else (batch_size,), jnp.int32)
    return *arrays, t


def first_parameters(model: nn.Module, key: jax.Array, inputs: tuple) -> dict:
    """Fresh float32 parameters; a two-stream model's map blocks start as the image blocks.

    Args:
      model: The network.
      key: Decides all random numbers.
      inputs: From `example_inputs`.
    """
    # Values do not matter here: linen needs inputs for the shapes of its parameters.
    zeros = [jnp.zeros(array.shape, array.dtype) for array in inputs]
    params = model.init(key, *zeros)['params']
    # Section 3.5.2 is silent about the map blocks; the copies are our choice.
    if isinstance(model, two_stream.TwoStream):
        return two_stream.copy_image_blocks(params)
    return params


def abstract_parameters(model: nn.Module, inputs: tuple) -> dict:
    """Shapes and types of the parameters that `first_parameters` would give."""
    # The key is abstract too: a real one would open the devices, and plans must not.
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(lambda key: first_parameters(model, key, inputs), key)


def frozen_rule(name: str) -> Callable[[str], bool]:
    """The rule that says of a parameter's path whether a model of this name never trains it."""
    if name == 'two_stream':
        return two_stream.is_frozen
    return lambda path: False


def matmul_flops(function: Callable, *arguments: Any) -> int:
    """Floating-point operations of all matrix products and convolutions of `function`.

    They are counted in the traced program, before any compiler sees it. The body of a loop counts
    as often as it runs, and what a transformation recomputes (remat) counts again.
    """
    return _program_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _program_flops(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        total += _operation_flops(equation)
        repeats = equation.params.get('length', 1) if equation.primitive.name == 'scan' else 1
        # Loops, calls and derivative rules carry programs of their own among their parameters.
        for value in equation.params.values():
            inner = getattr(value, 'jaxpr', value)
            if hasattr(inner, 'eqns'):
                total += repeats * _program_flops(inner)
    return total


def _operation_flops(equation) -> int:
    """Two operations, a product and a sum, for every number that an output number is made of."""
    if equation.primitive.name == 'dot_general':
        (contracted, _), _ = equation.params['dimension_numbers']
        left = equation.invars[0].aval.shape
        per_output = math.prod(left[axis] for axis in contracted)  # axes that are summed over
    elif equation.primitive.name == 'conv_general_dilated':
        kernel = equation.invars[1].aval
        output_axis = equation.params['dimension_numbers'].rhs_spec[0]
        per_output = kernel.size // kernel.shape[output_axis]  # inputs under one filter
    else:
        return 0
    return 2 * math.prod(equation.outvars[0].aval.shape) * per_output
