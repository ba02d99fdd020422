"""Pairs are scored as they are drawn; copies of training images are found among them."""

import numpy as np
import pytest

from panoptic_jax.data import geometry
from panoptic_jax.data.scenes import Scenes
from panoptic_jax.quality import judge, looks, scores, selection, training


@pytest.fixture(scope='module')
def fitted():
    """(image, category, instance, caption) of 24 scenes."""
    source = Scenes(0, 24, 'train')
    examples = [source[number] for number in range(24)]
    return [(*geometry.fit(example), example.captions[0]) for example in examples]


def judge_of(near=None, **changed):
    asked = {'keep': '', 'best_of': '', 'synonyms': '', 'maps': 1}
    categories = Scenes(0, 1, 'train').categories
    return judge.judge_of(categories, training=near, **{**asked, **changed})


def batch(fitted, numbers):
    images, ids, instances, captions = zip(*(fitted[n] for n in numbers), strict=True)
    return (np.stack(images), np.stack(ids), np.stack(instances)), captions


def test_scores_are_those_of_single_pairs(fitted):
    own = judge_of()
    found = judge.judged(own, *batch(fitted, range(5)))
    for number, each in enumerate(found):
        image, category, instance, caption = fitted[number]
        expected = scores.score(scores.Pair(image, category, instance, caption), own.measures)
        assert each.scores == {n: value for n, value in expected.items() if value is not None}
        # The data have an oracle, though nothing but their categories says so.
        assert each.scores['agreement'] > 0.95
        assert each.nearest is None


def test_a_second_map_decides_the_agreement_whatever_its_size(fitted):
    drawn, captions = batch(fitted, range(5))
    again = drawn[1].copy()[:, ::2, ::2]
    again[1] = np.roll(again[1], 9, axis=0)
    own = judge_of(maps=2, keep='iou>0.9')
    found = judge.judged(own, drawn, captions, again)
    for number, each in enumerate(found):
        pair = scores.Pair(*(array[number] for array in drawn), captions[number])
        second = again[number].repeat(2, axis=0).repeat(2, axis=1)
        expected = scores.score(pair, own.measures, again=second)
        assert each.scores == {n: value for n, value in expected.items() if value is not None}
    assert found[1].scores['iou'] < 0.8 < 0.9 < found[0].scores['iou']
    assert [judge.choice(own, [each.scores], [None]).kept for each in found[:2]] == [0, None]
    with pytest.raises(ValueError, match='no second map is drawn'):
        judge_of(keep='iou>0.9')


def test_filled_up_rows_are_not_scored(fitted):
    drawn, captions = batch(fitted, range(5))
    assert len(judge.judged(judge_of(), drawn, captions[:3])) == 3


def test_a_model_without_maps_has_no_scores(fitted):
    (images, *_), captions = batch(fitted, range(2))
    own = judge_of(maps=0)
    assert [each.scores for each in judge.judged(own, (images, None, None), captions)] == [{}, {}]
    with pytest.raises(ValueError, match='draws no maps'):
        judge_of(maps=0, keep='crumbs<1')


def test_copies_of_training_images_are_dropped(fitted):
    every = np.stack([looks.look(image, category) for image, category, *_ in fitted])
    near = training.training_of(every[:20], range(100, 120))
    own = judge_of(near)
    # Two training images, and two others.
    found = judge.judged(own, *batch(fitted, [3, 7, 21, 22]))
    assert [each.nearest['near_copy'] for each in found] == [True, True, False, False]
    assert [each.nearest['image'] for each in found[:2]] == [103, 107]
    chosen = [judge.choice(own, [each.scores], [each.nearest]) for each in found]
    assert [each.reasons for each in chosen[:2]] == [(selection.NEAR_COPY,)] * 2
    assert [each.kept for each in chosen[2:]] == [0, 0]
    alone = judge_of()
    assert judge.choice(alone, [found[0].scores], [found[0].nearest]).kept == 0
