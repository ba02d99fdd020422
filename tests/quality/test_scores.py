"""Scores of one pair: known answers, and that they do not depend on a map's size."""

import numpy as np
import pytest

from panoptic_jax.data import scene_oracle, scene_words, scenes
from panoptic_jax.metrics import semantic
from panoptic_jax.quality import agreement, scores

SCENES = scores.measures_of(scene_words.categories(), is_scenes=True)


def test_known_answers_of_a_drawn_map():
    category = np.full((40, 40), 96, np.uint8)
    category[:10] = 0  # a quarter is void
    category[20, 5] = 1  # one pixel of a thing
    category[30:33, 10:12] = 2  # six pixels
    category[25:28, 30:33] = 1  # nine
    # A crumb has less than 0.005 x 1600 = 8 pixels.
    found = scores.of_map(category, None, frozenset({1, 2}))
    assert found == {'void': 0.25, 'crumbs': 7 / 1600, 'things': 3}
    # One thing in two areas is one thing, whose areas are crumbs of their own.
    instance = np.zeros_like(category)
    instance[category == 1] = 1
    instance[category == 2] = 2
    assert scores.of_map(category, instance, frozenset({1, 2})) == found | {'things': 2}
    # Two things that touch are cut where they meet: 4 + 5 pixels.
    instance[25:28, 30:33] = 3
    instance[25, 30:33] = 4
    instance[26, 30] = 4
    expected = found | {'things': 4, 'crumbs': (7 + 4 + 5) / 1600}
    assert scores.of_map(category, instance, frozenset({1, 2})) == expected


@pytest.mark.parametrize('factor', [1, 2, 4])
def test_scores_are_shares_of_the_map_whatever_its_size(factor):
    generator = np.random.default_rng(factor)
    coarse = generator.choice(np.uint8([0, 1, 2, 96, 97]), (32, 32))
    coarse = coarse.repeat(2, axis=0)  # areas of several pixels
    instance = np.where(np.isin(coarse, [1, 2]), coarse, 0)
    one = scores.of_map(coarse, instance, frozenset({1, 2}))
    enlarged = [
        each.repeat(factor, axis=0).repeat(factor, axis=1) for each in (coarse, instance)
    ]  # fmt: skip
    assert scores.of_map(*enlarged, frozenset({1, 2})) == one


def test_void_alone_and_one_category_alone():
    void = np.zeros((16, 16), np.uint8)
    assert scores.of_map(void, void, frozenset({1})) == {'void': 1, 'crumbs': 0, 'things': 0}
    one = np.ones((16, 16), np.uint8)
    assert scores.of_map(one, one, frozenset({1})) == {'void': 0, 'crumbs': 0, 'things': 1}


def test_true_scenes_score_as_well_as_pairs_can():
    source = scenes.Scenes(3, 8, 'validation')
    for number in range(8):
        example = source[number]
        pair = scores.Pair(example.image, example.category, example.instance, example.captions[0])
        found = scores.score(pair, SCENES)
        assert list(found) == list(scores.KINDS)
        assert found['captioned'] == 1
        assert found['agreement'] > 0.95
        assert found['void'] == 0
        assert found['crumbs'] < 0.01
        assert found['things'] == example.instance.max()
        assert found['clip'] is found['iou'] is None
        own = scene_oracle.score_pair(pair.image, pair.category, pair.caption)
        assert found['agreement'] == own['image_map_agreement']
        # Another scene's map fits neither image nor caption.
        other = pair._replace(category=source[(number + 1) % 8].category)
        wrong = scores.score(other, SCENES)
        assert wrong['agreement'] < found['agreement']


def test_what_cannot_be_measured_is_none():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (256, 256, 3), np.uint8)
    pair = scores.Pair(image, np.full((64, 64), 96, np.uint8), None, 'a photograph of my aunt')
    found = scores.score(pair, SCENES)
    assert found['captioned'] is found['agreement'] is None
    odd = pair._replace(category=np.full((30, 20), 96, np.uint8), caption='grass')
    assert scores.score(odd, SCENES)['agreement'] is None
    assert scores.score(odd, SCENES)['captioned'] == 1
    assert scores.score(pair._replace(caption=''), SCENES)['captioned'] is None
    assert scores.score(pair, SCENES, clip=31.5)['clip'] == 31.5


@pytest.mark.parametrize('seed', range(5))
def test_a_second_map_of_the_same_weights_decides_the_agreement(seed):
    generator = np.random.default_rng(seed)
    category, again = generator.integers(0, 4, (2, 24, 24), np.uint8)
    found = agreement.of_maps(category, again)
    known = (category > 0) & (again > 0)
    assert found['agreement'] == pytest.approx(np.mean(category[known] == again[known]))
    ious = [
        np.sum(known & (category == number) & (again == number))
        / np.sum(known & ((category == number) | (again == number)))
        for number in (1, 2, 3)
    ]
    assert found['iou'] == pytest.approx(np.mean(ious))
    assert agreement.of_maps(category, category) == {'agreement': 1, 'iou': 1}
    assert agreement.of_maps(category, np.zeros_like(again))['agreement'] == 0
    image = generator.integers(0, 256, (256, 256, 3), np.uint8)
    pair = scores.Pair(image, category, None, '')
    assert scores.score(pair, SCENES, again=again)['agreement'] == found['agreement']
    assert semantic.pixel_accuracy(semantic.confusion(category, category)) == 1


@pytest.mark.parametrize('pixels', [0, 1, 8, 9, 100])
def test_a_category_needs_some_area_to_be_there(pixels):
    category = np.full((128, 128), 96, np.uint8)
    category.ravel()[:pixels] = 1
    # 0.0005 of the map are 8.2 pixels.
    expected = 1.0 if pixels >= 9 else 0.5
    assert scores.captioned(category, [frozenset({1}), frozenset({96})]) == expected
