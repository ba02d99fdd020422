"""Classifier-free guidance over the pair (section 3.4.1): the text is dropped, the map stays.

The solver calls the guided network (`diffusion/solver.py`); training drops text in
`diffusion/loss.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from panoptic_jax.diffusion import schedule
from panoptic_jax.diffusion.loss import Predict
from panoptic_jax.diffusion.streams import NAMES


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How strong guidance is: gamma of section 3.4.1 for each stream.

    Attributes:
      weights: {stream: gamma}. 0 is the conditional model alone; 1 is the paper's default. A
        stream that is missing has 0. Also (B,), for each pair its own.
      first: The lowest time at which guidance acts, 0 (clean) to 1 (noise).
      last: The highest one. The times are the stream's own.
    """

    weights: Mapping[str, float | jax.Array]
    first: float = 0.0
    last: float = 1.0

    def weight(self, name: str, t: jax.Array) -> float | jax.Array:
        """gamma of a stream; t is (B,), or (B, 2) for own times. A number where it never changes.

        Otherwise (B,), 0 outside the interval.
        """
        value = self.weights.get(name, 0.0)
        if _is_zero(value) or (self.first <= 0 and self.last >= 1):
            return value
        time = t if t.ndim == 1 else t[:, NAMES.index(name)]  # (B,)
        low, high = schedule.NUM_STEPS * self.first, schedule.NUM_STEPS * self.last
        return jnp.where((time >= low) & (time <= high), value, 0.0)


def guided(
    predict: Predict, text: jax.Array, empty_text: jax.Array, guidance: Guidance
) -> Callable[[jax.Array, jax.Array | None, jax.Array], tuple]:
    """The guided network: out = cond + gamma * (cond - uncond) for each stream.

    Args:
      predict: The network (x_t, m_t, text, t) -> (image, map); the map may be None.
      text: (B, L, D) features of the captions.
      empty_text: (L, D) features of the empty caption; or (B, L, D), for each pair what guidance
        leads away from.
      guidance: gamma of each stream. Where all are 0, the network runs at half the cost.

    Returns:
      A function (x_t, m_t, t) -> (image, map). Both halves, with the caption and without, go
      through the network in one batch of 2B.
    """
    if all(_is_zero(value) for value in guidance.weights.values()):
        return lambda x, m, t: predict(x, m, text, t)

    both_texts = _interleaved(text, jnp.broadcast_to(empty_text, text.shape))  # (2B, L, D)

    def combine(output, weight):
        if output is None:
            return None
        halves = output.reshape(-1, 2, *output.shape[1:])  # (B, 2, ...)
        conditional, unconditional = jnp.moveaxis(halves, 1, 0)
        if isinstance(weight, jax.Array):
            weight = weight.reshape(-1, *[1] * (conditional.ndim - 1))
        return conditional + weight * (conditional - unconditional)  # section 3.4.1

    def predict_guided(x, m, t):
        image, map_ = predict(_doubled(x), _doubled(m), both_texts, _doubled(t))
        return (
            combine(image, guidance.weight('image', t)),
            combine(map_, guidance.weight('map', t)),
        )

    return predict_guided


def _is_zero(value):
    """Whether a weight is 0 for certain; what pairs bring along is not known beforehand."""
    return not isinstance(value, jax.Array) and value == 0


def _interleaved(array, other):
    # A row's two halves side by side, so that rows split over devices stay where they are.
    return jnp.stack([array, other], axis=1).reshape(-1, *array.shape[1:])


def _doubled(array):
    return None if array is None else _interleaved(array, array)
