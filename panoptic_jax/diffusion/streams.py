"""A stream: one of the arrays that are denoised together, the image's latent or the map's bits.

A stream says how much noise it gets and what the network says of it; here are the formulas that
turn one kind of prediction into another. The law of training times and the weight of a loss are in
`diffusion/loss.py`, the solver's plan of a stream is in `diffusion/plan.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

# Handed on: who works with streams need not know where they lie.
from panoptic_jax.diffusion.names import NAMES as NAMES
from panoptic_jax.diffusion.names import PREDICTIONS as PREDICTIONS


@dataclasses.dataclass(frozen=True)
class Stream:
    """z_t = alpha_t z_0 + sigma_t s eps, and what the network says of z_t (Eq. 2 and Eq. 3).

    Attributes:
      noise_std: s, above 0.
      prediction: 'noise' for eps, 'data' for z_0, 'velocity' for alpha_t eps - sigma_t z_0 / s.
      unit_input: Whether the network sees z_t of unit size at all times, see `network_input`.
    """

    noise_std: float
    prediction: str
    unit_input: bool = False

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            known = ', '.join(PREDICTIONS)
            raise ValueError(f'A prediction is {self.prediction!r}; it must be one of {known}.')
        if not self.noise_std > 0:
            raise ValueError(f'noise_std is {self.noise_std}; it must be above 0.')


# The paper's streams: the image's noise (Eq. 2), the clean map under doubled noise (Eq. 3).
PAPER = {'image': Stream(1.0, 'noise'), 'map': Stream(2.0, 'data')}


def of_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Stream]:
    """The streams of settings, such as {'image': {'noise_std': 1.0, 'prediction': 'noise'}, ...}.

    Raises:
      KeyError, TypeError, ValueError: they are no streams.
    """
    return {name: Stream(**settings[name]) for name in NAMES}


def network_input(
    stream: Stream, noisy: jax.Array, *, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
    """What the network sees of z_t: itself, or z_t / sqrt(alpha_t^2 + sigma_t^2 s^2).

    The root is 1 at all times where s is 1, and the size of z_t where the data have unit size
    (Chen 2023, section 3).
    """
    if not stream.unit_input:
        return noisy
    return noisy * jax.lax.rsqrt(alpha**2 + (sigma * stream.noise_std) ** 2)


def target(
    stream: Stream, clean: jax.Array, noise: jax.Array, *, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
    """What the network should say of a stream, from what training knows of it.

    Args:
      stream: The stream.
      clean: (B, ...) z_0.
      noise: (B, ...) eps, standard normal.
      alpha: alpha_t, broadcast against `clean`.
      sigma: sigma_t, broadcast against `clean`.
    """
    if stream.prediction == 'noise':
        return noise
    if stream.prediction == 'data':
        return clean
    return alpha * noise - sigma * clean / stream.noise_std


def data_of(
    stream: Stream, prediction: jax.Array, noisy: jax.Array, *, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
    """The clean stream z_0 that a prediction stands for (Eq. 4, for every kind of prediction).

    Args:
      stream: The stream.
      prediction: (B, ...) what the network said.
      noisy: (B, ...) z_t.
      alpha: alpha_t, above 0.
      sigma: sigma_t.
    """
    std = stream.noise_std
    if stream.prediction == 'data':
        return prediction
    if stream.prediction == 'noise':
        return (noisy - sigma * std * prediction) / alpha  # Eq. 4
    return alpha * noisy - sigma * std * prediction  # s (alpha z_t / s - sigma v)


def noise_of(
    stream: Stream, data: jax.Array, noisy: jax.Array, *, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
    """The noise eps that leads from clean data to z_t; sigma_t must be above 0."""
    return (noisy - alpha * data) / (sigma * stream.noise_std)
