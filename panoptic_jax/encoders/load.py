"""The frozen encoders by name: what an autoencoder and a text encoder are to the rest of the code.

Used by prepare, sample and evaluate; the training loop sees encoded records only.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from panoptic_jax.encoders import pixels, taesd, words


class Autoencoder(NamedTuple):
    """A frozen autoencoder of 256 px images.

    Attributes:
      name: As in the config.
      latent_shape: (h, w, c) of one image's latents.
      scale: What latents are multiplied with before training, so that their deviation is near 1.
      has_variance: Whether `encode` gives moments, (B, h, w, 2c), rather than latents.
      sha256: Of the weights.
      encode: (B, 256, 256, 3) float32 in [-1, 1] to (B, h, w, c), not scaled. Not jitted.
      decode: (B, h, w, c), already divided by `scale`, to (B, 256, 256, 3) float32 in [-1, 1]. Not
        jitted.
    """

    name: str
    latent_shape: tuple[int, int, int]
    scale: float
    has_variance: bool
    sha256: str
    encode: Callable[[jax.Array], jax.Array]
    decode: Callable[[jax.Array], jax.Array]


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


def load_autoencoder(name: str, weights_path: str = '') -> Autoencoder:
    """The autoencoder 'taesd' (needs `weights_path`) or 'pixels' (has no weights)."""
    if name == 'pixels':
        sha256 = hashlib.sha256(b'pixels: area means of 8x8').hexdigest()
        return Autoencoder(
            name, (32, 32, 3), 1.0, False, sha256, encode=pixels.encode, decode=pixels.decode
        )
    if name == 'taesd':
        encoder, decoder, sha256 = taesd.load(weights_path)
        return Autoencoder(
            name,
            (32, 32, taesd.LATENT_CHANNELS),
            1.0,
            False,
            sha256,
            encode=functools.partial(taesd.encode, encoder),
            decode=functools.partial(taesd.decode, decoder),
        )
    raise ValueError(f"data.autoencoder is {name!r}; it must be 'taesd' or 'pixels'.")


def load_text_encoder(name: str, tokens: int, features: int) -> TextEncoder:
    """The text encoder 'words' with L = `tokens` and D = `features`."""
    if name == 'words':
        encode = functools.partial(words.encode, tokens=tokens, features=features)
        return TextEncoder(name, tokens, features, words.fingerprint(tokens, features), encode)
    raise ValueError(f"data.text is {name!r}; it must be 'words'.")
