"""CLIPs other than OpenAI's: computed as their config.json says, or refused."""

import json
import logging

import numpy as np
import pytest
import safetensors.numpy
import torch_reference
from test_clip import captions_tokens, make_clip, sizes
from torch_reference import assert_close

from panoptic_jax.encoders import clip, clip_config, clip_folder, clip_tokens, weights_files
from panoptic_jax.encoders.clip_config import OPENAI, Form

torch = torch_reference.import_torch()
SIZES = {
    'text_model': {'size': 96, 'layers': 2, 'vocabulary': clip_tokens.VOCABULARY},
    'vision_model': {'size': 128, 'layers': 1, 'patch': 56},
    'projection': 32,
}
OTHER = {'hidden_act': 'gelu', 'layer_norm_eps': 1e-3}


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """(path, transformers' module) of a small CLIP with plain GELU, other heads and epsilon."""
    folder = tmp_path_factory.mktemp('other')
    text = sizes(96, 2, **OTHER) | {'num_attention_heads': 4}
    vision = sizes(128, 1, patch_size=56, **OTHER) | {'num_attention_heads': 8}
    module = make_clip(folder / 'model.safetensors', text, vision, 32)
    module.config.to_json_file(folder / 'config.json', use_diff=False)
    return folder, module


@pytest.fixture(scope='module')
def loaded(other):
    return clip.load(str(other[0] / 'model.safetensors'), str(other[0] / 'config.json'))


def test_the_forms_are_those_of_the_config(loaded):
    expected = {'text_model': Form(24, 'gelu', 1e-3), 'vision_model': Form(16, 'gelu', 1e-3)}
    assert loaded[2] == expected


def test_texts_of_other_forms_equal_transformers(other, loaded):
    params, _, forms = loaded
    tokens = captions_tokens()
    with torch.no_grad():
        text = other[1].text_model(input_ids=torch.tensor(tokens, dtype=torch.long))
        embeddings = other[1].text_projection(text.pooler_output)
    found = clip.text_embeddings(params, tokens, forms['text_model'])
    assert_close(found, embeddings)
    # OpenAI's heads do not even divide this width.
    wrong = clip.text_embeddings(params, tokens, forms['text_model']._replace(head_size=48))
    assert np.abs(wrong - np.asarray(embeddings)).max() > 0.01 * np.asarray(embeddings).std()


def test_images_of_other_forms_equal_transformers(other, loaded):
    params, _, forms = loaded
    images = np.random.default_rng(2).integers(0, 256, (2, 224, 224, 3), np.uint8)
    mean, std = np.array(clip._PIXEL_MEAN), np.array(clip._PIXEL_STD)
    pixels = torch.tensor(np.float32((images / 255 - mean) / std)).permute(0, 3, 1, 2)
    with torch.no_grad():
        vision = other[1].vision_model(pixel_values=pixels).pooler_output
        embeddings = other[1].visual_projection(vision)
    assert_close(clip.image_embeddings(params, images, forms['vision_model']), embeddings)


def test_another_form_of_the_same_weights_has_another_hash(other, loaded, tmp_path):
    content = json.loads((other[0] / 'config.json').read_text())
    content['text_config']['layer_norm_eps'] = 1e-5
    (tmp_path / 'config.json').write_text(json.dumps(content))
    weights = str(other[0] / 'model.safetensors')
    _, sha256, _ = clip.load(weights, str(tmp_path / 'config.json'))
    assert len(sha256) == 64
    assert sha256 != loaded[1]


def read(tmp_path, content, held=SIZES):
    path = tmp_path / 'config.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return clip_config.read(str(path), held, 'model.safetensors')


def fields(text=None, vision=None, **top):
    """A config.json that fits `SIZES`, with changes."""
    return {
        'model_type': 'clip',
        'projection_dim': 32,
        'text_config': {
            'hidden_size': 96, 'num_hidden_layers': 2, 'num_attention_heads': 4,
            'intermediate_size': 384, 'hidden_act': 'gelu', 'eos_token_id': 2, **(text or {}),
        },
        'vision_config': {
            'hidden_size': 128, 'num_hidden_layers': 1, 'num_attention_heads': 2,
            'intermediate_size': 512, 'patch_size': 56, **(vision or {}),
        },
        **top,
    }  # fmt: skip


def test_what_a_config_leaves_out_is_transformers_default(tmp_path):
    forms = read(tmp_path, fields())
    assert forms == {'text_model': Form(24, 'gelu', 1e-5), 'vision_model': OPENAI}


def test_older_configs_have_a_second_dict_that_counts(tmp_path):
    content = fields(text_config_dict={'hidden_act': 'quick_gelu'}, vision_config_dict=None)
    assert read(tmp_path, content)['text_model'] == Form(24, 'quick_gelu', 1e-5)


def test_a_text_tower_alone_has_its_fields_at_the_top(tmp_path):
    content = {**fields()['text_config'], 'model_type': 'clip_text_model', 'projection_dim': 512}
    held = {'text_model': SIZES['text_model']}
    assert read(tmp_path, content, held) == {'text_model': Form(24, 'gelu', 1e-5)}


REFUSED = {
    'activation': (fields({'hidden_act': 'gelu_new'}), "hidden_act 'gelu_new'; it must be quick"),
    'heads': (fields({'num_attention_heads': 5}), 'num_attention_heads 5; it must be a divisor of'),
    'no heads': (fields({'num_attention_heads': 0}), 'num_attention_heads 0; it must be a divis'),
    'text': (fields({'num_attention_heads': '4'}), "num_attention_heads '4'; it must be a divis"),
    'inner': (fields({'intermediate_size': 400}), 'intermediate_size 400; it must be 4 times'),
    'end': (fields({'eos_token_id': 7}), 'eos_token_id 7; it must be 49407 or 2'),
    'side': (fields(vision={'image_size': 336}), 'image_size 336; it must be 224'),
    'epsilon': (fields(vision={'layer_norm_eps': float('nan')}), 'layer_norm_eps nan; it must be'),
    'width': (fields({'hidden_size': 512}), r'hidden_size 512, but the weights in model\.safete'),
    'layers': (fields({'num_hidden_layers': 12}), 'num_hidden_layers 12, but the weights'),
    'patch': (fields(vision={'patch_size': 32}), 'patch_size 32, but the weights .* 56'),
    'vocabulary': (fields({'vocab_size': 100}), 'vocab_size 100, but the weights'),
    'projection': (fields(projection_dim=64), 'projection_dim 64, but the weights'),
    'kind': (fields(model_type='siglip'), "describes a 'siglip'; it must be the config.json of a"),
    'list': ('[1, 2]', "describes a 'list'"),
    'no json': ('version https://git-lfs', r'config\.json is no JSON file'),
    'deep': ('[' * 100_000, r'config\.json is no JSON file'),
    'field': (fields(text_config=[1]), 'text_config must be an object'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_configs_that_do_not_fit_are_refused(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, content)
    assert '\n' not in str(error.value)


def test_without_a_config_it_says_what_is_assumed(caplog):
    held = {'text_model': {'size': 512, 'layers': 12}}
    with caplog.at_level(logging.WARNING, logger='absl'):
        assert clip_config.read('', held, 'model.safetensors') == {'text_model': OPENAI}
    assert 'No config.json lies beside model.safetensors: its attention heads are' in caplog.text


def test_without_a_config_a_width_of_no_such_heads_is_refused():
    with pytest.raises(ValueError, match=r'text_model\) is 96 wide, which heads of 64 features'):
        clip_config.read('', SIZES, 'model.safetensors')


def test_the_config_is_looked_for_beside_the_weights(other, monkeypatch):
    """Locally and on the Hub; the vocabulary does not matter here."""
    folder, asked = other[0], []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        return str(folder / name)

    monkeypatch.setattr(clip_tokens, 'load', lambda *_: None)
    for name in ('vocab.json', 'merges.txt'):
        (folder / name).touch()
    monkeypatch.setattr('huggingface_hub.hf_hub_download', download)
    for address in (str(folder), 'hf://owner/name@v1'):
        found = clip_folder.load(address, 'data.text_weights')
        assert found.text_states.keywords == {'form': Form(24, 'gelu', 1e-3)}
        assert found.image_embeddings.keywords == {'form': Form(16, 'gelu', 1e-3)}
    assert ('owner/name', 'config.json', 'v1') in asked


def test_weights_of_another_vocabulary_are_refused(other, tmp_path):
    """A token without an embedding would silently get the last one's."""
    tensors = safetensors.numpy.load_file(other[0] / 'model.safetensors')
    name = 'text_model.embeddings.token_embedding.weight'
    tensors[name] = tensors[name][:-1].copy()
    safetensors.numpy.save_file(tensors, tmp_path / 'model.safetensors')
    content = json.loads((other[0] / 'config.json').read_text())
    content['text_config']['vocab_size'] = 49407
    (tmp_path / 'config.json').write_text(json.dumps(content))
    for name in ('vocab.json', 'merges.txt'):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match='has embeddings of 49,407 tokens, where the vocabulary'):
        clip_folder.load(str(tmp_path), 'data.text_weights')


def test_a_config_that_is_not_there_is_none(tmp_path):
    assert weights_files.locate_if_there(str(tmp_path / 'config.json'), 'data.x') == ''


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        ('text_model.encoder.layers.99999999.x', (2,)),
        ('text_model.embeddings.token_embedding.weight', (7,)),
        ('vision_model.embeddings.patch_embedding.weight', (0, 3, 0, 0)),
        ('text_projection.weight', (7,)),
    ],
)
def test_shapes_of_no_clip_are_refused(other, tmp_path, name, shape):
    tensors = safetensors.numpy.load_file(other[0] / 'model.safetensors')
    tensors[name] = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = str(tmp_path / 'model.safetensors')
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match='is not a CLIP with ViT'):
        clip.load(path, str(other[0] / 'config.json'))
