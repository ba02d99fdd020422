"""The frozen encoders by name: what an autoencoder and a text encoder are to the rest of the code.

Used by prepare, sample and evaluate; the training loop sees encoded records only.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.encoders import (
    autoencoder,
    clip,
    clip_tokens,
    pixels,
    rows,
    taesd,
    weights_files,
    words,
)

# Rows that a device works on at a time. Sampling decodes a few images per device, preparation and
# evaluation encode many.
_ENCODED_PER_DEVICE = 8
_DECODED_PER_DEVICE = 2
_CAPTIONS_PER_DEVICE = 40


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


def autoencoder_facts(name: str) -> tuple[tuple[int, int, int], float, bool]:
    """(latent_shape, scale, has_variance) of an autoencoder, which need no weights."""
    if name == 'sd':
        return (32, 32, autoencoder.LATENT_CHANNELS), autoencoder.SCALE, True
    return (32, 32, taesd.LATENT_CHANNELS if name == 'taesd' else 3), 1.0, False


def load_autoencoder(name: str, weights: str = '') -> Autoencoder:
    """The autoencoder 'sd', 'taesd' or 'pixels'; the last has no weights.

    Args:
      name: Which.
      weights: Local path or hf:// address, see `weights_files.locate`.
    """
    if name == 'pixels':
        sha256 = hashlib.sha256(b'pixels: area means of 8x8').hexdigest()
        encode = lambda _, images: pixels.encode(images)  # noqa: E731
        decode = lambda _, latents: pixels.decode(latents)  # noqa: E731
        return _autoencoder(name, *autoencoder_facts(name), sha256, {}, encode, {}, decode)
    if name == 'taesd':
        what = "TAESD's weights (diffusion_pytorch_model.safetensors of madebyollin/taesd)"
        path = weights_files.locate(weights, 'data.autoencoder_weights', what)
        encoder, decoder, sha256 = taesd.load(path)
        return _autoencoder(
            name, *autoencoder_facts(name), sha256, encoder, taesd.encode, decoder, taesd.decode
        )
    if name == 'sd':
        what = (
            "Stable Diffusion's autoencoder (diffusion_pytorch_model.safetensors of "
            'stabilityai/sd-vae-ft-ema)'
        )
        path = weights_files.locate(weights, 'data.autoencoder_weights', what)
        encoder, decoder, sha256 = autoencoder.load(path)
        return _autoencoder(
            name, *autoencoder_facts(name), sha256, encoder, autoencoder.encode, decoder,
            autoencoder.decode,
        )  # fmt: skip
    raise ValueError(f"data.autoencoder is {name!r}; it must be 'sd', 'taesd' or 'pixels'.")


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
        rows.on_devices(encode_pixels, encoder_params, _ENCODED_PER_DEVICE),
        rows.on_devices(decode_pixels, decoder_params, _DECODED_PER_DEVICE),
    )


def load_text_encoder(name: str, tokens: int, features: int, weights: str = '') -> TextEncoder:
    """The text encoder 'clip' or 'words' with L = `tokens` and D = `features`.

    Args:
      name: Which; 'words' has no weights.
      tokens: L; CLIP has 77.
      features: D; CLIP's is given by its weights, 768 for ViT-L/14.
      weights: Local folder, or hf:// address of one, that holds `CLIP_FILES`.
    """
    if name == 'words':
        encode = functools.partial(words.encode, tokens=tokens, features=features)
        return TextEncoder(name, tokens, features, words.fingerprint(tokens, features), encode)
    if name == 'clip':
        params, sha256, tokenize = load_clip(weights, 'data.text_weights')
        text_tower = {'text_model': params['text_model']}
        found = text_tower['text_model']['final_layer_norm']['bias'].shape[0]
        if (tokens, features) != (clip.TOKENS, found):
            raise ValueError(
                f'data.text_tokens is {tokens} and data.text_features {features}; the CLIP in '
                f'{weights} has {clip.TOKENS} tokens of {found} features: set them so, or take '
                'ViT-L/14, which the models are made for.'
            )
        states = rows.on_devices(clip.text_states, text_tower, _CAPTIONS_PER_DEVICE)
        return TextEncoder(
            name, tokens, features, sha256,
            lambda captions: states(tokenize(captions)).astype(np.float16),
        )  # fmt: skip
    raise ValueError(f"data.text is {name!r}; it must be 'clip' or 'words'.")


CLIP_FILES = ('model.safetensors', 'vocab.json', 'merges.txt')


def load_clip(folder: str, field: str) -> tuple[dict[str, Any], str, Callable]:
    """Parameters as of `clip.load`, their SHA-256, and the tokenizer of `clip_tokens.load`.

    Args:
      folder: Local or hf:// address of a folder that holds `CLIP_FILES`.
      field: The setting that it comes from, for messages.
    """
    weights, vocabulary, merges = (
        weights_files.locate(f'{folder}/{name}', field, f"CLIP's {name}, in one folder")
        for name in CLIP_FILES
    )
    params, sha256 = clip.load(weights)
    return params, sha256, clip_tokens.load(vocabulary, merges, clip.TOKENS)


def load_encoders(
    description: Mapping[str, Any], autoencoder_weights: str, text_weights: str
) -> tuple[Autoencoder, TextEncoder]:
    """The encoders that a model was trained with, from files that must be the same.

    Args:
      description: Of the model, see `weights.file.describe`.
      autoencoder_weights: As config.data.autoencoder_weights.
      text_weights: As config.data.text_weights.

    Raises:
      FileNotFoundError, ValueError: no such files, or other weights.
    """
    autoencoder = load_autoencoder(description['autoencoder']['name'], autoencoder_weights)
    check_same(autoencoder.sha256, description['autoencoder'], 'autoencoder')
    text = description['text']
    text_encoder = load_text_encoder(text['name'], text['tokens'], text['features'], text_weights)
    check_same(text_encoder.sha256, text, 'text encoder')
    return autoencoder, text_encoder


def check_same(sha256: str, described: Mapping[str, Any], what: str) -> None:
    """The frozen encoder at hand must be the one that the model was trained with.

    Raises:
      ValueError: it is not.
    """
    if sha256 != described['sha256']:
        raise ValueError(
            f'The {what} {described["name"]!r} at hand has hash {sha256[:12]}, the model was '
            f'trained with {described["sha256"][:12]}; use the same weights file.'
        )
