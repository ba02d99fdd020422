"""Scenes with several things of one kind, and what images and maps show of them as segments."""

import numpy as np
import pytest
from scipy import ndimage

from panoptic_jax.data import (
    geometry,
    instances,
    scene_oracle,
    scene_segments,
    scene_words,
    scenes,
)
from panoptic_jax.diffusion import bits
from panoptic_jax.metrics import pq

COUNT = 40
THINGS = frozenset(scene_words.THINGS)


@pytest.fixture(scope='module')
def examples():
    source = scenes.Scenes(3, COUNT, 'validation', repeats=True)
    return [source[index] for index in range(COUNT)]


def test_repeats_are_other_data_and_the_rest_keeps_its_description():
    plain, repeated = (scenes.Scenes(3, 2, 'train', repeats=each) for each in (False, True))
    assert repeated.description == plain.description | {'repeats': True}
    assert 'repeats' not in plain.description
    assert not np.array_equal(plain[1].image, repeated[1].image)
    np.testing.assert_array_equal(
        repeated[1].image, scenes.Scenes(3, 9, 'train', repeats=True)[1].image
    )


def test_captions_name_every_thing(examples):
    numbers = set()
    for example in examples:
        for caption in example.captions:
            words = caption.replace(',', '').split()
            numbers |= {'two', 'three'} & set(words)
            assert len(words) < 24  # tokens that the quickstart's text encoder has, with the end
            things, above, below = scene_words.parse(caption)
            kinds = [kind for kind, _ in things]
            assert 2 <= len(things) == example.instance.max() <= 5
            assert max(map(kinds.count, kinds)) >= 2
            assert {*kinds, above, below} == {*np.unique(example.category)}
            # A colour is one kind's, so that an image can be read by colours.
            assert len({*things}) == len({colour for _, colour in things}) <= 4
    assert numbers >= {'two'}


def test_instances_are_the_visible_pixels_of_one_thing_by_size(examples):
    for example in examples:
        things, _, _ = scene_words.parse(example.captions[0])
        areas = np.bincount(example.instance.ravel())[1:]
        assert list(areas) == sorted(areas, reverse=True)
        assert areas[-1] > 1000
        np.testing.assert_array_equal(example.instance > 0, np.isin(example.category, list(THINGS)))
        found = [example.category[example.instance == n][0] for n in range(1, len(areas) + 1)]
        assert sorted(found) == sorted(kind for kind, _ in things)


def test_most_scenes_have_things_of_one_kind_that_touch(examples):
    merged = 0
    for example in examples:
        areas = sum(ndimage.label(example.category == kind)[1] for kind in THINGS)
        merged += areas < example.instance.max()
    assert merged > COUNT / 2


def test_images_read_as_the_segments_of_their_maps(examples):
    """Things of one kind that touch are told apart, which connected areas of the map are not."""
    counts = dict.fromkeys(('true', 'areas', 'next'), pq.none())
    maps = [
        bits.min_pool(*geometry.fit_map(e.category, e.instance, void_wins=False), 2)
        for e in examples
    ]
    for number, example in enumerate(examples):
        truth = scene_segments.of_image(example.image, example.captions[number % 5])
        others = {
            'true': maps[number],
            'areas': instances.separate(maps[number][0], thing_ids=THINGS),
            'next': maps[number - 1],
        }
        for name, other in others.items():
            cells = scene_segments.of_map(*other)
            counts[name] = pq.added(counts[name], pq.count(truth, cells, THINGS))
    found = {name: pq.qualities(each, THINGS) for name, each in counts.items()}
    assert found['true']['all'].rq > 0.98
    assert found['true']['all'].pq > 0.88
    assert found['areas']['things'].pq < found['true']['things'].pq - 0.15
    assert found['next']['things'].pq < 0.05


def test_colours_without_a_name_are_void(examples):
    for example in examples[:8]:
        things, _, _ = scene_words.parse(example.captions[0])
        (kind, colour), *_ = things
        absent = next(c for c in scene_words.THING_COLOURS if c not in {c for _, c in things})
        whole = scene_segments.of_image(example.image, example.captions[0])
        lacking = example.captions[0].replace(colour, absent)
        category, instance = scene_segments.of_image(example.image, lacking)
        gone = scene_oracle.read_image(example.image) == scene_oracle.COLOUR_CODES[colour]
        assert (whole[0][gone] == kind).any()
        assert not category[gone].any()
        assert not instance[gone].any()
        np.testing.assert_array_equal(category[~gone], whole[0][~gone])


def test_the_recall_of_a_colour_counts_its_things(examples):
    pairs = [(e, scene_words.parse(e.captions[0])[0]) for e in examples]
    several = [(e, t) for e, t in pairs if len({*t}) < len(t)]
    for example, things in several:
        colour = next(c for _, c in things if [o for _, o in things].count(c) > 1)
        full = scene_oracle.score_pair(example.image, example.category, example.captions[0])
        assert full['colour_recall_image'] == 1
        # One of the things of this colour takes the colour of the stuff below it.
        reading = scene_oracle.read_image(example.image)
        areas, _ = ndimage.label(reading == scene_oracle.COLOUR_CODES[colour])
        largest = np.bincount(areas.ravel())[1:].argmax() + 1
        cover = (areas == largest).repeat(8, axis=0).repeat(8, axis=1)
        painted = np.where(cover[..., None], scene_words.STUFF_COLOURS[96], example.image)
        less = scene_oracle.score_pair(
            painted.astype(np.uint8), example.category, example.captions[0]
        )
        assert less['colour_recall_image'] == pytest.approx(1 - 1 / len(things))
    assert len(several) > 5


@pytest.mark.parametrize('factor', [1, 2, 4])
def test_a_cell_of_a_map_is_the_thing_that_most_of_it_shows(factor):
    rng = np.random.default_rng(factor)
    category = rng.choice([0, 1, 2, 96], (32, 32)).astype(np.uint8)
    instance = np.where(np.isin(category, [1, 2]), rng.integers(1, 9, (32, 32)), 0)
    large = [each.repeat(factor, axis=0).repeat(factor, axis=1) for each in (category, instance)]
    large[0][::4, ::4] = 3
    large[1][::4, ::4] = 200
    found = scene_segments.of_map(*large)
    if factor > 1:
        np.testing.assert_array_equal(found, (category, instance))
    assert found[0].dtype == np.uint8
