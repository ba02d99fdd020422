"""Classifier-free guidance over the pair (section 3.4.1): the text is dropped, the map stays.

The solver calls the guided network (`diffusion/solver.py`); training drops text in
`diffusion/loss.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from panoptic_jax.diffusion.loss import Predict


def guided(
    predict: Predict, text: jax.Array, empty_text: jax.Array, guidance: float
) -> Callable[[jax.Array, jax.Array | None, jax.Array], tuple]:
    """The guided network: out = cond + guidance * (cond - uncond) for both streams.

    Args:
      predict: The network (x_t, m_t, text, t) -> (image, map); the map may be None.
      text: (B, L, D) features of the captions.
      empty_text: (L, D) features of the empty caption.
      guidance: gamma of section 3.4.1. 0 is the conditional model alone, at half the cost; 1 is
        the paper's default.

    Returns:
      A function (x_t, m_t, t) -> (image, map). Both halves, with the caption and without, go
      through the network in one batch of 2B.
    """
    if guidance == 0:
        return lambda x, m, t: predict(x, m, text, t)

    both_texts = _interleaved(text, jnp.broadcast_to(empty_text, text.shape))  # (2B, L, D)

    def combine(output):
        if output is None:
            return None
        halves = output.reshape(-1, 2, *output.shape[1:])  # (B, 2, ...)
        conditional, unconditional = jnp.moveaxis(halves, 1, 0)
        return conditional + guidance * (conditional - unconditional)  # section 3.4.1

    def predict_guided(x, m, t):
        image, map_ = predict(_doubled(x), _doubled(m), both_texts, _doubled(t))
        return combine(image), combine(map_)

    return predict_guided


def _interleaved(array, other):
    # A row's two halves side by side, so that rows split over devices stay where they are.
    return jnp.stack([array, other], axis=1).reshape(-1, *array.shape[1:])


def _doubled(array):
    return None if array is None else _interleaved(array, array)
