"""The frozen encoders by name: what an autoencoder and a text encoder are to the rest of the code.

Preparation, sampling and evaluation use them; the training loop sees encoded records only.
`data/facts.py` says what identifies an encoder, `encoders/text_encoder.py` has those of text, and
the other modules here hold the networks.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.data.facts import AutoencoderFacts, TextFacts
from panoptic_jax.encoders import autoencoder, pixel_decoder, pixels, rows, taesd, weights_files
from panoptic_jax.encoders.text_encoder import TextEncoder, load_text_encoder

# Rows that a device works on at a time. Sampling decodes a few images per device, preparation and
# evaluation encode many.
_ENCODED_PER_DEVICE = 8
_DECODED_PER_DEVICE = 2


class Autoencoder(NamedTuple):
    """A frozen autoencoder of 256 px images. Its functions take any number of rows.

    Attributes:
      facts: What identifies the autoencoder.
      encode: (n, 256, 256, 3) uint8 to latents (n, h, w, c) float32, not scaled, or moments.
      decode: (n, h, w, c) float32, already divided by the scale, to (n, 256, 256, 3) uint8; raises
        FloatingPointError where finite latents give colours that are not.
      decoder_sha256: Hash of a decoder that leaves latents as they are, so that it is no part of
        the facts; '' where the facts say all.
    """

    facts: AutoencoderFacts
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    decoder_sha256: str = ''


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
      name: 'sd', 'taesd' or 'pixels'.
      weights: Path, name or hf:// address, see `weights_files.locate`. 'pixels' needs none; with
        those of `pixel_decoder` it draws edges and texture.
      devices: What encodes and decodes; None for all devices of this process.
      encoded_per_device: Images that one device encodes at a time.
    """
    field = 'data.autoencoder_weights'
    decoder_sha256 = ''
    if name == 'pixels':
        encode, decode = _without_params(pixels.encode), _without_params(pixels.decode)
        encoder, decoder = {}, {}
        if weights:
            what = "weights of a decoder for 'pixels', or its name in the package, scenes/decoder"
            located = weights_files.locate(weights, field, what)
            decode = pixel_decoder.decode
            decoder, decoder_sha256 = pixel_decoder.load(located)
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
        decoder_sha256=decoder_sha256,
    )


def _without_params(function: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """A network without parameters in the form of the others: (params, array) -> array."""
    return lambda params, array: function(array)


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
