"""The second half of a U-ViT block as a TPU kernel: norm, MLP, and the tokens they are added to.

The hidden layer has four times as many channels as the tokens, and separate products write or read
it seven times a step. The kernel works off an example at a time in the chip's vector memory: the
hidden layer is written once, for the gradient, and read once. `models/forms.py` says which arrays
get the kernel.
"""

import functools

import jax
import jax.numpy as jnp

from panoptic_jax.models import block_layout
from panoptic_jax.models.block_halves import MlpWeights
from panoptic_jax.models.mlp_backward import backward
from panoptic_jax.models.mlp_forward import forward

_KERNELS = 2


def kernel_mlp(
    tokens: jax.Array, weights: MlpWeights, cores: int = 1, interpret: bool = False
) -> jax.Array:
    """tokens + fc2(GELU(fc1(norm(tokens)))), as in `uvit.Block`.

    Where no weight is differentiated, none has its gradient computed.

    Args:
      tokens: (B, T, C) bfloat16, see `mlp_takes`; B is one device's.
      weights: The parameters of norm and layers; kernels have the type of `tokens`.
      cores: Cores of a device, which share the examples.
      interpret: Run as plain JAX, for tests on any platform.

    Returns:
      (B, T, C), of the type of `tokens`.
    """
    layout = block_layout.layout_of(tokens.shape, weights.kernel1.shape[1], _KERNELS, cores)
    matrices = MlpWeights(*(jnp.atleast_2d(array) for array in weights))
    return _mlp(tokens, matrices, layout, interpret)


def mlp_takes(tokens: jax.Array, hidden: int, vector_memory: int) -> bool:
    """Whether the kernel takes such tokens; see `block_layout.fits`."""
    return block_layout.fits(tokens, hidden, _KERNELS, vector_memory)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _mlp(tokens, weights, layout, interpret):
    (result,) = forward(tokens, weights, layout, interpret=interpret, with_hidden=False)
    return result


def _forward(tokens, weights, layout, interpret):
    with_weights = any(array.perturbed for array in weights)
    tokens, weights = tokens.value, MlpWeights(*(array.value for array in weights))
    result, hidden = forward(tokens, weights, layout, interpret=interpret, with_hidden=True)
    saved = tokens, hidden, weights
    # Their place tells the backward pass what is asked for: values cannot, being arrays.
    return result, ((None, saved) if with_weights else (saved, None))


def _backward(layout, interpret, saved, gradient):
    without_weights, with_weights = saved
    tokens, hidden, weights = without_weights or with_weights
    return backward(
        (tokens, hidden, gradient),
        weights,
        layout,
        interpret=interpret,
        with_weights=with_weights is not None,
    )


# Thus the forward pass is told what is differentiated.
_mlp.defvjp(_forward, _backward, symbolic_zeros=True)
