"""Category lists: COCO's own, renumbering, colours, and the captions made of their names."""

import json

import numpy as np
import pytest

from panoptic_jax.data import categories, category_captions
from panoptic_jax.data.example import Category

LIST = (
    Category(3, 'cat', is_thing=True),
    Category(7, 'dog', is_thing=True),
    Category(200, 'grass', is_thing=False),
)
# Its ids do not fit into 1..254.
WIDE_LIST = (
    Category(500, 'sky', is_thing=False),
    Category(2, 'cat', is_thing=True),
    Category(0, 'car', is_thing=True),
)


def test_default_list_is_cocos():
    ids = [category.id for category in categories.COCO]
    things = [category for category in categories.COCO if category.is_thing]
    assert (len(ids), len(things), max(ids)) == (133, 80, 200)
    assert max(category.id for category in things) == 90
    assert min(category.id for category in categories.COCO if not category.is_thing) == 92
    by_id = {category.id: category.name for category in categories.COCO}
    assert (by_id[1], by_id[90], by_id[187]) == ('person', 'toothbrush', 'sky-other-merged')


def test_default_list_equals_the_official_json(shared):
    annotations = shared / 'data' / 'coco_sample' / 'annotations'
    content = json.loads((annotations / 'panoptic_val2017.json').read_text())
    official = {(c['id'], c['name'], bool(c['isthing'])) for c in content['categories']}
    assert {tuple(category) for category in categories.COCO} == official


def test_colours_differ_and_neighbours_differ_most():
    palette = categories.palette().astype(int)
    distance = np.linalg.norm(palette[:, None] - palette, axis=-1)
    apart = np.abs(np.subtract.outer(np.arange(256), np.arange(256)))
    assert distance[apart > 0].min() > 40
    inner = np.ix_(range(1, 255), range(1, 255))
    assert distance[inner][(apart[inner] > 0) & (apart[inner] <= 4)].min() > 115


def test_a_map_is_painted_in_the_palettes_colours():
    palette = categories.palette()
    ids = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
    painted = categories.colour(ids)
    assert painted.shape == (5, 7, 3)
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted[2, 3], palette[ids[2, 3]])
    assert not palette[0].any()


def test_remap_keeps_ids_that_fit():
    assert categories.remap(LIST) == (LIST, {3: 3, 7: 7, 200: 200})


def test_remap_renumbers_other_ids_things_first():
    renumbered, ids = categories.remap(WIDE_LIST)
    assert ids == {2: 1, 0: 2, 500: 3}
    assert renumbered == (
        Category(1, 'cat', is_thing=True),
        Category(2, 'car', is_thing=True),
        Category(3, 'sky', is_thing=False),
    )


def test_valid_codes_are_void_and_the_ids_in_order():
    renumbered, _ = categories.remap(WIDE_LIST)
    assert categories.valid_codes(renumbered).tolist() == [0, 1, 2, 3]
    assert categories.valid_codes(LIST[::-1]).tolist() == [0, 3, 7, 200]


def test_remap_refuses_long_and_ambiguous_lists():
    with pytest.raises(ValueError, match='255 entries; it must have 1 to 254'):
        categories.remap([Category(i, str(i), is_thing=True) for i in range(255)])
    with pytest.raises(ValueError, match=r"id 3 stands for both 'cat' and 'cow'"):
        categories.remap([*LIST, Category(3, 'cow', is_thing=True)])


def test_categories_are_named_as_people_say_them():
    names = {1: 'person', 2: 'sky-other-merged', 3: 'traffic_light', 4: 'wall-brick', 5: 'other'}
    sizes = {0: 200, 2: 50, 1: 55, 3: 20, 9: 99, 4: 5, 5: 1}
    ids = np.repeat(np.array([*sizes], np.uint8), [*sizes.values()])
    ids = np.random.default_rng(0).permutation(ids).reshape(2, -1)
    expected = 'a picture of person, sky, traffic light, wall brick and other'
    assert category_captions.caption(ids, names) == expected
    assert category_captions.caption(ids[ids == 2], names) == 'a picture of sky'
    assert category_captions.caption(ids[ids == 0], names) == 'a picture of nothing'
    # What people call by one name counts together.
    names[3] = 'sky'
    assert category_captions.caption(ids, names).startswith('a picture of sky, person, wall')
