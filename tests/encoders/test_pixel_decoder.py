"""The learned decoder of 'pixels': its means, its noise, and the weights that the package has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from panoptic_jax.data.scenes import Scenes
from panoptic_jax.encoders import pixel_decoder, pixels
from panoptic_jax.encoders.load import load_autoencoder

SHIPPED = 'scenes/decoder'


def random_params(seed=0):
    shapes = pixel_decoder.abstract_parameters()
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: generator.normal(0, 0.1, leaf.shape).astype(np.float32), shapes
    )


def test_means_of_the_image_are_the_latents():
    """Whatever the weights: the decoder adds detail, and no colour."""
    latents = jax.random.uniform(jax.random.key(0), (2, 6, 4, 3), minval=-1)
    noise = jax.random.normal(jax.random.key(1), (2, 12, 8, pixel_decoder.NOISE_CHANNELS))
    params = random_params()
    image = pixel_decoder.PixelDecoder().apply({'params': params}, latents, noise)
    assert image.shape == (2, 48, 32, 3)
    assert jnp.abs(image - pixels.decode(latents)).max() > 0.1
    np.testing.assert_allclose(pixels.encode(image), latents, atol=1e-5)


def test_an_image_does_not_depend_on_its_company():
    latents = jax.random.uniform(jax.random.key(0), (3, 4, 4, 3), minval=-1)
    params = random_params()
    together = pixel_decoder.decode(params, latents)
    assert jnp.abs(together).max() <= 1
    # Sums of another order differ by 5e-5; another picture would by 0.1.
    alone = pixel_decoder.decode(params, latents[1:2])
    np.testing.assert_allclose(alone, together[1:2], atol=1e-3)


def test_the_shipped_decoder_draws_edges():
    """Held-out scenes come out nearer than by enlargement, and the latents stay the same."""
    scenes = Scenes(3, 8, 'validation')
    images = np.stack([scenes[number].image for number in range(8)])
    plain, learned = load_autoencoder('pixels'), load_autoencoder('pixels', SHIPPED)
    assert learned.facts == plain.facts
    assert plain.decoder_sha256 == ''
    assert len(learned.decoder_sha256) == 64
    latents = plain.encode(images)
    np.testing.assert_array_equal(learned.encode(images), latents)
    errors = [
        np.square(each.decode(latents) - images.astype(float)).mean() for each in (plain, learned)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / 'other.safetensors'
    safetensors.numpy.save_file({'in.weight': np.zeros((64, 3, 3, 3), np.float32)}, path)
    with pytest.raises(ValueError, match=r"lacks .*; it must be the weights of a decoder for 'pix"):
        load_autoencoder('pixels', str(path))
    with pytest.raises(FileNotFoundError, match=r'or its name in the package, scenes/decoder'):
        load_autoencoder('pixels', 'scenes/decodr')
