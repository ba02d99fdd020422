"""The frozen encoders by name: what an autoencoder and a text encoder are to the rest of the code.

Preparation, sampling and evaluation use them; the training loop sees encoded records only.
`data/facts.py` says what identifies an encoder, and the other modules here hold the networks.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.data.facts import AutoencoderFacts, TextFacts
from panoptic_jax.encoders import (
    autoencoder,
    clip,
    clip_folder,
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
      facts: What identifies the autoencoder.
      encode: (n, 256, 256, 3) uint8 to latents (n, h, w, c) float32, not scaled, or moments.
      decode: (n, h, w, c) float32, already divided by the scale, to (n, 256, 256, 3) uint8; raises
        FloatingPointError where finite latents give colours that are not.
    """

    facts: AutoencoderFacts
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]


class TextEncoder(NamedTuple):
    """A frozen text encoder.

    Attributes:
      facts: What identifies the text encoder.
      encode: n sentences to (n, L, D) float16; [''] gives the empty caption.
    """

    facts: TextFacts
    encode: Callable[[Sequence[str]], np.ndarray]


class Encoders(NamedTuple):
    """Both encoders of a data set or of a model."""

    autoencoder: Autoencoder
    text: TextEncoder


def autoencoder_facts(name: str, sha256: str = '') -> AutoencoderFacts:
    """The facts of an autoencoder; all but the hash are known without its weights."""
    channels = {'sd': autoencoder.LATENT_CHANNELS, 'taesd': taesd.LATENT_CHANNELS}.get(name, 3)
    # A KL autoencoder alone gives distributions of latents, and the others' latents need no scale.
    is_kl = name == 'sd'
    return AutoencoderFacts(
        name=name,
        latent_shape=(32, 32, channels),
        scale=autoencoder.SCALE if is_kl else 1.0,
        has_variance=is_kl,
        sha256=sha256,
    )


def load_autoencoder(
    name: str,
    weights: str = '',
    *,
    devices: Sequence[jax.Device] | None = None,
    encoded_per_device: int = _ENCODED_PER_DEVICE,
) -> Autoencoder:
    """The autoencoder of a name.

    Args:
      name: 'sd', 'taesd' or 'pixels'; the last one has no weights.
      weights: Local path or hf:// address, see `weights_files.locate`.
      devices: What encodes and decodes; None for all devices of this process.
      encoded_per_device: Images that one device encodes at a time.
    """
    field = 'data.autoencoder_weights'
    if name == 'pixels':
        encode, decode = _without_params(pixels.encode), _without_params(pixels.decode)
        encoder, decoder = {}, {}
        # Stands for weights, and is to change with the method.
        sha256 = hashlib.sha256(b'pixels: area means of 8x8').hexdigest()
    elif name == 'taesd':
        encode, decode = taesd.encode, taesd.decode
        what = "TAESD's weights (diffusion_pytorch_model.safetensors of madebyollin/taesd)"
        encoder, decoder, sha256 = taesd.load(weights_files.locate(weights, field, what))
    elif name == 'sd':
        encode, decode = autoencoder.encode, autoencoder.decode
        what = (
            "Stable Diffusion's autoencoder (diffusion_pytorch_model.safetensors of "
            'stabilityai/sd-vae-ft-ema)'
        )
        encoder, decoder, sha256 = autoencoder.load(weights_files.locate(weights, field, what))
    else:
        raise ValueError(f"data.autoencoder is {name!r}; it must be 'sd', 'taesd' or 'pixels'.")

    # The networks work on floats in [-1, 1], the rest of the code on uint8 images. The devices do
    # the conversion, so that a quarter of the bytes pass between them and the host.
    def encode_images(params, images):
        return encode(params, images / jnp.float32(127.5) - 1)

    def decode_images(params, latents):
        colours = decode(params, latents)
        pixel_values = jnp.clip(jnp.round((colours + 1) * 127.5), 0, 255)
        return pixel_values.astype(jnp.uint8), jnp.isfinite(colours).all(axis=(1, 2, 3))

    decoded = rows.on_devices(decode_images, decoder, _DECODED_PER_DEVICE, devices)

    def decode_finite(latents):
        images, is_finite = decoded(latents)
        # As bytes, NaN would be black. Latents that are NaN themselves are the caller's business.
        broken = ~is_finite & np.isfinite(latents).all(axis=(1, 2, 3))
        if broken.any():
            raise FloatingPointError(
                f'The autoencoder {name!r} gives numbers that are not finite for {broken.sum()} of '
                f'{len(latents)} images, whose latents are finite; take its weights file anew, or '
                'another one and prepare the data with it.'
            )
        return images

    return Autoencoder(
        facts=autoencoder_facts(name, sha256),
        encode=rows.on_devices(encode_images, encoder, encoded_per_device, devices),
        decode=decode_finite,
    )


def _without_params(function: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """A network without parameters in the form of the others: (params, array) -> array."""
    return lambda params, array: function(array)


def load_text_encoder(
    name: str,
    *,
    tokens: int,
    features: int,
    weights: str = '',
    devices: Sequence[jax.Device] | None = None,
    captions_per_device: int = _CAPTIONS_PER_DEVICE,
) -> TextEncoder:
    """The text encoder of a name.

    Args:
      name: 'clip' or 'words'; the latter has no weights.
      tokens: L, tokens per caption; CLIP has 77.
      features: D, numbers per token; CLIP's weights decide it, 768 for ViT-L/14.
      weights: Local folder, or hf:// address of one, that holds `clip_folder.FILES`.
      devices: What encodes; None for all devices of this process.
      captions_per_device: Captions that one device encodes at a time.
    """
    if name == 'words':
        encode = functools.partial(words.encode, tokens=tokens, features=features)
        sha256 = words.fingerprint(tokens, features)
    elif name == 'clip':
        loaded = clip_folder.load(weights, 'data.text_weights')
        # Without the vision tower, which would take memory on the devices.
        text_tower = {'text_model': loaded.params['text_model']}
        sha256 = loaded.sha256
        width = text_tower['text_model']['final_layer_norm']['bias'].shape[0]
        if (tokens, features) != (clip.TOKENS, width):
            raise ValueError(
                f'data.text_tokens is {tokens} and data.text_features {features}; the CLIP in '
                f'{weights} has {clip.TOKENS} tokens of {width} features: set them so, or take '
                'ViT-L/14, which the models are made for.'
            )
        states = rows.on_devices(loaded.text_states, text_tower, captions_per_device, devices)

        def encode(captions):
            return states(loaded.tokenize(captions)).astype(np.float16)
    else:
        raise ValueError(f"data.text is {name!r}; it must be 'clip' or 'words'.")

    facts = TextFacts(name=name, tokens=tokens, features=features, sha256=sha256)
    return TextEncoder(facts, encode)


def load_encoders(
    model_autoencoder: AutoencoderFacts,
    model_text: TextFacts,
    *,
    autoencoder_weights: str,
    text_weights: str,
    devices: Sequence[jax.Device] | None = None,
) -> Encoders:
    """The encoders that a model was trained with, from files that must be the same.

    Args:
      model_autoencoder: The model's autoencoder.
      model_text: The model's text encoder.
      autoencoder_weights: The path in `config.data.autoencoder_weights`.
      text_weights: The path in `config.data.text_weights`.
      devices: What encodes and decodes; None for all devices of this process.

    Raises:
      FileNotFoundError, ValueError: no such files, or other weights.
    """
    images = load_autoencoder(model_autoencoder.name, autoencoder_weights, devices=devices)
    check_same(images.facts, model_autoencoder, 'autoencoder')
    text = load_text_encoder(
        model_text.name,
        tokens=model_text.tokens,
        features=model_text.features,
        weights=text_weights,
        devices=devices,
    )
    check_same(text.facts, model_text, 'text encoder')
    return Encoders(images, text)


def check_same(
    here: AutoencoderFacts | TextFacts, trained_with: AutoencoderFacts | TextFacts, what: str
) -> None:
    """Refuses an encoder that is not the one that the model was trained with.

    Args:
      here: The encoder at hand.
      trained_with: The model's encoder.
      what: Names the kind of encoder for the message.

    Raises:
      ValueError: the hashes differ.
    """
    if here.sha256 != trained_with.sha256:
        raise ValueError(
            f'The {what} {trained_with.name!r} at hand has hash {here.sha256[:12]}, the model was '
            f'trained with {trained_with.sha256[:12]}; use the same weights file.'
        )
