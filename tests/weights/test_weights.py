"""Weight files: what they hold, what they fit into, and what is said where they do not."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import described, random_parameters
from flax.traverse_util import flatten_dict

from panoptic_jax.data import loader, manifest
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.diffusion.streams import PAPER, Stream
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.same_model import check_encoders, check_same_model
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import initial


def make(config, name, seed=0, **model):
    """(description, random parameters) of a tiny model."""
    config.model.update(name=name, **model)
    description = described(config)
    return description, random_parameters(description, seed)


def flat(tree):
    return flatten_dict(tree, sep='/')


@pytest.fixture
def saved(config, tmp_path):
    """(path, params, description) of a plain U-ViT's file."""
    description, params = make(config, 'uvit')
    path = str(tmp_path / 'folder' / 'weights.safetensors')
    empty_text = loader.empty_text(config.data.dir)
    weights_file.save(path, weights_file.Weights(params, empty_text, description))
    return path, params, description


def test_file_gives_back_what_was_saved(saved, config):
    path, params, description = saved
    found, empty_text, loaded = weights_file.load(path)
    assert flat(found).keys() == flat(params).keys()
    for name, value in flat(params).items():
        np.testing.assert_array_equal(flat(found)[name], value)
    np.testing.assert_array_equal(empty_text, loader.empty_text(config.data.dir))
    assert loaded == description
    assert loaded.model.hidden_size == 32
    assert loaded.to_json()['text'].keys() >= {'name', 'tokens', 'features', 'sha256'}
    assert [category['id'] for category in loaded.to_json()['categories']][:2] == [1, 2]


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


def test_other_encoders_are_refused(saved, config):
    _, _, description = saved
    data = manifest.open_manifest(config.data.dir)
    check_encoders(description, data, 'file')
    text = dataclasses.replace(description.text, sha256='f' * 64)
    other = dataclasses.replace(description, text=text)
    with pytest.raises(ValueError, match=r"trained with text 'words' .hash f{12}"):
        check_encoders(other, data, 'file')


def with_model(description, **settings):
    return dataclasses.replace(
        description, model=dataclasses.replace(description.model, **settings)
    )


def test_a_checkpoint_of_the_same_model_fits(saved):
    _, _, description = saved
    check_same_model(description, description, 'runs/a')
    half = with_model(description, dtype='bfloat16')
    check_same_model(half, description, 'runs/a')


def test_descriptions_of_before_these_settings_are_read(saved):
    _, _, description = saved
    description = with_model(description, name='one_stream')
    added = ('join', 'separate_times', 'instance_bits', 'zero_conv_bias')
    content = description.to_json()
    content['model'] = {k: value for k, value in content['model'].items() if k not in added}
    del content['streams']
    older = Description.from_json(content | {'map_noise_std': 2.0})
    check_same_model(description, older, 'runs/a')
    older.build(jnp.float32)
    content['model']['map_prediction'] = 'noise'
    noise = Description.from_json(content | {'map_noise_std': 1.5})
    assert noise.streams['map'] == Stream(1.5, 'noise')
    assert noise.streams['image'] == PAPER['image']
    with pytest.raises(ValueError, match=r"map\.prediction: 'data' there, 'noise' in this"):
        check_same_model(noise, older, 'runs/a')


def test_a_checkpoint_of_another_model_is_refused(saved):
    _, _, description = saved
    deep = with_model(description, depth=4)
    with pytest.raises(ValueError, match=r'model\.depth: 2 there, 4 in this config'):
        check_same_model(deep, description, 'runs/a')
    quiet = dataclasses.replace(description, streams=PAPER | {'map': Stream(0.5, 'data')})
    check_same_model(quiet, description, 'runs/a')  # it has no map
    quiet, description = (with_model(each, name='one_stream') for each in (quiet, description))
    with pytest.raises(ValueError, match=r'map\.noise_std: 2\.0 there, 0\.5 in this config'):
        check_same_model(quiet, description, 'runs/a')
    categories = description.categories
    fewer = dataclasses.replace(
        description,
        categories=CategoryList(categories.entries[1:], categories.source_ids[1:]),
    )
    with pytest.raises(ValueError, match='categories: not as in the data'):
        check_same_model(fewer, description, 'runs/a')


def test_a_description_survives_json(saved):
    _, _, description = saved
    exported = dataclasses.replace(description, origin={'step': 3, 'ema': True})
    assert Description.from_json(json.loads(json.dumps(exported.to_json()))) == exported


def test_views_are_saved_as_what_they_show(saved, config, tmp_path):
    """safetensors would write the memory behind a view."""
    _, params, description = saved
    turned = jax.tree.map(lambda a: a[::-1] if a.ndim == 1 else a.T.copy().T, params)
    path = str(tmp_path / 'views.safetensors')
    empty_text = loader.empty_text(config.data.dir)
    weights_file.save(path, weights_file.Weights(turned, empty_text, description))
    found = flat(weights_file.load(path).params)
    for name, value in flat(turned).items():
        np.testing.assert_array_equal(found[name], value)
