"""Weight files: what they hold, what they fit into, and what is said where they do not."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from panoptic_jax.data import loader, manifest
from panoptic_jax.models import build
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import initial


def make(config, name, seed=0, **model):
    """(description, random parameters) of a tiny model."""
    config.model.update(name=name, **model)
    description = weights_file.describe(config, manifest.open_manifest(config.data.dir))
    module = weights_file.build_model(description, jnp.float32)
    inputs = weights_file.model_inputs(description)
    shapes = jax.eval_shape(
        lambda key: build.first_parameters(module, key, inputs), jax.random.key(0)
    )
    rng = np.random.default_rng(seed)
    return description, jax.tree.map(
        lambda a: rng.normal(0, 0.1, a.shape).astype(np.float32), shapes
    )


def flat(tree):
    return flatten_dict(tree, sep='/')


@pytest.fixture
def saved(config, tmp_path):
    """(path, params, description) of a plain U-ViT's file."""
    description, params = make(config, 'uvit')
    path = str(tmp_path / 'folder' / 'weights.safetensors')
    weights_file.save(path, params, loader.empty_text(config.data.dir), description)
    return path, params, description


def test_file_gives_back_what_was_saved(saved, config):
    path, params, description = saved
    found, empty_text, described = weights_file.load(path)
    assert flat(found).keys() == flat(params).keys()
    for name, value in flat(params).items():
        np.testing.assert_array_equal(flat(found)[name], value)
    np.testing.assert_array_equal(empty_text, loader.empty_text(config.data.dir))
    assert described == description
    assert described['model']['hidden_size'] == 32
    assert described['text'].keys() >= {'name', 'tokens', 'features', 'sha256'}
    assert [category['id'] for category in described['categories']][:2] == [1, 2]


def test_damaged_files_are_refused_in_one_sentence(saved, tmp_path):
    content = Path(saved[0]).read_bytes()
    header = 8 + int.from_bytes(content[:8], 'little')
    cases = {
        'cut': content[: len(content) // 2],
        'header_cut': content[: header // 2],
        'empty': b'',
        'text': b'version https://git-lfs.github.com/spec/v1\n' * 3,
        'no_description': content[:8]
        + content[8:header].replace(b'"description"', b'"descriptiom"')
        + content[header:],
        'no_empty_text': content[:8]
        + content[8:header].replace(b'"empty_text"', b'"empty_tex_"')
        + content[header:],
    }
    for name, damaged in cases.items():
        path = tmp_path / f'{name}.safetensors'
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match='is not a weights file of panoptic_jax') as error:
            weights_file.load(str(path))
        assert str(path) in str(error.value)
        assert '\n' not in str(error.value)
    with pytest.raises(FileNotFoundError, match='There is no weights file'):
        weights_file.load(str(tmp_path / 'nowhere.safetensors'))
    with pytest.raises(FileNotFoundError, match='There is no weights file'):
        weights_file.load(str(tmp_path))


def test_image_weights_fill_both_streams_of_a_two_stream_model(saved, config):
    loaded = weights_file.load(saved[0])[0]
    _, fresh = make(config, 'two_stream', seed=1)
    filled = initial.fill(fresh, loaded, 'file')
    assert flat(filled).keys() == flat(fresh).keys()
    for name, value in flat(filled).items():
        stream, _, rest = name.partition('/')
        if stream == 'image' or rest.startswith('blocks_'):
            np.testing.assert_array_equal(value, flat(loaded['image'])[rest])
        else:
            np.testing.assert_array_equal(value, flat(fresh)[name])


def test_image_weights_fill_the_image_part_of_a_one_stream_model(saved, config):
    loaded = weights_file.load(saved[0])[0]
    _, fresh = make(config, 'one_stream', seed=1)
    filled = initial.fill(fresh, loaded, 'file')
    jax.tree.map(np.testing.assert_array_equal, filled['image'], loaded['image'])
    jax.tree.map(np.testing.assert_array_equal, filled['map'], fresh['map'])


def test_half_precision_weights_become_whole_ones(config):
    _, fresh = make(config, 'uvit')
    loaded = jax.tree.map(lambda a: a.astype(np.float16), fresh)
    assert {a.dtype for a in jax.tree.leaves(initial.fill(fresh, loaded, 'file'))} == {
        np.dtype(np.float32)
    }


def test_weights_that_do_not_fit_are_named(saved, config):
    loaded = weights_file.load(saved[0])[0]
    _, wider = make(config, 'uvit', hidden_size=64)
    with pytest.raises(
        ValueError, match=r'image/\S+ is \(\S+ ?\S*\), the model has .*and 4\d more'
    ):
        initial.fill(wider, loaded, 'file')
    _, deeper = make(config, 'uvit', hidden_size=32, depth=4)
    with pytest.raises(ValueError, match=r'file does not fit.*image/blocks_3/\S+ is missing'):
        initial.fill(deeper, loaded, 'file')
    _, shallower = make(config, 'uvit', depth=2)
    with pytest.raises(ValueError, match=r'image/blocks_3/\S+ is not part of the model'):
        initial.fill(shallower, deeper, 'file')
    with pytest.raises(ValueError, match='is missing'):
        initial.fill(shallower, {}, 'file')


def test_other_encoders_and_models_are_refused(saved, config):
    _, _, description = saved
    data = manifest.open_manifest(config.data.dir)
    weights_file.check_encoders(description, data, 'file')
    other = description | {'text': description['text'] | {'sha256': 'f' * 64}}
    with pytest.raises(ValueError, match=r"trained with text 'words' .hash f{12}"):
        weights_file.check_encoders(other, data, 'file')
    weights_file.check_model(description, description, 'runs/a')
    half = description | {'model': description['model'] | {'dtype': 'bfloat16'}}
    weights_file.check_model(half, description, 'runs/a')
    added = ('map_prediction', 'zero_conv_bias')
    model = {name: value for name, value in description['model'].items() if name not in added}
    older = description | {'model': model}  # before these settings were there
    weights_file.check_model(description, older, 'runs/a')
    weights_file.build_model(older, jnp.float32)
    noise = description | {'model': description['model'] | {'map_prediction': 'noise'}}
    with pytest.raises(ValueError, match=r"model\.map_prediction: 'data' there, 'noise' in this"):
        weights_file.check_model(noise, older, 'runs/a')
    deep = description | {'model': description['model'] | {'depth': 4}}
    with pytest.raises(ValueError, match=r'model\.depth: 2 there, 4 in this config'):
        weights_file.check_model(deep, description, 'runs/a')
    fewer = description | {'categories': description['categories'][1:]}
    with pytest.raises(ValueError, match='categories: not as in the data'):
        weights_file.check_model(fewer, description, 'runs/a')
