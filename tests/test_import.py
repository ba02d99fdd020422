"""Imported weights: parity with PyTorch at full size, what is refused, and sampling from them."""

import json
import re
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch_pdm
from conftest import tiny_config
from torch_reference import assert_close, import_torch

from panoptic_jax import config as settings
from panoptic_jax import import_weights, sample, train
from panoptic_jax.data import manifest
from panoptic_jax.models import build, uvit
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import foreign_names
from panoptic_jax.weights import initial as initial

torch = import_torch()


def full_config(name, path, size='S', **model):
    """A full-size model on the frozen encoders of least weight; nothing is prepared."""
    config = settings.default()
    config.data.dir = str(path / 'no data')
    config.data.autoencoder = 'taesd'
    config.model.update(name=name, **uvit.SIZES[size], **model)
    config.foreign.path = str(path / 'model.pth')
    return config


@pytest.fixture
def encoders(monkeypatch):
    """TAESD's description without its file."""
    taesd = {'name': 'taesd', 'latent_shape': (32, 32, 4), 'scale': 1.0, 'has_variance': False}
    words = {'name': 'words', 'tokens': 77, 'features': 768, 'sha256': 'b' * 64}
    facts = {'autoencoder': taesd | {'sha256': 'a' * 64}, 'text': words, 'categories': [{'id': 1}]}
    empty_text = np.zeros((77, 768), np.float16)
    monkeypatch.setattr(import_weights, '_encoders', lambda config: (facts, empty_text))


CASES = [
    ('uvit', 'S', {}, 44_692_644),
    ('uvit', 'S-deep', {}, 58_345_636),
    ('one_stream', 'S', {}, 44_956_012),
    ('two_stream', 'S', {}, 92_480_364),
    ('two_stream', 'S', {'given_map': True}, None),
]


@pytest.mark.parametrize(('kind', 'size', 'variant', 'count'), CASES)
def test_imported_models_equal_pytorch(tmp_path, encoders, kind, size, variant, count):
    depth = uvit.SIZES[size]['depth']
    reference = torch_pdm.random_pdm(kind, depth=depth, **variant)
    torch.save(reference.state_dict(), tmp_path / 'model.pth')
    config = full_config(kind, tmp_path, size, **variant)
    import_weights.import_weights(config, str(tmp_path / 'run'))
    params, _, description = weights_file.load(str(tmp_path / 'run' / 'weights.safetensors'))
    assert len(description['source']['sha256']) == 64
    assert description['source']['file'] == 'model.pth'
    assert description['model']['zero_conv_bias'] == (kind == 'two_stream')
    if count:
        assert sum(value.size for value in jax.tree.leaves(params)) == count

    rng = np.random.default_rng(0)
    shapes = (1, 32, 32, 4), (1, 64, 64, 8), (1, 77, 768)
    x, m, text = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    t = np.array([437], np.int32)
    with torch.no_grad():
        channels_first = [torch.tensor(array).permute(0, 3, 1, 2) for array in (x, m)]
        expected = reference(*channels_first, torch.tensor(text), torch.tensor(t))
    model = weights_file.build_model(description, np.float32)
    found = jax.jit(model.apply)({'params': params}, x, m, text, t)
    assert_close(found.noise, expected[0].permute(0, 2, 3, 1))
    assert (found.map_bits is None) == (expected[1] is None)
    if expected[1] is not None:
        assert_close(found.map_bits, expected[1].permute(0, 2, 3, 1))


def tiny_tensors(config):
    """{torch name: array} of a tiny two-stream model, from our own shapes, and those."""
    description = weights_file.describe(config, manifest.open_manifest(config.data.dir))
    description['model']['zero_conv_bias'] = True
    model = weights_file.build_model(description, np.float32)
    inputs = weights_file.model_inputs(description)
    fresh = jax.eval_shape(lambda k: build.first_parameters(model, k, inputs), jax.random.key(0))
    rng, tensors = np.random.default_rng(0), {}
    wanted = {
        '/'.join(entry.key for entry in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(fresh)
    }
    for path, shape in wanted.items():
        torch_shape = shape
        if path.endswith('positions'):
            torch_shape = (1, *shape)
        elif 'zero_convs' in path and path.endswith('kernel'):
            torch_shape = (*shape[::-1], 1)
        elif path.endswith('patch_embed/kernel'):
            channels = 8 if path.startswith('map') else inputs[0].shape[-1]
            patch = int((shape[0] // channels) ** 0.5)
            torch_shape = (shape[1], channels, patch, patch)
        elif path.endswith('kernel'):
            torch_shape = shape[::-1] if len(shape) == 2 else (shape[3], shape[2], *shape[:2])
        name = foreign_names.torch_name(path, config.model.depth, True)
        tensors[name] = rng.normal(0, 0.1, torch_shape).astype(np.float32)
    return tensors, wanted


@pytest.fixture
def tiny(config, tmp_path):
    """(config, tensors) of a tiny two-stream model whose file is config.foreign.path."""
    config.model.name = 'two_stream'
    tensors, _ = tiny_tensors(config)
    config.foreign.path = str(tmp_path / 'model.pth')
    return config, tensors


def save_pth(config, tensors):
    content = {name: torch.tensor(value) for name, value in tensors.items()}
    torch.save(content, config.foreign.path)


def test_imported_two_stream_samples_without_flags(tiny, tmp_path, one_device):
    config, tensors = tiny
    save_pth(
        config,
        tensors | {'mask_embed_0.proj.bias': np.ones(3), 'zero_convs.4.conv.bias': np.ones(3)},
    )
    import_weights.import_weights(config, str(tmp_path / 'run'))
    config.model.name = 'one_stream'  # what the file says counts, not the config
    config.foreign.path = ''
    sample.sample(config, str(tmp_path / 'run'))
    facts = json.loads((tmp_path / 'run' / 'samples' / 'settings.json').read_text())
    assert re.fullmatch(r'weights\.safetensors \w{12}', facts['weights'])
    assert (facts['model']['name'], facts['ema']) == ('two_stream', False)
    assert len(list((tmp_path / 'run' / 'samples' / 'panoptic').iterdir())) == 6


def test_mapping_needs_no_torch_and_keeps_every_number(tiny):
    config, tensors = tiny
    _, wanted = tiny_tensors(config)
    found = foreign_names.translate(tensors, wanted, config.model.depth)
    assert found.params.keys() == wanted.keys()
    assert not any(found[1:])
    total = sum(np.abs(value).sum() for value in tensors.values())
    assert sum(np.abs(v).sum() for v in found.params.values()) == pytest.approx(total, rel=1e-5)


def test_what_does_not_fit_is_listed_and_refused_unless_allowed(tiny, tmp_path):
    config, tensors = tiny
    bias = tensors.pop('mid_block_mask.mlp.fc1.bias')
    tensors['decoder_pred.weight'] = tensors['decoder_pred.weight'][:, :5]
    tensors['label_emb.weight'] = bias
    save_pth(config, tensors)
    with pytest.raises(ValueError, match='does not fit the model') as error:
        import_weights.import_weights(config, str(tmp_path))
    for said in (
        '1 are missing: mid_block_mask.mlp.fc1.bias',
        '1 are left over: label_emb.weight',
        'decoder_pred.weight is (48, 5), which does not give image/head/kernel of (32, 48)',
    ):
        assert said in str(error.value)
    assert not (tmp_path / 'weights.safetensors').exists()
    config.foreign.allow_extra = 'label_emb.*, other'
    with pytest.raises(ValueError, match='1 are missing'):
        import_weights.import_weights(config, str(tmp_path))
    config.foreign.allow_missing = '*.fc1.bias'
    with pytest.raises(ValueError, match='Of its weights 1 have other shapes'):
        import_weights.import_weights(config, str(tmp_path))
    config.foreign.allow_missing = '*.fc1.bias, decoder_pred.*'
    import_weights.import_weights(config, str(tmp_path))
    params, _, _ = weights_file.load(str(tmp_path / 'weights.safetensors'))
    assert not params['map']['blocks_1']['fc1']['bias'].any()  # fresh
    assert params['image']['head']['kernel'].std() == pytest.approx(0.02, rel=0.1)  # likewise
    np.testing.assert_array_equal(params['image']['head']['bias'], tensors['decoder_pred.bias'])


def test_files_that_are_no_weights_are_refused(tiny, tmp_path):
    config, _ = tiny
    with pytest.raises(FileNotFoundError, match=r'foreign\.path is .* no such file'):
        import_weights.import_weights(config, str(tmp_path))
    torch.save({'step': 3, 'state_dict': {'a': torch.ones(2)}}, config.foreign.path)
    with pytest.raises(
        ValueError, match=r"holds step, state_dict .*torch\.load.PATH...state_dict'"
    ):
        import_weights.import_weights(config, str(tmp_path))
    torch.save(torch.ones(3), config.foreign.path)
    with pytest.raises(ValueError, match='holds no weights by name, but a Tensor'):
        import_weights.import_weights(config, str(tmp_path))
    (tmp_path / 'model.pth').write_text('nothing')
    with pytest.raises(ValueError, match='is no file of weights that can be read'):
        import_weights.import_weights(config, str(tmp_path))
    torch.save({'a': import_torch}, config.foreign.path)  # a pickle that would run code
    with pytest.raises(ValueError, match='is no file of weights that can be read'):
        import_weights.import_weights(config, str(tmp_path))


def test_without_torch_it_says_what_to_install(tiny, tmp_path, monkeypatch):
    config, tensors = tiny
    save_pth(config, tensors)
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(ValueError, match=r'pip install torch\.$'):
        import_weights.import_weights(config, str(tmp_path))


def test_data_of_other_encoders_and_folders_of_runs_are_refused(tiny, tmp_path):
    config, tensors = tiny
    save_pth(config, tensors)
    config.data.autoencoder = 'taesd'
    with pytest.raises(
        ValueError, match=r"data\.autoencoder is 'taesd' but the data have 'pixels'"
    ):
        import_weights.import_weights(config, str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(ValueError, match='holds checkpoints, which come before imported weights'):
        import_weights.import_weights(config, str(tmp_path))


def test_without_prepared_data_the_encoders_themselves_are_described(tiny, tmp_path):
    config, tensors = tiny
    save_pth(config, tensors)
    import_weights.import_weights(config, str(tmp_path / 'with'))
    config.data.dir = str(tmp_path / 'no data')
    import_weights.import_weights(config, str(tmp_path / 'without'))
    (one, one_text, known), (other, other_text, found) = (
        weights_file.load(str(tmp_path / name / 'weights.safetensors'))
        for name in ('with', 'without')
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    np.testing.assert_array_equal(one_text, other_text)
    for field in ('autoencoder', 'text', 'source', 'model', 'map_noise_std'):
        assert found[field] == known[field]
    assert len(found['categories']) == 133
    assert found['categories'][0].keys() == known['categories'][0].keys()


def test_towers_keep_their_names(config, tmp_path):
    config.foreign.update(path=str(tmp_path / 'tower.pth'), kind='tower')
    tensors = {
        'a.weight': torch.randn(3, 4).T,  # not contiguous
        'b.weight': torch.randn(3, 4).half(),
        'c.weight': torch.randn(3, 4).bfloat16(),  # which NumPy does not have
        'a.num_batches_tracked': torch.tensor(7),
    }
    torch.save(tensors | {'version': 3}, config.foreign.path)
    with pytest.raises(ValueError, match='holds more than weights: version; save'):
        import_weights.import_weights(config, str(tmp_path))
    config.foreign.allow_extra = 'vers*'
    import_weights.import_weights(config, str(tmp_path))
    path = tmp_path / 'weights.safetensors'
    found = safetensors.numpy.load_file(path)
    assert found.keys() == tensors.keys()
    kinds = {name: value.dtype.name for name, value in found.items()}
    expected = {'a.weight': 'float32', 'b.weight': 'float16', 'c.weight': 'float32'}
    assert kinds == expected | {'a.num_batches_tracked': 'int64'}
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value.float() if name[0] == 'c' else value)
    with safetensors.safe_open(path, framework='numpy') as file:
        assert file.metadata()['file'] == 'tower.pth'
        assert len(file.metadata()['sha256']) == 64


def test_training_starts_from_parts_that_fit(tiny, tmp_path, one_device, caplog):
    """Patch factor 2 to 4, and another list of categories."""
    config, tensors = tiny
    save_pth(config, tensors)
    import_weights.import_weights(config, str(tmp_path))
    path = str(tmp_path / 'weights.safetensors')
    params, empty_text, description = weights_file.load(path)
    description['categories'] = description['categories'][2:]
    weights_file.save(path, params, empty_text, description)
    config = tiny_config(config.data.dir)
    config.model.update(name='two_stream', patch_factor=4, zero_conv_bias=True)
    config.init_weights, config.steps, config.checkpoint_every = path, 2, 2
    with pytest.raises(ValueError, match='does not fit the model'):
        train.train(config, str(tmp_path / 'strict'))
    config.init_partial = True
    with caplog.at_level('INFO', logger='absl'):
        assert train.train(config, str(tmp_path / 'run'))
    assert 'was trained on other categories' in caplog.text
    assert 'not part of the model' not in caplog.text
    assert 'Random for good' not in caplog.text
    assert re.search(r'Fresh: map/\S+ \(\S+, ?\d*\), there ', caplog.text)
    trained, _, _ = weights_file.from_checkpoint(str(tmp_path / 'run'), False)
    kept = trained['image']['blocks_0']['qkv']['kernel']  # frozen, so as it was in the file
    np.testing.assert_array_equal(kept, params['image']['blocks_0']['qkv']['kernel'])
    moved = np.abs(
        trained['map']['blocks_0']['qkv']['kernel'] - params['map']['blocks_0']['qkv']['kernel']
    )
    assert 0 < moved.max() < 0.01
    # Biases that the model lacks, and frozen parameters that the file lacks, are not lost silently.
    fresh = jax.tree.map(np.zeros_like, params)
    del fresh['map']['zero_convs_1']['bias']
    fresh['image']['patch_embed']['kernel'] = np.zeros((7, 32), np.float32)
    with caplog.at_level('INFO', logger='absl'):
        initial.fill_matching(fresh, params, path)
    assert 'not part of the model: map/zero_convs_1/bias.' in caplog.text
    assert 'Random for good, since two streams do not train them: image/patch_embed/kernel.' in (
        caplog.text
    )
    with pytest.raises(ValueError, match='no parameter in common'):
        initial.fill_matching({'image': {'x': np.ones(2)}}, params, path)
