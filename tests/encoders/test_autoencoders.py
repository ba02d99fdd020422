"""Autoencoders of Stable Diffusion and TAESD: parity with diffusers at full size."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch_reference
from torch_reference import assert_close

from panoptic_jax.data import geometry
from panoptic_jax.data.coco import CocoPanoptic
from panoptic_jax.encoders import autoencoder
from panoptic_jax.encoders.load import autoencoder_facts, load_autoencoder

torch = torch_reference.import_torch()
SHARED = Path(__file__).parents[3] / 'shared'
RNG = np.random.default_rng


@pytest.fixture(scope='module')
def kl(tmp_path_factory):
    """(path, diffusers' module) of a full-size autoencoder."""
    diffusers = pytest.importorskip('diffusers')
    torch.manual_seed(0)
    module = diffusers.AutoencoderKL(
        down_block_types=('DownEncoderBlock2D',) * 4,
        up_block_types=('UpDecoderBlock2D',) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
    )
    path = tmp_path_factory.mktemp('kl') / 'model.safetensors'
    return path, torch_reference.save(torch_reference.randomise(module), path)


def channels_first(array):
    return torch.tensor(array).permute(0, 3, 1, 2)


@pytest.fixture(scope='module')
def loaded_kl(kl):
    """Parameters of encoder and decoder, and the file's hash."""
    return autoencoder.load(str(kl[0]))


def test_autoencoder_loads_every_weight(loaded_kl):
    encoder, decoder, sha256 = loaded_kl
    sizes = [value.size for value in jax.tree.leaves((encoder, decoder))]
    assert sum(sizes) == 83_653_863
    assert len(sha256) == 64


def test_encoder_equals_diffusers(kl, loaded_kl):
    image = RNG(0).uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32)
    with torch.no_grad():
        moments = kl[1].encode(channels_first(image)).latent_dist.parameters
    assert_close(jax.jit(autoencoder.encode)(loaded_kl[0], image), moments.permute(0, 2, 3, 1))


def test_decoder_equals_diffusers(kl, loaded_kl):
    latents = RNG(1).normal(size=(1, 32, 32, 4)).astype(np.float32)
    with torch.no_grad():
        decoded = kl[1].decode(channels_first(latents)).sample
    assert_close(jax.jit(autoencoder.decode)(loaded_kl[1], latents), decoded.permute(0, 2, 3, 1))


def test_older_spelling_of_the_attention_is_read(kl, tmp_path):
    old = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    tensors = {}
    for name, value in safetensors.numpy.load_file(kl[0]).items():
        for new, before in old.items():
            name = name.replace(f'attentions.0.{new}.', f'attentions.0.{before}.')
        tensors[name] = value
    safetensors.numpy.save_file(tensors, tmp_path / 'old.safetensors')
    assert 'encoder.mid_block.attentions.0.query.weight' in tensors
    both = [autoencoder.load(str(path))[:2] for path in (kl[0], tmp_path / 'old.safetensors')]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_autoencoder_gives_moments_of_images(kl):
    # One image a block, since the filling of a block costs seconds.
    loaded = load_autoencoder('sd', str(kl[0]), devices=jax.devices()[:1], encoded_per_device=1)
    image = RNG(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    with torch.no_grad():
        moments = kl[1].encode(channels_first(image) / 127.5 - 1).latent_dist.parameters
    assert_close(loaded.encode(image), moments.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ('config', 'refused'),
    [
        ('{"scaling_factor": 0.13025}', True),
        ('{"scaling_factor": 0.18215}', False),
        ('{}', False),
        ('[1]', False),
        ('no json', False),
    ],
)
def test_autoencoders_of_other_latents_are_refused(tmp_path, config, refused):
    """SDXL's has the same names and shapes; here the file itself is missing."""
    (tmp_path / 'config.json').write_text(config)
    path = str(tmp_path / 'diffusion_pytorch_model.safetensors')
    message = 'beside it has scaling_factor 0.13025' if refused else 'No such file'
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        autoencoder.load(path)


def test_autoencoder_says_what_its_latents_are():
    facts = autoencoder_facts('sd')
    assert (facts.scale, facts.has_variance, facts.latent_shape) == (0.2301, True, (32, 32, 4))


@pytest.fixture(scope='module')
def photographs():
    """TAESD of diffusers, ours, and eight photographs."""
    diffusers = pytest.importorskip('diffusers')
    weights, sample = SHARED / 'weights' / 'taesd.safetensors', SHARED / 'data' / 'coco_sample'
    if not weights.exists() or not sample.exists():
        pytest.skip(f'{weights} or {sample} is missing')
    module = diffusers.AutoencoderTiny().eval()
    tensors = safetensors.numpy.load_file(weights)
    module.load_state_dict({name: torch.tensor(v).float() for name, v in tensors.items()})
    tiny = load_autoencoder('taesd', str(weights), devices=jax.devices()[:1])
    source = CocoPanoptic(str(sample), 'val2017', limit=8)
    return module, tiny, np.stack([geometry.fit(source[i])[0] for i in range(8)])


def psnr(decoded, images):
    """(8,) dB."""
    error = np.mean((decoded - images.astype(float)) ** 2, (1, 2, 3))
    return 10 * np.log10(255**2 / error)


def test_latents_of_photographs_equal_diffusers(photographs):
    module, tiny, images = photographs
    with torch.no_grad():
        latents = module.encode(channels_first(images) / 127.5 - 1).latents
    assert_close(tiny.encode(images), latents.permute(0, 2, 3, 1))


def test_photographs_come_back_as_well_as_from_diffusers(photographs):
    module, tiny, images = photographs
    with torch.no_grad():
        latents = module.encode(channels_first(images) / 127.5 - 1).latents
        decoded = module.decode(latents).sample.clip(-1, 1).permute(0, 2, 3, 1).numpy()
    theirs = psnr(((decoded + 1) * 127.5).round(), images)
    ours = psnr(tiny.decode(tiny.encode(images)), images)
    print('dB', ours.mean(), theirs.mean())
    assert np.abs(ours - theirs).max() < 0.02
    assert 20 < ours.mean() < 26
