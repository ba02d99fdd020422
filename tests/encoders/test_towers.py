"""Stable Diffusion's autoencoder and CLIP: parity with PyTorch at full size on random weights."""

import gzip
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch_reference
from torch_reference import assert_close

from panoptic_jax.data import geometry
from panoptic_jax.data.coco import CocoPanoptic
from panoptic_jax.encoders import autoencoder, clip, clip_tokens, load
from panoptic_jax.encoders.load import load_autoencoder, load_text_encoder

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


def test_autoencoder_equals_diffusers(kl):
    path, module = kl
    encoder, decoder, sha256 = autoencoder.load(str(path))
    sizes = [value.size for value in jax.tree.leaves((encoder, decoder))]
    assert sum(sizes) == 83_653_863
    assert len(sha256) == 64
    image = RNG(0).uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32)
    latents = RNG(1).normal(size=(1, 32, 32, 4)).astype(np.float32)
    with torch.no_grad():
        moments = module.encode(torch.tensor(image).permute(0, 3, 1, 2)).latent_dist.parameters
        decoded = module.decode(torch.tensor(latents).permute(0, 3, 1, 2)).sample
    assert_close(jax.jit(autoencoder.encode)(encoder, image), moments.permute(0, 2, 3, 1))
    clipped = decoded.permute(0, 2, 3, 1).clip(-1, 1)
    assert_close(jax.jit(autoencoder.decode)(decoder, latents), clipped)
    assert (abs(clipped) < 1).float().mean() > 0.5  # clipping does not hide the values


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


def test_autoencoder_gives_moments_of_pictures(kl, one_device, monkeypatch):
    monkeypatch.setattr(load, '_ENCODED_PER_DEVICE', 1)  # the blocks' filling costs seconds
    loaded = load_autoencoder('sd', str(kl[0]))
    assert (loaded.scale, loaded.has_variance, loaded.latent_shape) == (0.2301, True, (32, 32, 4))
    picture = RNG(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    with torch.no_grad():
        image = torch.tensor(picture).permute(0, 3, 1, 2) / 127.5 - 1
        expected = kl[1].encode(image).latent_dist.parameters.permute(0, 2, 3, 1)
    assert_close(loaded.encode(picture), expected)


def make_clip(path, text, vision, projection):
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=transformers.CLIPTextConfig(**text, projection_dim=projection).to_dict(),
        vision_config=transformers.CLIPVisionConfig(**vision, projection_dim=projection).to_dict(),
        projection_dim=projection,
    )
    # CLIP starts so small that its layers would hardly matter.
    module = torch_reference.randomise(transformers.CLIPModel(config), growth=2.0)
    return torch_reference.save(module, path)


def sizes(width, layers, **others):
    return {
        'hidden_size': width,
        'intermediate_size': 4 * width,
        'num_hidden_layers': layers,
        'num_attention_heads': width // 64,
        **others,
    }


LARGE = sizes(768, 12), sizes(1024, 24, patch_size=14), 768
BASE = sizes(512, 12), sizes(768, 12, patch_size=32), 512


def captions_tokens():
    """(3, 77): start, 5, 75 and no words, end, and padding as ours."""
    tokens = np.full((3, 77), clip_tokens.END, np.int32)
    tokens[:, 0] = clip_tokens.END - 1
    tokens[0, 1:6], tokens[1, 1:76] = RNG(0).integers(1, 49000, 5), RNG(1).integers(1, 49000, 75)
    return tokens


@pytest.mark.parametrize('size', [LARGE, BASE], ids=['L/14', 'B/32'])
def test_clip_equals_transformers(tmp_path, size):
    path = tmp_path / 'model.safetensors'
    module = make_clip(path, *size)
    params, sha256 = clip.load(str(path))
    assert len(sha256) == 64
    total = sum(value.size for value in jax.tree.leaves(params))
    assert total == sum(value.numel() for value in module.parameters()) - 1  # the logit scale
    tokens = captions_tokens()
    pictures = RNG(2).integers(0, 256, (2, 224, 224, 3), np.uint8)
    mean, std = np.array(clip._PIXEL_MEAN), np.array(clip._PIXEL_STD)
    pixels = torch.tensor(np.float32((pictures / 255 - mean) / std)).permute(0, 3, 1, 2)
    with torch.no_grad():
        text = module.text_model(input_ids=torch.tensor(tokens, dtype=torch.long))
        vision = module.vision_model(pixel_values=pixels).pooler_output
        assert_close(jax.jit(clip.text_states)(params, tokens), text.last_hidden_state)
        assert_close(
            jax.jit(clip.text_embeddings)(params, tokens),
            module.text_projection(text.pooler_output),
        )
        assert_close(
            jax.jit(clip.image_embeddings)(params, pictures), module.visual_projection(vision)
        )


def test_pictures_are_fitted_as_transformers_does():
    transformers = pytest.importorskip('transformers')
    processor = transformers.CLIPImageProcessorPil()
    for shape in ((256, 256, 3), (300, 480, 3), (641, 427, 3), (100, 90, 3)):
        picture = RNG(0).integers(0, 256, shape, np.uint8)
        expected = processor(picture, do_normalize=False, do_rescale=False)['pixel_values'][0]
        difference = np.abs(clip.fit(picture).astype(int) - np.moveaxis(expected, 0, -1))
        assert difference.max() <= 1, shape


def test_text_tower_alone_is_enough(tmp_path):
    path = tmp_path / 'model.safetensors'
    make_clip(path, *BASE)
    tensors = safetensors.numpy.load_file(path)
    text = {n: v for n, v in tensors.items() if n.startswith('text_model.')}
    text['text_model.embeddings.position_ids'] = np.arange(77)[None]  # of older files
    safetensors.numpy.save_file(text, tmp_path / 'text.safetensors')
    params, _ = clip.load(str(tmp_path / 'text.safetensors'))
    assert params.keys() == {'text_model'}
    whole, _ = clip.load(str(path))
    jax.tree.map(np.testing.assert_array_equal, params['text_model'], whole['text_model'])
    del text['text_model.encoder.layers.3.mlp.fc1.bias']
    safetensors.numpy.save_file(text, tmp_path / 'text.safetensors')
    with pytest.raises(ValueError, match=r"lacks 'text_model\.encoder\.layers\.3\.mlp\.fc1\.bias'"):
        clip.load(str(tmp_path / 'text.safetensors'))
    safetensors.numpy.save_file({'some': np.ones(3)}, tmp_path / 'text.safetensors')
    with pytest.raises(ValueError, match="is not a CLIP of OpenAI's"):
        clip.load(str(tmp_path / 'text.safetensors'))


@pytest.fixture(scope='module')
def open_clip():
    """open_clip's tokenizer, loaded without the models that its package imports."""
    pytest.importorskip('ftfy')
    package = importlib.util.find_spec('open_clip')
    if package is None:
        pytest.skip('open_clip is not installed')
    path = Path(package.origin).with_name('tokenizer.py')
    spec = importlib.util.spec_from_file_location('open_clip_tokenizer', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer(), path.with_name('bpe_simple_vocab_16e6.txt.gz')


@pytest.fixture(scope='module')
def vocabulary(open_clip, tmp_path_factory):
    """A folder with CLIP's own vocab.json and merges.txt, rebuilt from open_clip's wheel."""
    tokenizer, path = open_clip
    names = {'<start_of_text>': '<|startoftext|>', '<end_of_text>': '<|endoftext|>'}
    words = {names.get(word, word): number for word, number in tokenizer.encoder.items()}
    merges = gzip.decompress(path.read_bytes()).decode().split('\n')[1 : 49152 - 256 - 2 + 1]
    folder = tmp_path_factory.mktemp('vocabulary')
    (folder / 'vocab.json').write_text(json.dumps(words))
    (folder / 'merges.txt').write_text('#version: 0.2\n' + '\n'.join(merges) + '\n')
    return folder


def test_tokens_equal_open_clips(open_clip, vocabulary):
    path = SHARED / 'data' / 'coco_captions_val2017_5000.json'
    if not path.exists():
        pytest.skip(f'{path} is missing')
    captions = [entry['caption'] for entry in json.loads(path.read_text())['annotations']]
    assert len(captions) == 25_014
    captions += ['', 'word ' * 200]
    theirs = open_clip[0](captions).numpy()
    encode = clip_tokens.load(*map(str, (vocabulary / 'vocab.json', vocabulary / 'merges.txt')), 77)
    ours = encode(captions)
    after_end = np.arange(77) > theirs.argmax(axis=1)[:, None]
    np.testing.assert_array_equal(ours, np.where(after_end, clip_tokens.END, theirs))
    assert (ours[-2] == [49406, *[49407] * 76]).all()
    assert encode(['a photo of a cat'])[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_another_vocabulary_is_refused(vocabulary, tmp_path):
    (tmp_path / 'vocab.json').write_text('{"a": 0, "<|endoftext|>": 1}')
    with pytest.raises(ValueError, match='must be the vocabulary of CLIP, which has 49408 entries'):
        clip_tokens.load(str(tmp_path / 'vocab.json'), str(vocabulary / 'merges.txt'), 77)
    (tmp_path / 'merges.txt').write_text('#version: 0.2\nnever seen\n')
    with pytest.raises(ValueError, match=r'merges\.txt does not belong to .*vocab\.json'):
        clip_tokens.load(str(vocabulary / 'vocab.json'), str(tmp_path / 'merges.txt'), 77)


def test_text_encoder_gives_states_of_captions(vocabulary, tmp_path, one_device, monkeypatch):
    monkeypatch.setattr(load, '_CAPTIONS_PER_DEVICE', 2)
    module = make_clip(tmp_path / 'model.safetensors', *BASE)
    for name in ('vocab.json', 'merges.txt'):
        (tmp_path / name).write_text((vocabulary / name).read_text())
    encoder = load_text_encoder('clip', 77, 512, str(tmp_path))
    encoded = encoder.encode(['A dog on a bench.', ''])
    assert encoded.dtype == np.float16
    transformers = pytest.importorskip('transformers')
    tokens = transformers.CLIPTokenizer.from_pretrained(tmp_path, pad_token='<|endoftext|>')(
        ['A dog on a bench.', ''], padding='max_length', max_length=77, return_tensors='pt'
    )['input_ids']
    with torch.no_grad():
        expected = module.text_model(input_ids=tokens).last_hidden_state.numpy()
    np.testing.assert_allclose(encoded, expected, atol=2e-3 * np.abs(expected).max())
    with pytest.raises(ValueError, match='has 77 tokens of 512 features'):
        load_text_encoder('clip', 77, 768, str(tmp_path))
    (tmp_path / 'merges.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r"merges\.txt', .*CLIP's merges\.txt, in one fold"):
        load_text_encoder('clip', 77, 512, str(tmp_path))


def test_tiny_autoencoder_reproduces_photographs_as_diffusers_does(one_device):
    diffusers = pytest.importorskip('diffusers')
    weights, sample = SHARED / 'weights' / 'taesd.safetensors', SHARED / 'data' / 'coco_sample'
    if not weights.exists() or not sample.exists():
        pytest.skip(f'{weights} or {sample} is missing')
    module = diffusers.AutoencoderTiny().eval()
    tensors = safetensors.numpy.load_file(weights)
    module.load_state_dict({n: torch.tensor(v).float() for n, v in tensors.items()})
    source = CocoPanoptic(str(sample), 'val2017', limit=8)
    pictures = np.stack([geometry.fit(source[i])[0] for i in range(8)])
    tiny = load_autoencoder('taesd', str(weights))

    def psnr(decoded):
        return 10 * np.log10(255**2 / np.mean((decoded - pictures.astype(float)) ** 2, (1, 2, 3)))

    with torch.no_grad():
        latents = module.encode(torch.tensor(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latents
        decoded = (
            module.decode(latents).sample.clip(-1, 1).permute(0, 2, 3, 1).numpy() + 1
        ) * 127.5
    assert_close(tiny.encode(pictures), latents.permute(0, 2, 3, 1))
    theirs, ours = psnr(decoded.round()), psnr(tiny.decode(tiny.encode(pictures)))
    print('dB', ours.mean(), theirs.mean())
    assert np.abs(ours - theirs).max() < 0.02
    assert 20 < ours.mean() < 26
