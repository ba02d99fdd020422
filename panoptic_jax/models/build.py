"""From a model's name and sizes to a linen module, its first parameters and its arithmetic cost."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.models import two_stream
from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.models.one_stream import OneStream
from panoptic_jax.models.uvit import UViT

NAMES = ('uvit', 'one_stream', 'two_stream')


def build(
    name: str,
    *,
    latent_shape: tuple[int, int, int],
    text_tokens: int,
    hidden_size: int,
    depth: int,
    num_heads: int,
    patch_size: int = 2,
    patch_factor: int = 2,
    given_map: bool = False,
    zero_map_input: bool = False,
    map_prediction: str = 'data',
    zero_conv_bias: bool = False,
    dtype: Any = jnp.float32,
    forms: Forms = PLAIN,
) -> nn.Module:
    """A network `apply({'params': params}, x_t, m_t, text, t) -> Prediction(noise, map_bits)`.

    Args:
      name: 'uvit', 'one_stream' or 'two_stream'.
      latent_shape: (h, w, c) of the image latents.
      text_tokens: L, tokens per caption.
      hidden_size: Channels per token; see `uvit.SIZES` for the published sizes.
      depth: Even number of blocks besides the middle one.
      num_heads: Must divide `hidden_size`.
      patch_size: Latent pixels per image token, along each side.
      patch_factor: Map pixels per latent pixel, along each side.
      given_map: The map is a condition, not an output.
      zero_map_input: The network sees zeros for the map.
      map_prediction: 'data', the clean map within (-1, 1), or its 'noise', unbounded.
      zero_conv_bias: Of the two-stream model, for the authors' weights.
      dtype: Of the computation; parameters are float32.
      forms: See `forms.for_mesh`.

    Returns:
      A module whose parameters are {'image': ..., 'map': ...}, for 'uvit' {'image': ...}.
    """
    image_stream = {
        'latent_shape': tuple(latent_shape),
        'patch_size': patch_size,
        'text_tokens': text_tokens,
        'hidden_size': hidden_size,
        'depth': depth,
        'num_heads': num_heads,
        'dtype': dtype,
        'forms': forms,
    }
    if name == 'uvit':
        return UViT(image_stream)
    map_stream = {
        'num_tokens': latent_shape[0] * latent_shape[1] // patch_size**2,
        'patch': patch_size * patch_factor,
        'hidden_size': hidden_size,
        'num_heads': num_heads,
        'predicts': not given_map,
        'bounded': map_prediction == 'data',
        'zero_conv_bias': zero_conv_bias,
        'num_blocks': depth + 1 if name == 'two_stream' else 0,
        'dtype': dtype,
        'forms': forms,
    }
    modules = {'one_stream': OneStream, 'two_stream': two_stream.TwoStream}
    return modules[name](image_stream, map_stream, given_map, zero_map_input)


def example_inputs(
    latent_shape: tuple[int, int, int],
    patch_factor: int,
    text_shape: tuple[int, int],
    batch_size: int = 1,
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Abstract (x_t, m_t, text, t), float32 but for the integer t."""
    height, width, channels = latent_shape
    shapes = (height, width, channels), (height * patch_factor, width * patch_factor, 8), text_shape
    arrays = [jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32) for shape in shapes]
    return *arrays, jax.ShapeDtypeStruct((batch_size,), jnp.int32)


def first_parameters(model: nn.Module, key: jax.Array, inputs: tuple) -> dict:
    """Fresh float32 parameters; a two-stream model's map blocks start as the image blocks."""
    zeros = [jnp.zeros(array.shape, array.dtype) for array in inputs]
    params = model.init(key, *zeros)['params']
    return (
        two_stream.copy_image_blocks(params) if isinstance(model, two_stream.TwoStream) else params
    )


def frozen_rule(name: str) -> Callable[[str], bool]:
    """Which parameters, by path, a model of this name never trains."""
    return two_stream.is_frozen if name == 'two_stream' else lambda path: False


def matmul_flops(function: Callable, *arguments: Any) -> int:
    """Floating-point operations of all matrix products and convolutions of `function`.

    Counted in the traced program, before any compiler sees it, a loop's body as often as it runs;
    what a transformation recomputes (remat) counts again.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        output = equation.outvars[0].aval if equation.outvars else None
        if equation.primitive.name == 'dot_general':
            (contracted, _), _ = equation.params['dimension_numbers']
            left = equation.invars[0].aval.shape
            total += 2 * int(np.prod(output.shape)) * int(np.prod([left[i] for i in contracted]))
        elif equation.primitive.name == 'conv_general_dilated':
            kernel, numbers = equation.invars[1].aval, equation.params['dimension_numbers']
            per_output = kernel.size // kernel.shape[numbers.rhs_spec[0]]
            total += 2 * int(np.prod(output.shape)) * per_output
        repeats = equation.params.get('length', 1) if equation.primitive.name == 'scan' else 1
        for value in equation.params.values():
            inner = getattr(value, 'jaxpr', value)
            if hasattr(inner, 'eqns'):
                total += repeats * _count(inner)
    return total
