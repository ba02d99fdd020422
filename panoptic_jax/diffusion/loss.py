"""Algorithm 1: draw a latent, add noise to the pair, score the prediction.

Pure functions of arrays. The network comes in as a callable; its parameters, the optimiser and the
order of examples are elsewhere (`programs/train_step.py`, `data/loader.py`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from panoptic_jax.diffusion import bits, schedule

Predict = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple]

_LOG_VARIANCE_BOUNDS = -30.0, 20.0  # Stable Diffusion's


class Inputs(NamedTuple):
    """What Algorithm 1 draws for a batch.

    Attributes:
      latent: (B, h, w, c) x_0.
      text: (B, L, D), empty captions already put in.
      t: (B,) int32 in 1..1000.
      noise: Standard normal, shaped as `latent`.
      map_bits: (B, kh, kw, NUM_BITS) m_0 in {-1, +1}; None for a model without maps.
      map_noise: The map's noise, already times its std s; shaped as `map_bits`.
      map_target: What the network should say of the map, where it is not `map_bits`.
    """

    latent: jax.Array
    text: jax.Array
    t: jax.Array
    noise: jax.Array
    map_bits: jax.Array | None = None
    map_noise: jax.Array | None = None
    map_target: jax.Array | None = None


def draw_latent(moments: jax.Array, scale: float, noise: jax.Array | None) -> jax.Array:
    """The latent that training sees, from what the autoencoder stored.

    Args:
      moments: (B, h, w, 2c) mean and log variance of an autoencoder that has a variance, else the
        (B, h, w, c) latents themselves.
      scale: Factor that brings this autoencoder's latents to unit size.
      noise: (B, h, w, c) standard normal, or None for an autoencoder without variance.

    Returns:
      (B, h, w, c) float32.
    """
    moments = moments.astype(jnp.float32)
    if noise is None:
        return moments * scale
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    deviation = jnp.exp(0.5 * jnp.clip(log_variance, *_LOG_VARIANCE_BOUNDS))
    return (mean + deviation * noise) * scale


def drop_text(text: jax.Array, empty_text: jax.Array, drop: jax.Array) -> jax.Array:
    """Replaces the text where `drop` (B,) bool holds by the empty caption's features (L, D)."""
    return jnp.where(drop[:, None, None], empty_text, text)


def noised(clean: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """Eq. 2 and Eq. 3: alpha_t * clean + sigma_t * noise.

    Args:
      clean: (B, ...) x_0 or m_0.
      noise: (B, ...) noise of the stream's own standard deviation.
      t: (B,) int32 in 1..1000.
    """
    table = jnp.asarray(schedule.training_table())
    alpha, sigma = table[t - 1].T  # (B,) each
    per_example = (-1,) + (1,) * (clean.ndim - 1)
    alpha, sigma = alpha.reshape(per_example), sigma.reshape(per_example)
    return alpha * clean + sigma * noise  # Eq. 2 for the image, Eq. 3 for the map


def draw_inputs(
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    scale: float,
    empty_text: jax.Array,
    text_dropout: float,
    map_side: int | None,
    map_noise_std: float,
    void_wins: bool,
    map_prediction: str = 'data',
) -> Inputs:
    """Everything random about one step, drawn for the whole global batch.

    Each number depends on (key, place in the batch) alone, not on devices or microbatches.

    Args:
      batch: 'latents' (B, h, w, c) or 'moments' (B, h, w, 2c), 'text' (B, L, D), and for models
        with a map 'category' and 'instance' (B, M, M) uint8.
      key: The step's random key.
      scale: Factor that brings the autoencoder's latents to unit size.
      empty_text: (L, D) features of the empty caption.
      text_dropout: Probability that the empty caption takes the caption's place (section 3.4.1).
      map_side: Side of the model's map in pixels, a divisor of M; None for a model without maps.
      map_noise_std: s in m_t = alpha_t m_0 + sigma_t s eps (Eq. 3).
      void_wins: Whether void won the pooling that the data were prepared with.
      map_prediction: What the network says of the map: 'data', m_0, or 'noise', eps (section 3.3).
    """
    # One key per purpose, so that what one model does not need changes nothing for the others.
    latent_key, time_key, noise_key, map_key, drop_key = jax.random.split(key, 5)
    size = batch['text'].shape[0]
    if 'moments' in batch:
        *places, channels = batch['moments'].shape
        latent_noise = jax.random.normal(latent_key, (*places, channels // 2))
        latent = draw_latent(batch['moments'], scale, latent_noise)
    else:
        latent = draw_latent(batch['latents'], scale, noise=None)  # (B, h, w, c)
    text = batch['text'].astype(jnp.float32)
    drop = jax.random.bernoulli(drop_key, text_dropout, (size,))
    inputs = Inputs(
        latent=latent,
        text=drop_text(text, empty_text, drop),
        # Algorithm 1 prints t = randn(1, T); a uniform integer is meant.
        t=jax.random.randint(time_key, (size,), 1, schedule.NUM_STEPS + 1),
        noise=jax.random.normal(noise_key, latent.shape),
    )
    if map_side:
        factor = batch['category'].shape[-1] // map_side
        ids, _ = bits.min_pool(batch['category'], batch['instance'], factor, void_wins)
        map_bits = bits.ids_to_bits(ids)  # (B, kh, kw, NUM_BITS)
        map_noise = jax.random.normal(map_key, map_bits.shape)
        inputs = inputs._replace(map_bits=map_bits, map_noise=map_noise_std * map_noise)
        if map_prediction == 'noise':
            inputs = inputs._replace(map_target=map_noise)
    return inputs


def pair_losses(
    predict: Predict, inputs: Inputs, *, given_map: bool = False
) -> dict[str, jax.Array]:
    """Algorithm 1's losses for every example of a batch, one per stream.

    Args:
      predict: The network (x_t, m_t, text, t) -> (image, map).
      inputs: From `draw_inputs`.
      given_map: The clean map is the input and only the image is scored.

    Returns:
      'image': (B,) mean (eps - eps_hat)^2, and, where maps are predicted, 'map': (B,) mean
      (m_0 - m_hat)^2, or the same of `map_target`.
    """
    predicts_map = inputs.map_bits is not None and not given_map
    x_t = noised(inputs.latent, inputs.noise, inputs.t)  # Eq. 2: (B, h, w, c)
    m_t = inputs.map_bits
    if predicts_map:
        m_t = noised(inputs.map_bits, inputs.map_noise, inputs.t)  # Eq. 3: (B, kh, kw, NUM_BITS)
    image, map_ = predict(x_t, m_t, inputs.text, inputs.t)
    # Algorithm 1: loss_x and loss_m, which the train step sums.
    losses = {'image': _mean_square(inputs.noise - image)}
    if predicts_map:
        target = inputs.map_bits if inputs.map_target is None else inputs.map_target
        losses['map'] = _mean_square(target - map_)
    return losses


def _mean_square(error):
    return jnp.mean(error**2, axis=(1, 2, 3))  # (B,)
