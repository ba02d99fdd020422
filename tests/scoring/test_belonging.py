"""Categories by name, sources by description: what belongs together, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from panoptic_jax.data.categories import COCO, remap
from panoptic_jax.data.example import Category
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.scenes import Scenes
from panoptic_jax.scoring import belonging

# Ids of ADE20K and Cityscapes fit into 1..254 only once they are renumbered.
SOURCE = (
    Category(0, 'wall', is_thing=False),
    Category(77, 'person', is_thing=True),
    Category(1001, 'sky', is_thing=False),
)


def listed(categories):
    """A list as preparation keeps it."""
    entries, our_ids = remap(categories)
    return CategoryList.of_source(entries, {ours: theirs for theirs, ours in our_ids.items()})


DATA = listed(SOURCE)
SCENES = Scenes(0, 1, 'train')


def everything(categories):
    return {entry.id for entry in categories}


@pytest.mark.parametrize(
    'categories',
    [
        DATA.entries,
        remap(SOURCE)[0],
        # In another order, of other ids, in other letters.
        (Category(9, ' Sky', True), Category(200, 'WALL', False), Category(3, 'person', True)),
        # With one that the data lack, which no map uses.
        (*DATA.entries, Category(90, 'unused', False)),
    ],
    ids=['ours', 'of the source', 'others', 'more'],
)
def test_names_decide(categories):
    used = everything(categories) - {90}
    table = belonging.translation(categories, used, DATA, 'a folder')
    ours = {entry.name: entry.id for entry in DATA.entries}
    assert table[0] == 0
    for entry in categories:
        assert table[entry.id] == ours.get(entry.name.strip().lower(), 0)


def test_equal_lists_change_nothing():
    data = CategoryList.of_source(COCO, {entry.id: entry.id for entry in COCO})
    table = belonging.translation(COCO, everything(COCO), data, 'a folder')
    ids = sorted(everything(COCO))
    np.testing.assert_array_equal(table[ids], ids)


def test_categories_of_one_name_go_by_their_order():
    twice = (Category(1, 'door', True), Category(2, 'door', True), Category(3, 'wall', False))
    others = tuple(entry._replace(id=entry.id + 40) for entry in twice)
    data = CategoryList.of_source(twice, {entry.id: entry.id for entry in twice})
    table = belonging.translation(others, everything(others), data, 'a folder')
    np.testing.assert_array_equal(table[[41, 42, 43]], [1, 2, 3])
    with pytest.raises(ValueError, match=r"a folder has categories .*, 1 in all, the first 'door'"):
        belonging.translation(others[1:], {42}, data, 'a folder')


def test_scenes_do_not_belong_to_coco():
    data = CategoryList.of_source(COCO, {entry.id: entry.id for entry in COCO})
    used = everything(SCENES.categories)
    with pytest.raises(
        ValueError, match=r'panoptic\.json has categories that the .* lack, \d+ in all'
    ):
        belonging.translation(SCENES.categories, used, data, 'panoptic.json')


def test_a_model_of_scenes_is_not_scored_with_other_data():
    model = CategoryList.of_source(SCENES.categories, SCENES.source_ids)
    belonging.check_model(model, model, 'data/scenes')
    with pytest.raises(ValueError, match=r"The model, beside data\.dir 'data/ade', has categories"):
        belonging.check_model(model, DATA, 'data/ade')


@pytest.mark.parametrize('other', [{'seed': 5}, {'count': 9}, {'version': 0}, {'source': 'coco'}])
def test_pictures_of_another_source_are_refused(other):
    prepared = {'validation': SCENES.description}
    same = {'validation': SimpleNamespace(description=dict(SCENES.description))}
    belonging.check_sources(same, prepared, 'validation')
    changed = {'validation': SimpleNamespace(description=SCENES.description | other)}
    (name,) = other
    with pytest.raises(ValueError, match=f'{name} is .* there and {other[name]!r} in this config'):
        belonging.check_sources(changed, prepared, 'validation')
    with pytest.raises(ValueError, match='there and None in this config'):
        belonging.check_sources({}, prepared, 'validation')
