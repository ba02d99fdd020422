"""The frozen encoders by name: what an autoencoder and a text encoder are to the rest of the code.

Used by prepare, sample and evaluate; the training loop sees encoded records only.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.encoders import pixels, rows, taesd, weights_files, words

_IMAGES_PER_DEVICE = 8  # at a time


class Autoencoder(NamedTuple):
    """A frozen autoencoder of 256 px images. Its functions take any number of rows.

    Attributes:
      name: As in the config.
      latent_shape: (h, w, c) of one image's latents.
      scale: What latents are multiplied with before training, so that their deviation is near 1.
      has_variance: Whether `encode` gives moments, (n, h, w, 2c): mean and log variance.
      sha256: Of the weights.
      encode: (n, 256, 256, 3) uint8 to latents (n, h, w, c) float32, not scaled, or moments.
      decode: (n, h, w, c) float32, already divided by `scale`, to (n, 256, 256, 3) uint8.
    """

    name: str
    latent_shape: tuple[int, int, int]
    scale: float
    has_variance: bool
    sha256: str
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]


class TextEncoder(NamedTuple):
    """A frozen text encoder.

    Attributes:
      name: As in the config.
      tokens: L, tokens per caption.
      features: D, numbers per token.
      sha256: Of the weights, or of what stands for them.
      encode: n sentences to (n, L, D) float16; [''] gives the empty caption.
    """

    name: str
    tokens: int
    features: int
    sha256: str
    encode: Callable[[Sequence[str]], np.ndarray]


def load_autoencoder(name: str, weights: str = '') -> Autoencoder:
    """The autoencoder 'taesd' or 'pixels'; the latter has no weights.

    Args:
      name: Which.
      weights: Local path or hf:// address, see `weights_files.locate`.
    """
    if name == 'pixels':
        sha256 = hashlib.sha256(b'pixels: area means of 8x8').hexdigest()
        encode = lambda _, images: pixels.encode(images)  # noqa: E731
        decode = lambda _, latents: pixels.decode(latents)  # noqa: E731
        return _autoencoder(name, (32, 32, 3), 1.0, False, sha256, {}, encode, {}, decode)
    if name == 'taesd':
        what = "TAESD's weights (diffusion_pytorch_model.safetensors of madebyollin/taesd)"
        path = weights_files.locate(weights, 'data.autoencoder_weights', what)
        encoder, decoder, sha256 = taesd.load(path)
        shape = (32, 32, taesd.LATENT_CHANNELS)
        return _autoencoder(
            name, shape, 1.0, False, sha256, encoder, taesd.encode, decoder, taesd.decode
        )
    raise ValueError(f"data.autoencoder is {name!r}; it must be 'taesd' or 'pixels'.")


def _autoencoder(
    name: str,
    latent_shape: tuple[int, int, int],
    scale: float,
    has_variance: bool,
    sha256: str,
    encoder_params: Any,
    encode: Callable[[Any, jax.Array], jax.Array],
    decoder_params: Any,
    decode: Callable[[Any, jax.Array], jax.Array],
) -> Autoencoder:
    """From networks on floats in [-1, 1] to functions on uint8 pictures, over all devices."""

    def encode_pixels(params, images):
        return encode(params, images / jnp.float32(127.5) - 1)

    def decode_pixels(params, latents):
        return jnp.clip(jnp.round((decode(params, latents) + 1) * 127.5), 0, 255).astype(jnp.uint8)

    return Autoencoder(
        name,
        latent_shape,
        scale,
        has_variance,
        sha256,
        rows.on_devices(encode_pixels, encoder_params, _IMAGES_PER_DEVICE),
        rows.on_devices(decode_pixels, decoder_params, _IMAGES_PER_DEVICE),
    )


def load_text_encoder(name: str, tokens: int, features: int) -> TextEncoder:
    """The text encoder 'words' with L = `tokens` and D = `features`."""
    if name == 'words':
        encode = functools.partial(words.encode, tokens=tokens, features=features)
        return TextEncoder(name, tokens, features, words.fingerprint(tokens, features), encode)
    raise ValueError(f"data.text is {name!r}; it must be 'words'.")
