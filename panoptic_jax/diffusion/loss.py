"""Algorithm 1: draw a latent, add noise to the pair, score the prediction.

Pure functions of arrays. The network comes in as a callable; its parameters, the optimiser and the
order of examples are elsewhere (`programs/train_step.py`, `data/loader.py`). What a stream is says
`diffusion/streams.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from panoptic_jax.diffusion import bits, codes, schedule, streams, times

Predict = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple]

_LOG_VARIANCE_BOUNDS = -30.0, 20.0  # Stable Diffusion's
# Purposes of keys that are no part of the paper's five.
_CODE_KEY = 6


class Inputs(NamedTuple):
    """What Algorithm 1 draws for a batch; dictionaries have a key for each stream.

    Attributes:
      clean: 'image': (B, h, w, c) x_0, and for models with maps 'map': (B, kh, kw, channels) m_0
        in {-1, +1}.
      noise: Standard normal, shaped as `clean`.
      t: (B,) int32 in 1..1000; 0 where the stream is clean.
      text: (B, L, D), empty captions already put in.
    """

    clean: dict[str, jax.Array]
    noise: dict[str, jax.Array]
    t: dict[str, jax.Array]
    text: jax.Array


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How the inputs of a batch are drawn.

    Attributes:
      scale: Factor that brings the autoencoder's latents to unit size.
      text_dropout: Probability that the empty caption takes the caption's place (section 3.4.1).
      void_wins: Whether void won the pooling that the data were prepared with.
      map_side: Side of the model's map in pixels, a divisor of the stored side; None for a model
        without maps.
      given_map: Whether the map is clean and only the image is noisy.
      shares: Which times a model with own times gets; None for one time of both streams.
      instance_bits: Channels of the map that say a thing's code; 0 for maps of categories alone.
    """

    scale: float
    text_dropout: float
    void_wins: bool = False
    map_side: int | None = None
    given_map: bool = False
    shares: times.Shares | None = None
    instance_bits: int = 0


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the losses ask of a network.

    Attributes:
      streams: Noise and prediction of each stream.
      own_times: Whether the network takes a time for each stream.
      weights: Factor of each stream's loss.
    """

    streams: Mapping[str, streams.Stream]
    own_times: bool = False
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)


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


def draw_inputs(
    batch: dict[str, jax.Array], key: jax.Array, empty_text: jax.Array, drawing: Drawing
) -> Inputs:
    """Everything random about one step, drawn for the whole global batch.

    Each number depends on (key, place in the batch) alone, not on devices or microbatches.

    Args:
      batch: 'latents' (B, h, w, c) or 'moments' (B, h, w, 2c), 'text' (B, L, D), and for models
        with a map 'category' and 'instance' (B, M, M) uint8.
      key: The step's random key.
      empty_text: (L, D) features of the empty caption.
      drawing: How to draw.
    """
    # One key per purpose, so that what one model does not need changes nothing for the others.
    latent_key, time_key, noise_key, map_key, drop_key = jax.random.split(key, 5)
    size = batch['text'].shape[0]
    if 'moments' in batch:
        *places, channels = batch['moments'].shape
        latent_noise = jax.random.normal(latent_key, (*places, channels // 2))
        latent = draw_latent(batch['moments'], drawing.scale, latent_noise)
    else:
        latent = draw_latent(batch['latents'], drawing.scale, noise=None)  # (B, h, w, c)
    text = batch['text'].astype(jnp.float32)
    drop = jax.random.bernoulli(drop_key, drawing.text_dropout, (size,))
    clean = {'image': latent}
    noise = {'image': jax.random.normal(noise_key, latent.shape)}
    time = times.draw(time_key, size, drawing.shares)
    if drawing.map_side:
        code_key = jax.random.fold_in(key, _CODE_KEY)
        clean['map'] = clean_map(batch, code_key, drawing)  # (B, kh, kw, channels)
        noise['map'] = jax.random.normal(map_key, clean['map'].shape)
    if drawing.given_map:
        time['map'] = jnp.zeros_like(time['map'])
    t = {name: time[name] for name in clean}
    return Inputs(clean, noise, t, drop_text(text, empty_text, drop))


def clean_map(batch: dict[str, jax.Array], key: jax.Array, drawing: Drawing) -> jax.Array:
    """The map m_0 of a batch as analog bits, at the model's size: (B, kh, kw, channels)."""
    factor = batch['category'].shape[-1] // drawing.map_side
    ids, instances = bits.min_pool(batch['category'], batch['instance'], factor, drawing.void_wins)
    category_bits = bits.ids_to_bits(ids)  # (B, kh, kw, NUM_BITS)
    if not drawing.instance_bits:
        return category_bits
    code_bits = bits.ids_to_bits(codes.draw(instances, key))
    return jnp.concatenate([category_bits, code_bits], axis=-1)


def network_time(t: Mapping[str, jax.Array], *, own_times: bool) -> jax.Array:
    """The time that a network takes: (B,), or (B, 2) in the order of `streams.NAMES`."""
    if not own_times:
        return t['image']
    return jnp.stack([t[name] for name in streams.NAMES], axis=-1)


def add_noise(inputs: Inputs, described: Mapping[str, streams.Stream]) -> dict[str, jax.Array]:
    """Eq. 2 and Eq. 3 for each stream: alpha_t z_0 + sigma_t s eps."""
    noisy = {}
    for name, clean in inputs.clean.items():
        alpha, sigma = _alpha_sigma(inputs.t[name], clean.ndim)
        noise = described[name].noise_std * inputs.noise[name]
        noisy[name] = alpha * clean + sigma * noise  # Eq. 2 for the image, Eq. 3 for the map
    return noisy


def predicted(
    predict: Predict, inputs: Inputs, objective: Objective
) -> tuple[dict[str, jax.Array], dict[str, jax.Array | None]]:
    """The noisy streams, and what the network says of each; None where it says nothing.

    Args:
      predict: The network (x_t, m_t, text, t) -> (image, map).
      inputs: From `draw_inputs`.
      objective: The streams; its weights do not matter.
    """
    noisy = add_noise(inputs, objective.streams)
    t = network_time(inputs.t, own_times=objective.own_times)
    seen = {}
    for name, value in noisy.items():
        alpha, sigma = _alpha_sigma(inputs.t[name], value.ndim)
        stream = objective.streams[name]
        seen[name] = streams.network_input(stream, value, alpha=alpha, sigma=sigma)
    image, map_ = predict(seen['image'], seen.get('map'), inputs.text, t)
    return noisy, {'image': image, 'map': map_}


def pair_losses(predict: Predict, inputs: Inputs, objective: Objective) -> dict[str, jax.Array]:
    """Algorithm 1's losses for every example of a batch, one per stream.

    Args:
      predict: The network (x_t, m_t, text, t) -> (image, map).
      inputs: From `draw_inputs`.
      objective: What the network should say.

    Returns:
      'image' and, where maps are predicted, 'map': (B,) weight times the mean square of target
      minus prediction; 0 where the stream is clean.
    """
    _, predictions = predicted(predict, inputs, objective)
    losses = {}
    # Algorithm 1: loss_x and loss_m, which the train step sums.
    for name, clean in inputs.clean.items():
        if predictions[name] is None:
            continue
        alpha, sigma = _alpha_sigma(inputs.t[name], clean.ndim)
        target = streams.target(
            objective.streams[name], clean, inputs.noise[name], alpha=alpha, sigma=sigma
        )
        error = jnp.mean((target - predictions[name]) ** 2, axis=(1, 2, 3))  # (B,)
        # The paper's losses take neither way, so that their last bits stay what they are.
        if objective.own_times:
            error = jnp.where(inputs.t[name] > 0, error, 0.0)
        weight = objective.weights.get(name, 1.0)
        losses[name] = error if weight == 1 else weight * error
    return losses


def _alpha_sigma(t, ndim):
    """alpha_t and sigma_t of times (B,), to be broadcast against arrays of `ndim` axes."""
    table = jnp.asarray(schedule.training_table())
    alpha, sigma = table[t].T  # (B,) each
    per_example = (-1,) + (1,) * (ndim - 1)
    return alpha.reshape(per_example), sigma.reshape(per_example)
