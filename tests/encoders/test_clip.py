"""CLIP's towers and tokens: parity with transformers and open_clip on random weights."""

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

from panoptic_jax.encoders import clip, clip_tokens
from panoptic_jax.encoders.text_encoder import load_text_encoder

torch = torch_reference.import_torch()
SHARED = Path(__file__).parents[3] / 'shared'
RNG = np.random.default_rng


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
    """(3, 77): captions of 5, 75 and no words between start and end, with our padding."""
    tokens = np.full((3, 77), clip_tokens.END, np.int32)
    tokens[:, 0] = clip_tokens.END - 1
    tokens[0, 1:6], tokens[1, 1:76] = RNG(0).integers(1, 49000, 5), RNG(1).integers(1, 49000, 75)
    return tokens


@pytest.fixture(scope='module', params=[LARGE, BASE], ids=['L/14', 'B/32'])
def both_clips(request, tmp_path_factory):
    """transformers' CLIP, and what we load of it."""
    path = tmp_path_factory.mktemp('clip') / 'model.safetensors'
    module = make_clip(path, *request.param)
    return module, clip.load(str(path))[:2]


def test_clip_loads_every_weight(both_clips):
    module, (params, sha256) = both_clips
    assert len(sha256) == 64
    total = sum(value.size for value in jax.tree.leaves(params))
    assert total == sum(value.numel() for value in module.parameters()) - 1  # the logit scale


def test_texts_equal_transformers(both_clips):
    module, (params, _) = both_clips
    tokens = captions_tokens()
    with torch.no_grad():
        text = module.text_model(input_ids=torch.tensor(tokens, dtype=torch.long))
        embeddings = module.text_projection(text.pooler_output)
    assert_close(jax.jit(clip.text_states)(params, tokens), text.last_hidden_state)
    assert_close(jax.jit(clip.text_embeddings)(params, tokens), embeddings)


def test_images_equal_transformers(both_clips):
    module, (params, _) = both_clips
    images = RNG(2).integers(0, 256, (2, 224, 224, 3), np.uint8)
    # CLIP's own statistics of pixels, as its repository has them.
    mean = np.array((0.48145466, 0.4578275, 0.40821073))
    std = np.array((0.26862954, 0.26130258, 0.27577711))
    pixels = torch.tensor(np.float32((images / 255 - mean) / std)).permute(0, 3, 1, 2)
    with torch.no_grad():
        vision = module.vision_model(pixel_values=pixels).pooler_output
        embeddings = module.visual_projection(vision)
    assert_close(jax.jit(clip.image_embeddings)(params, images), embeddings)


def test_images_are_fitted_as_transformers_does():
    transformers = pytest.importorskip('transformers')
    processor = transformers.CLIPImageProcessorPil()
    for shape in ((256, 256, 3), (300, 480, 3), (641, 427, 3), (100, 90, 3)):
        image = RNG(0).integers(0, 256, shape, np.uint8)
        expected = processor(image, do_normalize=False, do_rescale=False)['pixel_values'][0]
        difference = np.abs(clip.fit(image).astype(int) - np.moveaxis(expected, 0, -1))
        assert difference.max() <= 1, shape


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """(path, transformers' module) of a ViT-B/32."""
    path = tmp_path_factory.mktemp('base') / 'model.safetensors'
    return path, make_clip(path, *BASE)


@pytest.fixture
def text_tower(base):
    """The weights of the text tower alone."""
    tensors = safetensors.numpy.load_file(base[0])
    return {name: value for name, value in tensors.items() if name.startswith('text_model.')}


def test_text_tower_alone_is_enough(base, text_tower, tmp_path):
    text_tower['text_model.embeddings.position_ids'] = np.arange(77)[None]  # older files have it
    safetensors.numpy.save_file(text_tower, tmp_path / 'text.safetensors')
    params, *_ = clip.load(str(tmp_path / 'text.safetensors'))
    assert params.keys() == {'text_model'}
    whole, *_ = clip.load(str(base[0]))
    jax.tree.map(np.testing.assert_array_equal, params['text_model'], whole['text_model'])


def test_a_tower_that_lacks_a_weight_is_refused(text_tower, tmp_path):
    del text_tower['text_model.encoder.layers.3.mlp.fc1.bias']
    safetensors.numpy.save_file(text_tower, tmp_path / 'text.safetensors')
    with pytest.raises(ValueError, match=r"lacks 'text_model\.encoder\.layers\.3\.mlp\.fc1\.bias'"):
        clip.load(str(tmp_path / 'text.safetensors'))


def test_a_file_of_something_else_is_refused(tmp_path):
    safetensors.numpy.save_file({'some': np.ones(3)}, tmp_path / 'other.safetensors')
    with pytest.raises(ValueError, match='is not a CLIP with ViT'):
        clip.load(str(tmp_path / 'other.safetensors'))


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


@pytest.fixture(scope='module')
def tokenize(vocabulary):
    """Our function from captions to tokens."""
    vocab, merges = (str(vocabulary / name) for name in ('vocab.json', 'merges.txt'))
    return clip_tokens.load(vocab, merges, 77)


def test_tokens_equal_open_clips(open_clip, tokenize):
    path = SHARED / 'data' / 'coco_captions_val2017_5000.json'
    if not path.exists():
        pytest.skip(f'{path} is missing')
    captions = [entry['caption'] for entry in json.loads(path.read_text())['annotations']]
    assert len(captions) == 25_014
    captions += ['', 'word ' * 200]
    theirs = open_clip[0](captions).numpy()
    ours = tokenize(captions)
    after_end = np.arange(77) > theirs.argmax(axis=1)[:, None]
    np.testing.assert_array_equal(ours, np.where(after_end, clip_tokens.END, theirs))


def test_tokens_of_known_captions(tokenize):
    nothing, cat = tokenize(['', 'a photo of a cat'])
    assert (nothing == [49406, *[49407] * 76]).all()
    assert cat[:7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_another_vocabulary_is_refused(vocabulary, tmp_path):
    (tmp_path / 'vocab.json').write_text('{"a": 0, "<|endoftext|>": 1}')
    with pytest.raises(ValueError, match='must be the vocabulary of CLIP, which has 49408 entries'):
        clip_tokens.load(str(tmp_path / 'vocab.json'), str(vocabulary / 'merges.txt'), 77)


def test_merges_of_another_vocabulary_are_refused(vocabulary, tmp_path):
    lines = (vocabulary / 'merges.txt').read_text().splitlines()
    (tmp_path / 'merges.txt').write_text('\n'.join([*lines[:-1], 'never seen']))
    with pytest.raises(ValueError, match=r'merges\.txt does not belong to .*vocab\.json'):
        clip_tokens.load(str(vocabulary / 'vocab.json'), str(tmp_path / 'merges.txt'), 77)


@pytest.mark.parametrize('kept', [0, 1, 20_000, 48_893, 48_895])
def test_merges_cut_at_a_line_end_are_refused(vocabulary, tmp_path, kept):
    """Each of their merges fits the vocabulary, so that the tokenizer takes them."""
    head, *lines = (vocabulary / 'merges.txt').read_text().splitlines()
    assert len(lines) == clip_tokens.MERGES == 48_894
    lines = (lines + lines[:1])[:kept]
    (tmp_path / 'merges.txt').write_text('\n'.join([head, *lines, '']))
    with pytest.raises(ValueError, match=f'has {kept:,} merges, and the vocabulary of CLIP comes'):
        clip_tokens.load(str(vocabulary / 'vocab.json'), str(tmp_path / 'merges.txt'), 77)


@pytest.fixture
def clip_folder(base, vocabulary, tmp_path):
    """A folder with all files of a ViT-B/32."""
    (tmp_path / 'model.safetensors').symlink_to(base[0])
    for name in ('vocab.json', 'merges.txt'):
        (tmp_path / name).write_text((vocabulary / name).read_text())
    return tmp_path


def load_base(folder, features=512):
    """The text encoder of the folder, on one device."""
    return load_text_encoder(
        'clip',
        tokens=77,
        features=features,
        weights=str(folder),
        devices=jax.devices()[:1],
        captions_per_device=2,
    )


def test_text_encoder_gives_states_of_captions(base, clip_folder):
    captions = ['A dog on a bench.', '']
    encoded = load_base(clip_folder).encode(captions)
    assert encoded.dtype == np.float16
    transformers = pytest.importorskip('transformers')
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip_folder, pad_token='<|endoftext|>')
    tokens = tokenizer(captions, padding='max_length', max_length=77, return_tensors='pt')
    with torch.no_grad():
        expected = base[1].text_model(input_ids=tokens['input_ids']).last_hidden_state.numpy()
    np.testing.assert_allclose(encoded, expected, atol=2e-3 * np.abs(expected).max())


def test_other_sizes_than_the_weights_have_are_refused(clip_folder):
    with pytest.raises(ValueError, match='has 77 tokens of 512 features'):
        load_base(clip_folder, features=768)


def test_a_folder_without_merges_is_refused(clip_folder):
    (clip_folder / 'merges.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r"merges\.txt', .*CLIP's merges\.txt, in one fold"):
        load_base(clip_folder)
