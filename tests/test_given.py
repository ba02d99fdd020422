"""Jobs that are given the images or the maps of a split, by weights with own times."""

import json

import numpy as np
import one_device
import pytest
from conftest import described, random_parameters
from PIL import Image

from panoptic_jax.data import geometry, loader
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.metrics import semantic
from panoptic_jax.weights import file as weights_file


@pytest.fixture
def given(config, tmp_path):
    """A config whose weights are a joint network with instances, all of them random."""
    config.model.update(name='joint', depth=1, separate_times=True, instance_bits=8)
    config.image.update(prediction='data', noise_std=2.0, unit_input=True)
    description = described(config)
    config.sample.weights = str(tmp_path / 'weights.safetensors')
    weights = weights_file.Weights(
        random_parameters(description), loader.empty_text(config.data.dir), description
    )
    weights_file.save(config.sample.weights, weights)
    config.sample.count = 5
    return config


def test_maps_of_given_images_are_scored_against_the_true_ones(given, tmp_path):
    given.sample.given = 'image'
    one_device.evaluate(given, tmp_path)
    pairs = Pairs(tmp_path / 'samples', map_side=64)
    split = loader.Split(given.data.dir, 'validation')
    counts = 0
    for number in range(5):
        record = split[pairs.entries[number]['record']]
        image = np.asarray(pairs.image(number), np.float32).reshape(32, 8, 32, 8, 3)
        seen = image.mean(axis=(1, 3)) / 127.5 - 1
        # The picture is the given one, as the autoencoder decodes it.
        assert np.abs(seen - geometry.true_latents(record)).mean() < 0.1
        ids, _ = pairs.segments(number)
        counts = counts + semantic.confusion(geometry.true_ids(record, 64, void_wins=False), ids)
    scores = json.loads((tmp_path / 'metrics.json').read_text())
    accuracy = scores['pixel_accuracy']
    assert accuracy['n'] == 5
    assert accuracy['value'] == pytest.approx(semantic.pixel_accuracy(counts), abs=1e-6)
    assert {'PQ', 'SQ_stuff', 'RQ_things', 'mIoU', 'PQ/connected areas'} <= set(scores)


def test_given_maps_stay_as_they_are(given, tmp_path):
    given.sample.given = 'map'
    one_device.sample(given, tmp_path)
    pairs = Pairs(tmp_path / 'samples', map_side=64)
    split = loader.Split(given.data.dir, 'validation')
    for number in range(5):
        ids, _ = pairs.segments(number)
        record = split[pairs.entries[number]['record']]
        np.testing.assert_array_equal(ids, geometry.true_ids(record, 64, void_wins=False))


def test_an_own_map_comes_with_its_caption(given, tmp_path):
    rng = np.random.default_rng(0)
    codes = weights_file.load(given.sample.weights).description.valid_codes()
    ids = rng.choice(codes, (64, 64))
    Image.fromarray(ids).save(tmp_path / 'map.png')
    prompts = tmp_path / 'list.jsonl'
    prompts.write_text(json.dumps({'caption': 'a red circle', 'map': 'map.png'}))
    given.sample.update(given='map', prompts=str(prompts), count=0)
    one_device.sample(given, tmp_path)
    found, _ = Pairs(tmp_path / 'samples', map_side=64).segments(0)
    np.testing.assert_array_equal(found, ids)


def test_a_second_map_is_the_one_that_the_image_gets(given, tmp_path):
    """With refined maps, too, which are larger; the pairs themselves stay as they are."""
    found = {}
    for second in (False, True):
        for refine in (False, True):
            folder = f'{second}_{refine}'
            given.sample.update(second_map=second, refine=refine, folder=folder)
            one_device.sample(given, tmp_path)
            lines = [*(tmp_path / folder / 'pairs_generated.jsonl').open()]
            pairs = Pairs(tmp_path / folder, map_side=64)
            found[second, refine] = [json.loads(line)['scores'] for line in lines], pairs
    for refine in (False, True):
        (alone, plain), (both, again) = found[False, refine], found[True, refine]
        for number in range(5):
            assert 'iou' not in alone[number]
            # Random weights draw maps that have nothing to do with one another.
            assert 0 <= both[number]['iou'] < both[number]['agreement'] < 0.6
            assert both[number]['crumbs'] == alone[number]['crumbs']
            np.testing.assert_array_equal(plain.ids(number), again.ids(number))
    given.sample.update(second_map=False, folder='True_True')
    with pytest.raises(ValueError, match=r'sample\.second_map: True there, False now'):
        one_device.sample(given, tmp_path)


def test_what_cannot_be_given_is_refused(given, config, tmp_path):
    given.sample.update(given='image', prompt='a red circle')
    with pytest.raises(
        ValueError, match=r"sample\.given is 'image', and 'a red circle' names none"
    ):
        one_device.sample(given, tmp_path)
    given.sample.update(prompt='', given='image')
    config.model.update(name='one_stream', depth=2, separate_times=False, instance_bits=0)
    description = described(config)
    weights = weights_file.Weights(
        random_parameters(description), loader.empty_text(config.data.dir), description
    )
    weights_file.save(given.sample.weights, weights)
    with pytest.raises(ValueError, match=r'a whole image is given; that needs weights trained'):
        one_device.sample(given, tmp_path)
    given.sample.update(given='nothing', second_map=True)
    with pytest.raises(ValueError, match=r'a whole image is given; that needs weights trained'):
        one_device.sample(given, tmp_path)
