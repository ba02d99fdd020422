"""Frozen encoders: words against their definition, pixels against means, TAESD on photographs."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants

from panoptic_jax.data import geometry
from panoptic_jax.data.coco import CocoPanoptic
from panoptic_jax.encoders import pixels, rows, taesd, torch_arrays, weights_files, words
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.encoders.text_encoder import load_text_encoder

SHARED = Path(__file__).parents[3] / 'shared'
WEIGHTS = SHARED / 'weights' / 'taesd.safetensors'
SAMPLE = SHARED / 'data' / 'coco_sample'
needs_weights = pytest.mark.skipif(not WEIGHTS.exists(), reason=f'{WEIGHTS} is missing')


def test_words_are_vectors_then_end_then_zeros():
    encoded = words.encode(['A red cat.', '', 'Red, A! CAT'], 6, 16)
    assert encoded.dtype == np.float16
    end = encoded[1, 0]
    assert end.any()
    np.testing.assert_array_equal(encoded[0, 3], end)
    assert not encoded[0, 4:].any()
    assert not encoded[1, 1:].any()
    np.testing.assert_array_equal(encoded[2, :3], encoded[0, [1, 0, 2]])
    distinct = {row.tobytes() for row in encoded[0, :4]}
    assert len(distinct) == 4


def test_long_captions_keep_the_end():
    long, end = words.encode(['one two three four five', ''], 3, 8)
    np.testing.assert_array_equal(long[:2], words.encode(['one two'], 3, 8)[0, :2])
    np.testing.assert_array_equal(long[2], end[0])


def test_word_vectors_are_standard_normal():
    values = np.stack([words.word_vector(f'word{i}', 768) for i in range(100)]).astype(np.float64)
    assert abs(values.mean()) < 0.02
    assert abs(values.var() - 1) < 0.02
    correlation = np.corrcoef(values) - np.eye(100)
    assert np.abs(correlation).max() < 0.2


def test_words_do_not_depend_on_the_process():
    """Python's own hash() of a string does."""
    code = (
        'from panoptic_jax.encoders import words; '
        "print(words.fingerprint(5, 8), words.encode(['red cat'], 5, 8).tobytes().hex())"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        env={'PYTHONHASHSEED': '12345'},
        cwd=Path(__file__).parents[2],
    )
    here = words.encode(['red cat'], 5, 8).tobytes().hex()
    assert done.stdout.split() == [words.fingerprint(5, 8), here]


def test_fingerprints_differ_with_the_sizes():
    assert words.fingerprint(5, 8) != words.fingerprint(6, 8)


def test_pixels_are_area_means():
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    autoencoder = load_autoencoder('pixels')
    latents = autoencoder.encode(images)
    assert latents.shape == (2, *autoencoder.facts.latent_shape)
    values = images / np.float32(127.5) - 1
    np.testing.assert_allclose(latents[1, 3, 5], values[1, 24:32, 40:48].mean((0, 1)), atol=1e-6)


def test_pixels_give_smooth_images_back():
    ramp = np.linspace(-1, 1, 256, dtype=np.float32)[None, :, None, None]
    values = np.broadcast_to(ramp, (1, 256, 256, 3))
    smooth = np.uint8(np.round((values + 1) * 127.5))
    autoencoder = load_autoencoder('pixels')
    back = autoencoder.decode(autoencoder.encode(smooth)).astype(int)
    assert np.abs(back[:, 32:-32] - smooth[:, 32:-32]).max() <= 1


def test_pixels_do_not_overshoot():
    latents = np.sign(np.random.default_rng(0).normal(size=(1, 32, 32, 3)))
    assert np.abs(pixels.decode(latents)).max() <= 1


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_colours_that_are_not_finite_are_no_image(monkeypatch, wrong):
    """They used to become black or white pixels; latents that are NaN are the caller's business."""
    latents = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    threshold, enlarge = np.sort(latents[:, 0, 0, 0])[1], pixels.decode

    def decode(latents):
        # One number of one image.
        own = latents[:, 0, 0, 0] > threshold
        colours = enlarge(latents)
        return colours.at[:, 9, 9, 1].set(jnp.where(own, wrong, colours[:, 9, 9, 1]))

    whole = load_autoencoder('pixels').decode(latents)
    monkeypatch.setattr(pixels, 'decode', decode)
    autoencoder = load_autoencoder('pixels')
    with pytest.raises(FloatingPointError, match=r"'pixels' gives numbers .* for 1 of 3 images"):
        autoencoder.decode(latents)
    broken = latents[:, 0, 0, 0] > threshold
    np.testing.assert_array_equal(autoencoder.decode(latents[~broken]), whole[~broken])
    latents[broken, 5, 5, 0] = np.nan
    np.testing.assert_array_equal(autoencoder.decode(latents)[~broken], whole[~broken])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"data\.autoencoder is 'vae'; it must be 'sd', 'taesd'"):
        load_autoencoder('vae')
    with pytest.raises(ValueError, match=r"data\.text is 'bert'"):
        load_text_encoder('bert', tokens=77, features=768)


def test_missing_weights_are_refused():
    with pytest.raises(FileNotFoundError, match=r'autoencoder_weights is .*no such file'):
        load_autoencoder('taesd', 'nowhere.safetensors')


@pytest.mark.parametrize(
    ('shape', 'flat', 'element', 'expected'),
    [
        ((5, 3), False, (4, 2), (2, 4)),
        ((5, 3), True, (4, 2), (2, 4)),
        ((5, 3, 2, 4), False, (4, 2, 1, 3), (1, 3, 2, 4)),
        ((5, 3, 2, 4), True, (4, 2, 1, 3), (12 * 1 + 3 * 3 + 2, 4)),
        ((5, 3, 1), True, (4, 2, 0), (2, 4)),
        ((5,), False, (4,), (4,)),
    ],
)
def test_kernels_have_the_output_last(shape, flat, element, expected):
    weight = np.arange(np.prod(shape)).reshape(shape)
    kernel = torch_arrays.linen_kernel(weight, flat=flat)
    assert kernel.size == weight.size
    assert kernel[expected] == weight[element]


@needs_weights
def test_taesd_loads_every_weight():
    encoder, decoder, sha256 = taesd.load(str(WEIGHTS))
    sizes = [value.size for value in jax.tree.leaves((encoder, decoder))]
    assert sum(sizes) == 2_445_063
    assert len(sha256) == 64


KEY = 'decoder.layers.12.conv.2.weight'


@pytest.fixture
def load_changed(tmp_path):
    """A function: {name: array, or nothing to leave it out} -> TAESD with such weights loaded."""

    def load(changes):
        weights = safetensors.numpy.load_file(WEIGHTS) | changes
        kept = {name: value for name, value in weights.items() if value is not None}
        safetensors.numpy.save_file(kept, tmp_path / 'weights.safetensors')
        return taesd.load(str(tmp_path / 'weights.safetensors'))

    return load


@needs_weights
def test_weights_that_lack_one_are_refused(load_changed):
    with pytest.raises(ValueError, match=f'lacks {KEY!r}'):
        load_changed({KEY: None})


@needs_weights
def test_weights_of_another_shape_are_refused(load_changed):
    value = safetensors.numpy.load_file(WEIGHTS)[KEY]
    with pytest.raises(ValueError, match=r'has shape \(3, 3, 64, 32\)'):
        load_changed({KEY: value[:32].copy()})


@needs_weights
def test_weights_with_one_too_many_are_refused(load_changed):
    value = safetensors.numpy.load_file(WEIGHTS)[KEY]
    with pytest.raises(ValueError, match=r"holds 1 weights .*'quant\.weight'"):
        load_changed({'quant.weight': value})


@needs_weights
@pytest.mark.skipif(not SAMPLE.exists(), reason=f'{SAMPLE} is missing')
def test_taesd_reproduces_photographs():
    """Golden numbers of one picture; all 103 gave 23.04 dB on average, 22.09 dB pooled."""
    autoencoder = load_autoencoder('taesd', str(WEIGHTS))
    source = CocoPanoptic(str(SAMPLE), 'val2017', limit=1)
    image = geometry.fit(source[0])[0][None]
    latents = autoencoder.encode(image)
    assert latents.shape == (1, *autoencoder.facts.latent_shape)
    assert abs(float(latents.std()) - 0.707) < 0.005
    decoded = autoencoder.decode(latents)
    psnr = 10 * np.log10(255**2 / np.mean((decoded.astype(float) - image) ** 2))
    # Measured 25.08 without the decoder's tanh, 17.06 with 'SAME' padding, so the bound is tight.
    assert abs(psnr - 25.39) < 0.1


RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(64, 64)).astype(np.float32)
VALUES = RNG.normal(size=(17, 64)).astype(np.float32)


def network(matrix, x):
    return jnp.tanh(x @ matrix)


@pytest.fixture(scope='module')
def on_eight():
    """17 rows by eight devices of 2 rows each."""
    assert len(jax.local_devices()) == 8
    return rows.on_devices(network, MATRIX, 2)(VALUES)


def test_any_number_of_rows_passes_the_network(on_eight):
    np.testing.assert_allclose(on_eight, np.tanh(VALUES @ MATRIX), rtol=1e-4)


def test_rows_do_not_depend_on_the_number_of_devices(on_eight):
    on_one = rows.on_devices(network, MATRIX, 2, jax.devices()[:1])
    np.testing.assert_array_equal(on_one(VALUES), on_eight)


def test_rows_do_not_depend_on_their_company(on_eight):
    on_one = rows.on_devices(network, MATRIX, 2, jax.devices()[:1])
    np.testing.assert_array_equal(on_one(VALUES[16:]), on_eight[16:])


def test_files_that_cannot_be_downloaded_are_named(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', value=True)
    with pytest.raises(FileNotFoundError, match=r'put model\.safetensors of own-er/na\.me some'):
        weights_files.locate('hf://own-er/na.me@v1/sub/model.safetensors', 'data.x', 'weights')


def test_addresses_without_a_file_are_refused():
    with pytest.raises(ValueError, match=r"data\.x is 'hf://owner'; on the Hub it must be hf://"):
        weights_files.locate('hf://owner', 'data.x', 'weights')


def test_paths_that_do_not_exist_are_named():
    with pytest.raises(FileNotFoundError, match=r"data\.x is '', and .*; give the path of weights"):
        weights_files.locate('', 'data.x', 'weights')
