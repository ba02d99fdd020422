"""Classifier-free guidance over the pair (section 3.4.1): the text is dropped, the map stays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from panoptic_jax.diffusion.loss import Predict


def guided(
    predict: Predict, text: jax.Array, empty_text: jax.Array, guidance: float
) -> Callable[[jax.Array, jax.Array | None, jax.Array], tuple]:
    """A function (x, m, t) -> (noise, map_bits) with out = cond + guidance * (cond - uncond).

    Args:
      predict: The network (x_t, m_t, text, t) -> (noise, map_bits); either output may be None.
      text: (B, L, D) features of the captions.
      empty_text: (L, D) features of the empty caption.
      guidance: 0 is the conditional model alone, at half the cost; 1 is the paper's default.

    Returns:
      The guided network. Both halves go through it in one batch of 2B.
    """
    if guidance == 0:
        return lambda x, m, t: predict(x, m, text, t)

    # A row's two halves side by side, so that rows split over devices stay where they are.
    def pair(array, other):
        return jnp.stack([array, other], axis=1).reshape(-1, *array.shape[1:])

    def double(array):
        return None if array is None else pair(array, array)

    both_texts = pair(text, jnp.broadcast_to(empty_text, text.shape))

    def combine(output):
        if output is None:
            return None
        conditional, unconditional = jnp.moveaxis(output.reshape(-1, 2, *output.shape[1:]), 1, 0)
        return conditional + guidance * (conditional - unconditional)

    def predict_guided(x, m, t):
        noise, map_bits = predict(double(x), double(m), both_texts, double(t))
        return combine(noise), combine(map_bits)

    return predict_guided
