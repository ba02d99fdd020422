"""The `pixels` autoencoder: a latent pixel is the mean colour of its 8x8 pixels; no weights.

It is meant for the embedded scenes and for tests. Latents lie in [-1, 1], so their scale is 1.
`encoders/pixel_decoder.py` decodes the same latents with learned weights.
"""

import jax
import jax.numpy as jnp

FACTOR = 8  # image pixels per latent pixel, along each side


def encode(image: jax.Array) -> jax.Array:
    """Area means: (B, 8h, 8w, 3) in [-1, 1] to (B, h, w, 3) in [-1, 1]."""
    batch, height, width, channels = image.shape
    windows = (batch, height // FACTOR, FACTOR, width // FACTOR, FACTOR, channels)
    return image.reshape(windows).mean(axis=(2, 4))


def decode(latents: jax.Array) -> jax.Array:
    """Bicubic enlargement: (B, h, w, 3) to (B, 8h, 8w, 3), clipped to [-1, 1]."""
    # Cubic weights are partly negative and overshoot at edges.
    return jnp.clip(enlarge(latents), -1.0, 1.0)


def enlarge(latents: jax.Array) -> jax.Array:
    """The same without clipping."""
    batch, height, width, channels = latents.shape
    shape = (batch, height * FACTOR, width * FACTOR, channels)
    return jax.image.resize(latents, shape, 'cubic')
