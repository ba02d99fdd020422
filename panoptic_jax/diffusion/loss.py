"""Algorithm 1: draw a latent, noise the pair, score the prediction. Pure functions of arrays.

The network comes in as a callable; which parameters it closes over is not known here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from panoptic_jax.diffusion import bits, schedule

Predict = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple]


def draw_latent(moments: jax.Array, scale: float, noise: jax.Array | None) -> jax.Array:
    """The latent that training sees, from what the autoencoder stored.

    Args:
      moments: (B, h, w, 2c) mean and log variance of an autoencoder that has one, else the
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
    return (mean + jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0)) * noise) * scale


def drop_text(text: jax.Array, empty_text: jax.Array, drop: jax.Array) -> jax.Array:
    """Replaces the captions where `drop` (B,) bool holds by the empty caption's features (L, D)."""
    return jnp.where(drop[:, None, None], empty_text, text)


def noised(clean: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """Eq. 2 and 3: alpha_t clean + sigma_t noise, for t (B,) int32 in 1..1000."""
    alpha, sigma = jnp.asarray(schedule.training_table())[t - 1].T
    broadcast = (-1,) + (1,) * (clean.ndim - 1)
    return alpha.reshape(broadcast) * clean + sigma.reshape(broadcast) * noise


def draw_inputs(
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    scale: float,
    empty_text: jax.Array,
    text_dropout: float,
    map_size: int | None,
    map_noise_std: float,
    void_wins: bool,
    map_prediction: str = 'data',
) -> dict[str, jax.Array]:
    """Everything random about one step, drawn for the whole global batch, for `pair_losses`.

    Each number depends on (key, place in the batch) alone, not on devices or microbatches.

    Args:
      batch: 'latents' (B, h, w, c) or 'moments' (B, h, w, 2c), 'text' (B, L, D), and for models
        with a map 'category' and 'instance' (B, M, M) uint8.
      key: Of this step.
      scale: The autoencoder's.
      empty_text: (L, D) features of the empty caption.
      text_dropout: Probability of it.
      map_size: Side of the model's map; None for a model without maps.
      map_noise_std: s in m_t = alpha_t m_0 + sigma_t s eps.
      void_wins: Of the pooling that the data were prepared with.
      map_prediction: What the network says of the map: 'data', m_0, or 'noise', eps (section 3.3).
    """
    latent_key, time_key, noise_key, map_key, drop_key = jax.random.split(key, 5)
    size = batch['text'].shape[0]
    if 'moments' in batch:
        shape = (*batch['moments'].shape[:-1], batch['moments'].shape[-1] // 2)
        latent = draw_latent(batch['moments'], scale, jax.random.normal(latent_key, shape))
    else:
        latent = draw_latent(batch['latents'], scale, None)
    drop = jax.random.bernoulli(drop_key, text_dropout, (size,))
    inputs = {
        'latent': latent,
        'text': drop_text(batch['text'].astype(jnp.float32), empty_text, drop),
        't': jax.random.randint(time_key, (size,), 1, schedule.NUM_STEPS + 1),
        'noise': jax.random.normal(noise_key, latent.shape),
    }
    if map_size:
        factor = batch['category'].shape[-1] // map_size
        ids, _ = bits.min_pool(batch['category'], batch['instance'], factor, void_wins)
        inputs['map_bits'] = bits.ids_to_bits(ids)
        map_noise = jax.random.normal(map_key, inputs['map_bits'].shape)
        inputs['map_noise'] = map_noise_std * map_noise
        if map_prediction == 'noise':
            inputs['map_target'] = map_noise
    return inputs


def pair_losses(
    predict: Predict,
    latent: jax.Array,
    text: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    map_bits: jax.Array | None = None,
    map_noise: jax.Array | None = None,
    map_target: jax.Array | None = None,
    given_map: bool = False,
) -> dict[str, jax.Array]:
    """Algorithm 1's losses for every example of a batch.

    Args:
      predict: The network (x_t, m_t, text, t) -> (noise, map_bits).
      latent: (B, h, w, c) x_0.
      text: (B, L, D), empty captions already put in.
      t: (B,) int32 in 1..1000.
      noise: Standard normal, shaped as `latent`.
      map_bits: (B, kh, kw, 8) m_0 in {-1, +1}; None for a model without maps.
      map_noise: Noise of the map, already times its std s; shaped as `map_bits`.
      map_target: What the network should say of the map, where it is not `map_bits`.
      given_map: The clean map is the input and only the image is scored.

    Returns:
      'image': (B,) mean (eps - eps_hat)^2, and, where maps are predicted, 'map': (B,) mean
      (m_0 - m_hat)^2, or the same of `map_target`.
    """
    has_map = map_bits is not None
    m_t = map_bits if given_map or not has_map else noised(map_bits, map_noise, t)
    predicted_noise, predicted_map = predict(noised(latent, noise, t), m_t, text, t)
    losses = {'image': jnp.mean((noise - predicted_noise) ** 2, axis=(1, 2, 3))}
    if has_map and not given_map:
        target = map_bits if map_target is None else map_target
        losses['map'] = jnp.mean((target - predicted_map) ** 2, axis=(1, 2, 3))
    return losses
