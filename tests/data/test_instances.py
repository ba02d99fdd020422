"""Things of generated maps: connected areas, codes, and segments that are too small."""

import numpy as np
import pytest
from scipy import ndimage

from panoptic_jax.data import instances

THINGS = frozenset({1, 2, 3})


def random_map(seed, side=48, cell=6):
    """Areas of random categories; some of them void."""
    rng = np.random.default_rng(seed)
    small = rng.choice([0, 1, 2, 3, 92, 93], (side // cell, side // cell))
    return small.repeat(cell, axis=0).repeat(cell, axis=1).astype(np.uint8)


def separate(category, codes=None, min_area=0.0):
    return instances.separate(category, codes=codes, thing_ids=THINGS, min_area=min_area)


@pytest.mark.parametrize('seed', range(3))
def test_without_codes_each_connected_area_is_a_thing(seed):
    category = random_map(seed)
    found, numbers = separate(category)
    np.testing.assert_array_equal(found, category)
    count = 0
    for kind in THINGS:
        areas, own = ndimage.label(category == kind)
        count += own
        for area in range(1, own + 1):
            assert len(np.unique(numbers[areas == area])) == 1
    assert numbers.max() == count == len(np.unique(numbers)) - 1
    sizes = np.bincount(numbers.ravel())[1:]
    assert list(sizes) == sorted(sizes, reverse=True)
    assert not numbers[~np.isin(category, list(THINGS))].any()


@pytest.mark.parametrize('seed', range(3))
def test_specks_join_what_surrounds_them(seed):
    """A map comes back as it was before specks of any category fell on it."""
    category = random_map(seed)
    rng = np.random.default_rng(seed)
    spoilt = category.copy()
    for top in range(2, 48, 6):
        for left in range(2, 48, 6):
            width = rng.integers(1, 3)
            if category[top, left]:
                spoilt[top, left : left + width] = rng.choice([*THINGS, 92, 93])
    assert (spoilt != category).any()
    found, numbers = separate(spoilt, min_area=3 / 48**2)
    np.testing.assert_array_equal(found, category)
    np.testing.assert_array_equal(numbers, separate(category)[1])


def test_stuff_too_small_goes_and_void_stays():
    category = np.full((20, 20), 92, np.uint8)
    category[3:5, 3:5] = 93
    category[8, 8] = 0
    category[10:14, 10:14] = 1
    category[11, 11:13] = 2
    found, numbers = separate(category, min_area=5 / 400)
    expected = np.full((20, 20), 92, np.uint8)
    expected[8, 8] = 0
    expected[10:14, 10:14] = 1
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(numbers, expected == 1)


def test_the_border_has_no_other_side():
    category = np.full((9, 9), 92, np.uint8)
    category[:, 4:] = 93
    category[4, 0] = 1
    category[0, 6] = 2
    category[8, 6] = 92  # this stuff is large elsewhere
    found, _ = separate(category, min_area=2 / 81)
    assert (found[4, 0], found[0, 6], found[8, 6]) == (92, 93, 93)


def test_maps_of_specks_alone_stay():
    noise = np.random.default_rng(0).choice([1, 2, 92], (8, 8)).astype(np.uint8)
    found, _ = separate(noise, min_area=1.0)
    np.testing.assert_array_equal(found, noise)


@pytest.mark.parametrize('seed', range(3))
def test_a_code_is_one_thing_connected_or_not(seed):
    rng = np.random.default_rng(seed)
    category = np.full((40, 40), 92, np.uint8)
    codes = rng.integers(0, 256, (40, 40)).astype(np.uint8)  # of stuff they say nothing
    # Two squares of one code far apart, and one of another code that touches.
    category[2:10, 2:10] = category[2:10, 10:14] = category[25:30, 25:30] = 2
    codes[2:10, 2:10] = codes[25:30, 25:30] = 77
    codes[2:10, 10:14] = 78
    category[2:10, 4] = 1  # a few of its pixels have another category
    found, numbers = separate(category, codes)
    expected = np.zeros((40, 40), int)
    expected[2:10, 2:10] = expected[25:30, 25:30] = 1
    expected[2:10, 10:14] = 2
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(found, np.where(expected, 2, 92))


def test_things_without_a_code_are_connected_areas():
    category = np.full((20, 20), 92, np.uint8)
    category[2:6, 2:6] = category[10:13, 10:13] = 3
    codes = np.zeros((20, 20), np.uint8)
    _, numbers = separate(category, codes)
    assert (numbers[3, 3], numbers[11, 11], numbers.max()) == (1, 2, 2)


def test_a_small_code_joins_the_thing_around_it():
    category = np.full((20, 20), 92, np.uint8)
    category[4:12, 4:12] = 1
    codes = np.where(category == 1, 9, 0).astype(np.uint8)
    codes[5, 5:7] = 11
    codes[9, 9] = 11
    for min_area, things in ((0.0, 2), (4 / 400, 1)):
        found, numbers = separate(category, codes, min_area)
        assert numbers.max() == things
        np.testing.assert_array_equal(found, category)


def test_batches_are_the_maps_one_by_one():
    ids = np.stack([random_map(seed) for seed in range(3)])
    codes = np.random.default_rng(0).integers(0, 5, ids.shape).astype(np.uint8)
    for own in (None, codes):
        categories, numbers = instances.of_batch(ids, codes=own, thing_ids=THINGS, min_area=0.01)
        for row in range(3):
            each = separate(ids[row], None if own is None else own[row], 0.01)
            np.testing.assert_array_equal(categories[row], each[0])
            np.testing.assert_array_equal(numbers[row], each[1])
