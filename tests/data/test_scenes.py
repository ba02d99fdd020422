"""The embedded scenes: they are what their captions say, and a seed always draws the same ones."""

import numpy as np
import pytest

from panoptic_jax.data import scene_shapes, scene_words, scenes

COUNT = 48


@pytest.fixture(scope='module')
def source():
    return scenes.Scenes(3, COUNT, 'validation')


@pytest.fixture(scope='module')
def examples(source):
    return [source[index] for index in range(COUNT)]


def _equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_scene_depends_on_seed_split_and_index_only(source, examples):
    assert _equal(scenes.Scenes(3, 7, 'validation')[5], examples[5])
    for other in (scenes.Scenes(3, 7, 'train'), scenes.Scenes(4, 7, 'validation')):
        assert not any(np.array_equal(other[5].image, example.image) for example in examples)
    assert source.description['seed'] == 3
    assert source.description['split'] == 'validation'
    assert len(source) == len(list(source)) == COUNT


def test_scene_is_still_the_one_of_this_version():
    """If this fails, the same seed draws other scenes: raise VERSION, so old shards are refused."""
    example = scenes.Scenes(0, 1, 'train')[0]
    assert scenes.VERSION == 1
    assert example.captions[1] == 'a night sky above sand with a blue ring and a purple box'
    assert np.bincount(example.instance.ravel()) == pytest.approx([57741, 4039, 3756], abs=8)
    assert example.image.mean() == pytest.approx(127.4, abs=0.2)


def test_examples_have_the_promised_arrays(examples):
    for index, example in enumerate(examples):
        assert example.image.shape == (256, 256, 3)
        assert example.image.dtype == example.category.dtype == example.instance.dtype == np.uint8
        assert example.image_id == index


def test_maps_hold_exactly_what_the_captions_say(examples):
    for example in examples:
        ids, areas = np.unique(example.category, return_counts=True)
        assert all(area >= 150 for area in areas)
        shown = set(ids)
        assert len(set(example.captions)) == 5
        for caption in example.captions:
            things, above, below = scene_words.parse(caption)
            assert shown == {number for number, _ in things} | {above, below}
            assert len(things) == len(shown) - 2 <= 4


def test_instances_are_the_things_by_size(source, examples):
    is_thing = {category.id: category.is_thing for category in source.categories}
    assert sum(is_thing.values()) == 6
    for example in examples:
        things = [number for number in np.unique(example.category) if is_thing[number]]
        assert np.array_equal(example.instance > 0, np.isin(example.category, things))
        sizes = np.bincount(example.instance.ravel())[1:]
        assert list(sizes) == sorted(sizes, reverse=True)
        for number in range(1, len(sizes) + 1):
            assert len(np.unique(example.category[example.instance == number])) == 1


def test_stuff_above_lies_above(examples):
    rows = np.arange(256)[:, None] * np.ones(256)
    for example in examples:
        _, above, below = scene_words.parse(example.captions[0])
        assert rows[example.category == above].max() < 200
        assert rows[example.category == below].min() > 60


def test_scenes_vary(examples):
    """Every shape, colour, stuff and number of things occurs, and sizes differ."""
    parsed = [scene_words.parse(example.captions[0]) for example in examples]
    assert {len(things) for things, _, _ in parsed} == {1, 2, 3, 4}
    assert {i for things, _, _ in parsed for i, _ in things} == set(scene_words.THINGS)
    assert {c for things, _, _ in parsed for _, c in things} == set(scene_words.THING_COLOURS)
    assert {above for _, above, _ in parsed} == set(scene_words.ABOVE)
    assert {below for _, _, below in parsed} == set(scene_words.BELOW)
    areas = [np.count_nonzero(example.instance == 1) for example in examples]
    assert max(areas) > 2 * min(areas)


def test_shapes_have_the_area_that_their_size_says():
    steps = np.linspace(-2, 2, 801)
    x, y = np.meshgrid(steps, steps)
    for distance in scene_shapes.DISTANCES.values():
        assert np.mean(distance(x, y) < 0) * 16 == pytest.approx(np.pi, rel=0.01)


def test_impossible_requests_are_refused(source):
    with pytest.raises(ValueError, match="no split 'test'"):
        scenes.Scenes(0, 1, 'test')
    with pytest.raises(ValueError, match='count 0'):
        scenes.Scenes(0, 0, 'train')
    with pytest.raises(IndexError, match='scene 48 of 48'):
        source[COUNT]
