"""Imported weights: parity with PyTorch at full size, what is refused, and sampling from them."""

import argparse
import dataclasses
import json
import re
import shutil
import sys

import jax
import numpy as np
import one_device
import pytest
import safetensors.numpy
import torch_pdm
from conftest import described, tiny_config
from flax.traverse_util import flatten_dict, unflatten_dict
from torch_reference import assert_close, import_torch

from panoptic_jax import config as settings
from panoptic_jax import import_weights
from panoptic_jax.data.example import Category
from panoptic_jax.data.facts import AutoencoderFacts, CategoryList, TextFacts
from panoptic_jax.data.manifest import SEAL, Manifest
from panoptic_jax.diffusion import bits
from panoptic_jax.machine import interruption
from panoptic_jax.models import uvit
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import foreign_names, initial
from panoptic_jax.weights import trained as trained_weights

torch = import_torch()


@pytest.fixture
def data_of_taesd(tmp_path):
    """What a model needs of data that were prepared with TAESD and words, without any record."""
    folder = tmp_path / 'data'
    folder.mkdir()
    manifest = Manifest(
        source={},
        images_per_shard=1,
        stored_map_side=128,
        void_wins=False,
        autoencoder=AutoencoderFacts(
            'taesd', (32, 32, 4), 1.0, has_variance=False, sha256='a' * 64
        ),
        text=TextFacts('words', 77, 768, sha256='b' * 64),
        categories=CategoryList((Category(1, 'person', is_thing=True),), (1,)),
        splits={},
    )
    (folder / SEAL).write_text(json.dumps(manifest.to_json()))
    np.save(folder / 'empty_text.npy', np.zeros((77, 768), np.float16))
    return folder


def full_config(name, data_dir, path, size='S', **model):
    """A full-size model on the frozen encoders of least weight."""
    config = settings.default()
    config.data.dir = str(data_dir)
    config.data.autoencoder = 'taesd'
    config.model.update(name=name, **uvit.SIZES[size], **model)
    config.foreign.path = str(path)
    return config


CASES = [
    ('uvit', 'S', {}, 44_692_644),
    ('uvit', 'S-deep', {}, 58_345_636),
    ('one_stream', 'S', {}, 44_956_012),
    ('two_stream', 'S', {}, 92_480_364),
    ('two_stream', 'S', {'given_map': True}, None),
]


@pytest.mark.parametrize(('kind', 'size', 'variant', 'count'), CASES)
def test_imported_models_equal_pytorch(tmp_path, data_of_taesd, kind, size, variant, count):
    depth = uvit.SIZES[size]['depth']
    reference = torch_pdm.random_pdm(kind, depth=depth, **variant)
    torch.save(reference.state_dict(), tmp_path / 'model.pth')
    config = full_config(kind, data_of_taesd, tmp_path / 'model.pth', size, **variant)
    import_weights.import_weights(config, str(tmp_path / 'run'))
    weights = weights_file.load(str(tmp_path / 'run' / 'weights.safetensors'))
    source = weights.description.origin['source']
    assert len(source['sha256']) == 64
    assert source['file'] == 'model.pth'
    assert weights.description.model.zero_conv_bias == (kind == 'two_stream')
    if count:
        assert sum(value.size for value in jax.tree.leaves(weights.params)) == count

    rng = np.random.default_rng(0)
    shapes = (1, 32, 32, 4), (1, 64, 64, 8), (1, 77, 768)
    x, m, text = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    t = np.array([437], np.int32)
    with torch.no_grad():
        # The authors' code has the most significant bit first.
        arrays = x, m[..., ::-1].copy()
        channels_first = [torch.tensor(array).permute(0, 3, 1, 2) for array in arrays]
        expected = reference(*channels_first, torch.tensor(text), torch.tensor(t))
    model = weights.description.build(np.float32)
    found = jax.jit(model.apply)({'params': weights.params}, x, m, text, t)
    assert_close(found.image, expected[0].permute(0, 2, 3, 1))
    assert (found.map is None) == (expected[1] is None)
    if expected[1] is not None:
        assert_close(found.map[..., ::-1], expected[1].permute(0, 2, 3, 1))


@pytest.mark.parametrize('kind', ['one_stream', 'two_stream'])
@pytest.mark.parametrize('factor', [1, 2, 4])
@pytest.mark.parametrize('given_map', [False, True])
def test_map_codes_mean_the_same_as_in_the_authors_code(
    tmp_path, data_of_taesd, kind, factor, given_map
):
    """Ids go in by each side's own way from ids to bits, and come out by its way back."""
    sizes = {'depth': 2, 'given_map': given_map}
    reference = torch_pdm.random_pdm(kind, size=64, heads=2, factor=factor, **sizes)
    torch.save(reference.state_dict(), tmp_path / 'model.pth')
    config = full_config(
        kind, data_of_taesd, tmp_path / 'model.pth', patch_factor=factor, given_map=given_map
    )
    config.model.update(hidden_size=64, depth=2, num_heads=2)
    import_weights.import_weights(config, str(tmp_path / 'run'))
    weights = weights_file.load(str(tmp_path / 'run' / 'weights.safetensors'))

    rng = np.random.default_rng(factor)
    x, text = (rng.normal(size=n).astype(np.float32) for n in ((1, 32, 32, 4), (1, 77, 768)))
    ids = rng.integers(0, 256, (1, 32 * factor, 32 * factor), np.uint8)
    t = np.array([437], np.int32)
    with torch.no_grad():
        latent = torch.tensor(x).permute(0, 3, 1, 2)
        expected = reference(
            latent, torch_pdm.ids_to_bits(ids), torch.tensor(text), torch.tensor(t)
        )
    model = weights.description.build(np.float32)
    found = jax.jit(model.apply)({'params': weights.params}, x, bits.ids_to_bits(ids), text, t)
    assert_close(found.image, expected[0].permute(0, 2, 3, 1))
    if not given_map:
        ours = bits.bits_to_ids(found.map, np.arange(256, dtype=np.uint8), 'threshold')
        theirs = torch_pdm.bits_to_ids(expected[1])
        assert len(np.unique(theirs)) > 10
        np.testing.assert_array_equal(ours, theirs)


def tiny_tensors(config):
    """{torch name: array} of a tiny two-stream model, from our own shapes, and those."""
    config = config.copy_and_resolve_references()
    config.model.zero_conv_bias = True
    description = described(config)
    leaves = jax.tree_util.tree_leaves_with_path(description.abstract_parameters())
    shapes = {'/'.join(entry.key for entry in path): leaf.shape for path, leaf in leaves}
    rng, tensors = np.random.default_rng(0), {}
    for path, shape in shapes.items():
        torch_shape = shape
        if path.endswith('positions'):
            torch_shape = (1, *shape)
        elif 'zero_convs' in path and path.endswith('kernel'):
            torch_shape = (*shape[::-1], 1)
        elif path.endswith('patch_embed/kernel'):
            channels = 8 if path.startswith('map') else description.inputs()[0].shape[-1]
            patch = int((shape[0] // channels) ** 0.5)
            torch_shape = (shape[1], channels, patch, patch)
        elif path.endswith('kernel'):
            torch_shape = shape[::-1] if len(shape) == 2 else (shape[3], shape[2], *shape[:2])
        name = foreign_names.torch_name(path, config.model.depth, two_streams=True)
        tensors[name] = rng.normal(0, 0.1, torch_shape).astype(np.float32)
    return tensors, shapes


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


def test_imported_two_stream_samples_without_flags(tiny, tmp_path):
    config, tensors = tiny
    save_pth(
        config,
        tensors | {'mask_embed_0.proj.bias': np.ones(3), 'zero_convs.4.conv.bias': np.ones(3)},
    )
    import_weights.import_weights(config, str(tmp_path / 'run'))
    config.model.name = 'one_stream'  # what the file says counts, not the config
    config.foreign.path = ''
    one_device.sample(config, tmp_path / 'run')
    facts = json.loads((tmp_path / 'run' / 'samples' / 'settings.json').read_text())
    assert re.fullmatch(r'weights\.safetensors \w{12}', facts['weights'])
    assert (facts['model']['name'], facts['ema']) == ('two_stream', False)
    assert len(list((tmp_path / 'run' / 'samples' / 'generated').iterdir())) == 6


def test_mapping_needs_no_torch_and_keeps_every_number(tiny):
    config, tensors = tiny
    _, shapes = tiny_tensors(config)
    found = foreign_names.translate(
        tensors, shapes, depth=config.model.depth, map_channels=bits.NUM_BITS
    )
    assert found.params.keys() == shapes.keys()
    assert not any(found[1:])
    total = sum(np.abs(value).sum() for value in tensors.values())
    assert sum(np.abs(v).sum() for v in found.params.values()) == pytest.approx(total, rel=1e-5)


@pytest.fixture
def misfit(tiny):
    """(config, tensors) of a file that lacks a weight and has one too many and a misshapen one."""
    config, tensors = tiny
    bias = tensors.pop('mid_block_mask.mlp.fc1.bias')
    tensors['decoder_pred.weight'] = tensors['decoder_pred.weight'][:, :5]
    tensors['label_emb.weight'] = bias
    save_pth(config, tensors)
    return config, tensors


def test_what_does_not_fit_is_listed(misfit, tmp_path):
    with pytest.raises(ValueError, match='does not fit the model') as error:
        import_weights.import_weights(misfit[0], str(tmp_path))
    for said in (
        '1 are missing: mid_block_mask.mlp.fc1.bias',
        '1 are left over: label_emb.weight',
        'decoder_pred.weight is (48, 5), which does not give image/head/kernel of (32, 48)',
    ):
        assert said in str(error.value)
    assert not (tmp_path / 'weights.safetensors').exists()


@pytest.mark.parametrize(
    ('allow_missing', 'message'),
    [('', '1 are missing'), ('*.fc1.bias', 'Of its weights 1 have other shapes')],
)
def test_what_does_not_fit_is_refused_unless_allowed(misfit, tmp_path, allow_missing, message):
    config, _ = misfit
    config.foreign.allow_extra = 'label_emb.*, other'
    config.foreign.allow_missing = allow_missing
    with pytest.raises(ValueError, match=message):
        import_weights.import_weights(config, str(tmp_path))


def test_what_may_be_missing_starts_fresh(misfit, tmp_path):
    config, tensors = misfit
    config.foreign.allow_extra = 'label_emb.*, other'
    config.foreign.allow_missing = '*.fc1.bias, decoder_pred.*'
    import_weights.import_weights(config, str(tmp_path))
    params = weights_file.load(str(tmp_path / 'weights.safetensors')).params
    assert not params['map']['blocks_1']['fc1']['bias'].any()
    assert params['image']['head']['kernel'].std() == pytest.approx(0.02, rel=0.1)
    np.testing.assert_array_equal(params['image']['head']['bias'], tensors['decoder_pred.bias'])


def test_a_missing_file_is_named(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'foreign\.path is .* no such file'):
        import_weights.import_weights(tiny[0], str(tmp_path))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (
            {'step': 3, 'first': {'a': torch.ones(2)}, 'second': {'a': torch.ones(2)}},
            r"holds step, first, second .*torch\.load.PATH...first'",
        ),
        (torch.ones(3), 'holds no weights by name, but a Tensor'),
        # A pickle that would run code.
        ({'a': import_torch}, 'holds a and no weights by name'),
    ],
    ids=['nested', 'tensor', 'code'],
)
def test_files_that_are_no_weights_are_refused(tiny, tmp_path, content, message):
    config, _ = tiny
    torch.save(content, config.foreign.path)
    with pytest.raises(ValueError, match=message):
        import_weights.import_weights(config, str(tmp_path))


def test_files_of_another_kind_are_refused(tiny, tmp_path):
    (tmp_path / 'model.pth').write_text('nothing')
    with pytest.raises(ValueError, match='is no file of weights that can be read'):
        import_weights.import_weights(tiny[0], str(tmp_path))


def test_without_torch_it_says_what_to_install(tiny, tmp_path, monkeypatch):
    config, tensors = tiny
    save_pth(config, tensors)
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(ValueError, match=r'pip install torch\.$'):
        import_weights.import_weights(config, str(tmp_path))


def test_data_of_other_encoders_are_refused(tiny, tmp_path):
    config, tensors = tiny
    save_pth(config, tensors)
    config.data.autoencoder = 'taesd'
    with pytest.raises(
        ValueError, match=r"data\.autoencoder is 'taesd' but the data have 'pixels'"
    ):
        import_weights.import_weights(config, str(tmp_path))


def test_folders_of_runs_are_refused(tiny, tmp_path):
    config, tensors = tiny
    save_pth(config, tensors)
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(ValueError, match='holds checkpoints, which come before imported weights'):
        import_weights.import_weights(config, str(tmp_path))


def test_without_prepared_data_the_encoders_themselves_are_described(tiny, tmp_path):
    config, tensors = tiny
    save_pth(config, tensors)
    import_weights.import_weights(config, str(tmp_path / 'with'))
    config.data.dir = str(tmp_path / 'no data')
    import_weights.import_weights(config, str(tmp_path / 'without'))
    one, other = (
        weights_file.load(str(tmp_path / name / 'weights.safetensors'))
        for name in ('with', 'without')
    )
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    np.testing.assert_array_equal(one.empty_text, other.empty_text)
    known, found = one.description.to_json(), other.description.to_json()
    for field in ('autoencoder', 'text', 'source', 'model', 'streams'):
        assert found[field] == known[field]
    assert len(found['categories']) == 133
    assert found['categories'][0].keys() == known['categories'][0].keys()


TOWER = {
    'a.weight': torch.randn(3, 4).T,  # not contiguous
    'b.weight': torch.randn(3, 4).half(),
    'c.weight': torch.randn(3, 4).bfloat16(),  # a type that NumPy does not have
    'a.num_batches_tracked': torch.tensor(7),
}


@pytest.fixture
def tower(config, tmp_path):
    """The config of a tower's import, whose file holds its version beside the weights."""
    config.foreign.update(path=str(tmp_path / 'tower.pth'), kind='tower')
    torch.save(TOWER | {'version': 3}, config.foreign.path)
    return config


def test_more_than_weights_is_refused(tower, tmp_path):
    with pytest.raises(ValueError, match='holds more than weights: version; save'):
        import_weights.import_weights(tower, str(tmp_path))


def test_towers_keep_their_names_and_numbers(tower, tmp_path):
    tower.foreign.allow_extra = 'vers*'
    import_weights.import_weights(tower, str(tmp_path))
    found = safetensors.numpy.load_file(tmp_path / 'weights.safetensors')
    assert found.keys() == TOWER.keys()
    kinds = {name: value.dtype.name for name, value in found.items()}
    expected = {'a.weight': 'float32', 'b.weight': 'float16', 'c.weight': 'float32'}
    assert kinds == expected | {'a.num_batches_tracked': 'int64'}
    for name, value in TOWER.items():
        np.testing.assert_array_equal(found[name], value.float() if name[0] == 'c' else value)


def test_towers_say_what_file_they_come_from(tower, tmp_path):
    tower.foreign.allow_extra = 'vers*'
    import_weights.import_weights(tower, str(tmp_path))
    import_weights.import_weights(tower, str(tmp_path / 'again'))
    path = tmp_path / 'weights.safetensors'
    assert (tmp_path / 'again' / path.name).read_bytes() == path.read_bytes()
    with safetensors.safe_open(path, framework='numpy') as file:
        assert file.metadata()['file'] == 'tower.pth'
        assert len(file.metadata()['sha256']) == 64


# --- Other people's files.


def test_averaged_weights_of_a_training_are_imported(tiny, tmp_path, caplog):
    config, tensors = tiny
    nets = {
        'nnet': {f'module.{name}': torch.tensor(-value) for name, value in tensors.items()},
        'nnet_ema': {f'module.{name}': torch.tensor(value) for name, value in tensors.items()},
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
        'args': argparse.Namespace(lr=0.1),
        'step': 7,
    }
    torch.save(nets, config.foreign.path)
    with caplog.at_level('INFO', logger='absl'):
        import_weights.import_weights(config, str(tmp_path))
    weights = weights_file.load(str(tmp_path / 'weights.safetensors'))
    np.testing.assert_array_equal(
        weights.params['image']['head']['bias'], tensors['decoder_pred.bias']
    )
    assert weights.description.origin['source']['part'] == 'nnet_ema'
    assert caplog.text.count('Took nnet_ema of ') == 1


def test_files_are_looked_at_before_encoders_are_fetched(misfit, tmp_path, monkeypatch):
    config, _ = misfit
    config.data.dir = str(tmp_path / 'no data')

    def fetch(*_, **__):
        raise AssertionError('fetched')

    monkeypatch.setattr(import_weights, 'load_autoencoder', fetch)
    monkeypatch.setattr(import_weights, 'load_text_encoder', fetch)
    with pytest.raises(ValueError, match='does not fit the model'):
        import_weights.import_weights(config, str(tmp_path))


@pytest.mark.parametrize('kind', ['model', 'tower'])
def test_numbers_that_are_not_finite_are_not_imported(tiny, tmp_path, kind):
    config, tensors = tiny
    config.foreign.kind = kind
    tensors['decoder_pred.bias'][3] = np.nan
    save_pth(config, tensors)
    with pytest.raises(ValueError, match=r"model\.pth: 'decoder_pred.bias' has 1 of 48 numbers"):
        import_weights.import_weights(config, str(tmp_path))
    assert not (tmp_path / 'weights.safetensors').exists()


@pytest.mark.parametrize('classes', [1000, 1008])
def test_inceptions_that_are_not_fids_are_not_imported(tower, tmp_path, classes):
    branch = {'Mixed_7c.branch_pool.bn.weight': torch.ones(192)}
    torch.save(branch | {'fc.weight': torch.ones(classes, 8)}, tower.foreign.path)
    if classes == 1008:
        import_weights.import_weights(tower, str(tmp_path))
        return
    with pytest.raises(ValueError, match="is not FID's Inception: that has 1008 classes"):
        import_weights.import_weights(tower, str(tmp_path))
    assert not (tmp_path / 'weights.safetensors').exists()


def test_an_import_ends_between_its_parts(tiny, tmp_path):
    config, tensors = tiny
    save_pth(config, tensors)
    asked = interruption.Interruption()
    asked.asked = lambda: True
    with pytest.raises(interruption.Interrupted):
        import_weights.import_weights(config, str(tmp_path), interruption=asked)
    assert not (tmp_path / 'weights.safetensors').exists()


# --- Training from parts of a file.


@pytest.fixture
def imported(tiny, tmp_path):
    """(path, weights) of an imported two-stream model with two categories less than the data."""
    config, tensors = tiny
    save_pth(config, tensors)
    import_weights.import_weights(config, str(tmp_path))
    path = str(tmp_path / 'weights.safetensors')
    weights = weights_file.load(path)
    categories = weights.description.categories
    fewer = CategoryList(categories.entries[2:], categories.source_ids[2:])
    description = dataclasses.replace(weights.description, categories=fewer)
    weights_file.save(path, weights._replace(description=description))
    return path, weights


@pytest.fixture
def larger(imported, config):
    """A config of patch factor 4 that starts from the file, whose model has patch factor 2."""
    larger = tiny_config(config.data.dir)
    larger.model.update(name='two_stream', patch_factor=4, zero_conv_bias=True)
    larger.init_weights, larger.steps, larger.checkpoint_every = imported[0], 2, 2
    return larger


def test_another_patch_factor_is_refused_unless_parts_will_do(larger, tmp_path):
    with pytest.raises(ValueError, match='does not fit the model'):
        one_device.train(larger, tmp_path / 'strict')


def test_training_starts_from_parts_that_fit(imported, larger, tmp_path, caplog):
    larger.init_partial = True
    with caplog.at_level('INFO', logger='absl'):
        assert one_device.train(larger, tmp_path / 'run')
    assert 'was trained on other categories' in caplog.text
    assert 'not part of the model' not in caplog.text
    assert 'Random for good' not in caplog.text
    assert re.search(r'Fresh: map/\S+ \(\S+, ?\d*\), there ', caplog.text)
    params = imported[1].params
    trained = trained_weights.from_checkpoint(str(tmp_path / 'run'), ema=False).params
    kept = trained['image']['blocks_0']['qkv']['kernel']  # frozen, so as it was in the file
    np.testing.assert_array_equal(kept, params['image']['blocks_0']['qkv']['kernel'])
    moved = np.abs(
        trained['map']['blocks_0']['qkv']['kernel'] - params['map']['blocks_0']['qkv']['kernel']
    )
    assert 0 < moved.max() < 0.01


def test_no_part_is_lost_silently(imported, caplog):
    """Biases that the model lacks, and frozen parameters that the file lacks."""
    path, weights = imported
    fresh = jax.tree.map(np.zeros_like, weights.params)
    del fresh['map']['zero_convs_1']['bias']
    fresh['image']['patch_embed']['kernel'] = np.zeros((7, 32), np.float32)
    with caplog.at_level('INFO', logger='absl'):
        initial.fill_matching(fresh, weights.params, path)
    assert 'not part of the model: map/zero_convs_1/bias.' in caplog.text
    assert 'Random for good, since two streams do not train them: image/patch_embed/kernel.' in (
        caplog.text
    )


def test_a_file_without_any_part_is_refused(imported):
    path, weights = imported
    with pytest.raises(ValueError, match='no parameter in common'):
        initial.fill_matching({'image': {'x': np.ones(2)}}, weights.params, path)


# --- The order of bits.


@pytest.fixture
def turned(tiny, tmp_path):
    """(weights, path of the same weights as an earlier import wrote them) of a tiny model."""
    config, tensors = tiny
    save_pth(config, tensors)
    import_weights.import_weights(config, str(tmp_path / 'run'))
    weights = weights_file.load(str(tmp_path / 'run' / 'weights.safetensors'))
    flat = {
        name: foreign_names.reversed_bits(name, value, bits.NUM_BITS)
        for name, value in flatten_dict(weights.params, sep='/').items()
    }
    origin = {'source': weights.description.origin['source']}
    description = dataclasses.replace(weights.description, origin=origin)
    path = tmp_path / 'earlier.safetensors'
    params = unflatten_dict(flat, sep='/')
    weights_file.save(str(path), weights_file.Weights(params, weights.empty_text, description))
    return weights, path


def test_files_of_an_earlier_import_are_turned_with_a_warning(turned, caplog):
    weights, path = turned
    loaded = weights_file.load(str(path))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, weights.params)
    assert loaded.description == weights.description
    assert [record for record in caplog.records if 'the bits of its maps are turned' in record.msg]


def test_files_that_name_their_order_are_left_alone(turned, tmp_path, caplog):
    weights, _ = turned
    path = str(tmp_path / 'again.safetensors')
    weights_file.save(path, weights)
    jax.tree.map(np.testing.assert_array_equal, weights_file.load(path).params, weights.params)
    assert 'turned' not in caplog.text


@pytest.fixture
def started(turned, tiny, tmp_path):
    """(config, workdir) of a training that started from a file of an earlier import."""
    config, _ = tiny
    config.model.zero_conv_bias = True
    config.init_weights = str(turned[1])
    config.steps = config.checkpoint_every = 2
    workdir = tmp_path / 'started'
    assert one_device.train(config, workdir)
    return config, workdir


def without_bit_order(workdir):
    """Makes its checkpoints such as there were before bit orders and checksums were recorded."""
    for path in workdir.glob('checkpoints/*/meta/metadata'):
        meta = json.loads(path.read_text())
        del meta['bit_order']
        meta.pop('checksums', None)
        path.write_text(json.dumps(meta))
        (path.parents[1] / 'state' / 'checksums.json').unlink(missing_ok=True)


def test_checkpoints_from_turned_files_go_on(started):
    config, workdir = started
    config.steps = 4
    assert one_device.train(config, workdir)


def test_checkpoints_from_files_of_an_earlier_import_are_refused(started):
    config, workdir = started
    without_bit_order(workdir)
    config.steps = 4
    with pytest.raises(ValueError, match='with the bits of map codes in the opposite order'):
        one_device.train(config, workdir)
    with pytest.raises(ValueError, match='with the bits of map codes in the opposite order'):
        trained_weights.from_checkpoint(str(workdir), ema=True)


def test_older_checkpoints_of_own_beginnings_go_on(trained, tmp_path):
    workdir = tmp_path / 'older'
    shutil.copytree(trained[0], workdir)
    without_bit_order(workdir)
    assert trained_weights.from_checkpoint(str(workdir), ema=True).step == 12
