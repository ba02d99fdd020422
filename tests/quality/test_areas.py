"""Connected areas, against a labelling of one value after the other."""

import numpy as np
import pytest
from scipy import ndimage

from panoptic_jax.quality import areas


def slowly(category, instance):
    """The sizes of all areas, segment by segment."""
    sizes = []
    for pair in {*zip(category.ravel(), instance.ravel(), strict=True)}:
        if pair[0]:
            labels, _ = ndimage.label((category == pair[0]) & (instance == pair[1]))
            sizes += np.bincount(labels.ravel())[1:].tolist()
    return sorted(sizes)


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (7, 1), (16, 16), (23, 40)])
@pytest.mark.parametrize('seed', range(5))
def test_areas_are_those_of_each_value(shape, seed):
    generator = np.random.default_rng(seed)
    category = generator.integers(0, 4, shape, np.uint8)
    instance = generator.integers(0, 3, shape, np.uint16)
    found = areas.connected(category, instance)
    assert sorted(found.tolist()) == slowly(category, instance)
    assert found.sum() == np.count_nonzero(category)
    alone = areas.connected(category)
    assert sorted(alone.tolist()) == slowly(category, np.zeros_like(category))


def test_corners_do_not_connect():
    assert areas.connected(np.eye(5, dtype=np.uint8)).tolist() == [1] * 5


@pytest.mark.parametrize('seed', range(5))
def test_things_are_instances_or_connected_areas(seed):
    generator = np.random.default_rng(seed)
    category = generator.integers(0, 4, (12, 12), np.uint8)
    instance = generator.integers(0, 5, (12, 12), np.uint16)
    own = areas.of_things(category, instance, frozenset({1, 3}))
    is_thing = np.isin(category, [1, 3])
    expected = [np.count_nonzero(is_thing & (instance == number)) for number in range(1, 5)]
    assert own.tolist() == expected
    bare = areas.of_things(category, None, frozenset({1, 3}))
    assert bare.sum() == is_thing.sum()
    assert sorted(bare.tolist()) == slowly(category * is_thing, np.zeros_like(category))
