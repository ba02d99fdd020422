"""Weights files: numbers that are not finite, damage, and contents that contradict themselves."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch_reference
from conftest import described, random_parameters
from flax.traverse_util import flatten_dict

from panoptic_jax import export_weights
from panoptic_jax.data import loader
from panoptic_jax.encoders import safetensors_files
from panoptic_jax.machine.interruption import Interrupted, Interruption
from panoptic_jax.weights import file as weights_file

RNG = np.random.default_rng


@pytest.fixture
def weights(config):
    """A tiny U-ViT's."""
    config.model.name = 'uvit'
    description = described(config)
    empty_text = loader.empty_text(config.data.dir)
    return weights_file.Weights(random_parameters(description), empty_text, description)


@pytest.fixture
def path(weights, tmp_path):
    path = tmp_path / 'weights.safetensors'
    weights_file.save(str(path), weights)
    return path


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_not_written(weights, tmp_path, value):
    head = weights.params['image']['head']
    head['kernel'] = jax.numpy.array(head['kernel']).at[1, 2:5].set(value)
    path = tmp_path / 'new' / 'weights.safetensors'
    message = "weights.safetensors is not written: 'image/head/kernel' has 3 of"
    with pytest.raises(ValueError, match=message):
        weights_file.save(str(path), weights)
    assert not path.parent.exists()


def test_same_weights_are_the_same_bytes(weights, path):
    # Some exports of one checkpoint differed, since the package's order of metadata did.
    for _ in range(8):
        assert weights_file.to_bytes(weights, str(path)) == path.read_bytes()


@pytest.mark.parametrize('length', range(8))
def test_metadata_come_back_in_their_order(tmp_path, length):
    path = tmp_path / 'a.safetensors'
    tensors = {'a': RNG(0).random((2, 3)), 'b': RNG(1).random(5).astype(np.float16)}
    metadata = {f'näme "{n}"': length * 'x' + '\n' for n in RNG(2).permutation(20)}
    content = safetensors_files.with_metadata(safetensors.numpy.save(tensors), metadata)
    path.write_bytes(content)
    with safetensors.safe_open(path, framework='numpy') as file:
        assert file.metadata() == metadata
    assert [*safetensors_files.header(content)['__metadata__'].items()] == [*metadata.items()]
    assert safetensors_files.header_end(content) % 8 == 0
    found = safetensors.numpy.load_file(path)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value)


def rewritten(path, changes, description=None):
    """The file as somebody else's program would write it anew, without a checksum."""
    tensors = safetensors.numpy.load_file(path) | changes
    with safetensors.safe_open(path, framework='numpy') as file:
        text = file.metadata()['description']
    content = json.loads(text)
    for field, value in (description or {}).items():
        *parents, name = field.split('.')
        place = content
        for parent in parents:
            place = place[parent]
        place[name] = value
    kept = {name: value for name, value in tensors.items() if value is not None}
    safetensors.numpy.save_file(kept, path, metadata={'description': json.dumps(content)})


def test_files_without_a_checksum_are_read(path, weights):
    rewritten(path, {})
    found = weights_file.load(str(path))
    jax.tree.map(np.testing.assert_array_equal, found.params, weights.params)
    assert found.description == weights.description


@pytest.mark.parametrize('name', ['image/head/bias', 'empty_text'])
def test_numbers_that_are_not_finite_are_not_read(path, name):
    value = safetensors.numpy.load_file(path)[name].copy()
    value[-1:] = np.nan
    rewritten(path, {name: value})
    with pytest.raises(ValueError, match=rf"weights\.safetensors: '{name}' has \d+ of .* NaN or"):
        weights_file.load(str(path))


def test_every_flipped_bit_of_a_tensor_is_noticed(path):
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], 'little')
    for _ in range(30):
        position, bit = RNG(_).integers(start, len(content)), 1 << RNG(_).integers(8)
        damaged = bytearray(content)
        damaged[position] ^= int(bit)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match='its content is not what was written; copy'):
            weights_file.load(str(path))


def test_half_precision_is_read(path):
    tensors = safetensors.numpy.load_file(path)
    halves = {name: value.astype(np.float16) for name, value in tensors.items()}
    rewritten(path, halves)
    found = weights_file.load(str(path))
    assert {value.dtype.name for value in jax.tree.leaves(found.params)} == {'float16'}


NEW = np.ones((3, 2), np.float32)
CONTRADICTIONS = {
    'missing': ({'image/head/bias': None}, {}, 'image/head/bias is missing'),
    'extra': ({'image/more': NEW}, {}, 'image/more is not part of the model'),
    'shape': ({'image/head/bias': NEW}, {}, r'image/head/bias is float32 of \(3, 2\), the model'),
    'type': ({'image/head/bias': np.ones(48, int)}, {}, 'image/head/bias is int64 of'),
    'empty text': ({'empty_text': NEW}, {}, r'empty_text is float32 of \(3, 2\)'),
    'no empty text': ({'empty_text': None}, {}, "has no tensor 'empty_text'"),
    'wider': ({}, {'model.hidden_size': 64}, r'the model has \('),
    'deep': ({}, {'model.depth': 10**9}, 'is not part of the model'),
    'negative': ({}, {'model.hidden_size': -32}, 'its description makes no model'),
    'zero': ({}, {'model.patch_size': 0}, 'its description makes no model'),
    'text': ({}, {'model.depth': 'two'}, 'its description makes no model'),
    'name': ({}, {'model.name': 'vit'}, "name is 'vit'"),
    'prediction': ({}, {'streams.map.prediction': 'dates'}, "A prediction is 'dates'"),
    'kind': ({}, {'model.given_map': 'no'}, "given_map is 'no'"),
    'noise': ({}, {'streams.map.noise_std': float('nan')}, 'noise_std is nan'),
    'no noise': ({}, {'streams.image.noise_std': None}, 'hold no description'),
    'scale': ({}, {'autoencoder.scale': float('inf')}, 'scale is inf'),
    'hash': ({}, {'text.sha256': 7}, 'sha256 is 7'),
    'model': ({}, {'model': [1]}, 'its metadata hold no description'),
    'categories': ({}, {'categories': 7}, 'its metadata hold no description'),
    'category': ({}, {'categories': [{'id': 700}]}, 'its metadata hold no description'),
    'shape of latents': ({}, {'autoencoder.latent_shape': [1]}, 'its description makes no model'),
}


@pytest.mark.parametrize('name', CONTRADICTIONS)
def test_contents_that_contradict_the_description_are_refused(path, name):
    tensors, description, message = CONTRADICTIONS[name]
    rewritten(path, tensors, description)
    with pytest.raises(ValueError, match=message) as error:
        weights_file.load(str(path))
    assert '\n' not in str(error.value)


def test_files_of_something_else_are_named(path):
    content = path.read_bytes()
    cases = {
        b'': 'it is empty',
        b'version https://git-lfs.github.com/spec/v1\n': 'it is a Git LFS pointer',
        b'<!DOCTYPE html>': 'it is a web page',
        content[:-100]: r'it is cut off, with [\d,]+ of [\d,]+ bytes',
        b'PK\x03\x04' + bytes(99): 'it is a file of PyTorch, .* --mode=import',
        safetensors.numpy.save({'a': NEW}): 'it has no description, as the weights of encoders',
    }  # fmt: skip
    for damaged, message in cases.items():
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match='is not a weights file of panoptic_jax') as error:
            weights_file.load(str(path))
        assert re.search(message, str(error.value))
        assert '\n' not in str(error.value)


def test_descriptions_are_read_without_the_tensors(path, weights):
    path.write_bytes(path.read_bytes()[:-100])
    assert weights_file.load_description(str(path)) == weights.description
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r'it is cut off, with 100 of [\d,]+ bytes'):
        weights_file.load_description(str(path))


def test_types_that_numpy_lacks_are_named(path):
    torch = torch_reference.import_torch()
    safe = pytest.importorskip('safetensors.torch')
    safe.save_file({'a': torch.ones(3).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(ValueError, match=r'it has tensors of type .F8_E4M3'):
        weights_file.load(str(path))


class Asked(Interruption):
    """A SIGTERM that comes between units of work: at the call of a number."""

    def __init__(self, call):
        super().__init__()
        self.calls = call

    def asked(self):
        self.calls -= 1
        return self.calls < 0


@pytest.mark.parametrize('call', [0, 1])
def test_an_export_stops_between_units_and_writes_nothing(trained, tmp_path, call):
    (tmp_path / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
    with pytest.raises(Interrupted):
        export_weights.export_weights(trained[1], str(tmp_path), interruption=Asked(call))
    assert [path.name for path in Path(tmp_path).iterdir()] == ['checkpoints']


def test_an_export_of_weights_that_are_not_finite_writes_nothing(trained, tmp_path, monkeypatch):
    (tmp_path / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
    restored = export_weights.trained.from_checkpoint(str(tmp_path), ema=True)
    flat = flatten_dict(restored.params)
    name = next(iter(flat))
    params = restored.params
    for part in name[:-1]:
        params = params[part]
    params[name[-1]] = np.full_like(params[name[-1]], np.nan)
    monkeypatch.setattr(export_weights.trained, 'from_checkpoint', lambda *_, **__: restored)
    with pytest.raises(ValueError, match='is not written: '):
        export_weights.export_weights(trained[1], str(tmp_path))
    assert [path.name for path in Path(tmp_path).iterdir()] == ['checkpoints']
