"""Which splits are opened, and how many of their images are taken."""

import dataclasses
import logging

import coco_folders
import numpy as np
import pytest
from PIL import Image

from panoptic_jax import config as settings
from panoptic_jax.data.example import taken
from panoptic_jax.preparation.sources import SourceSettings, open_sources

COUNTS = {'train': 30, 'val': 12}


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """The settings of a COCO folder of 30 and 12 images."""
    root = tmp_path_factory.mktemp('coco')
    for split, count in COUNTS.items():
        coco_folders.write(root, split, count)
    return source_settings('coco', root)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The settings of a folder of 30 and 12 captioned images."""
    root = tmp_path_factory.mktemp('folder')
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        (root / split).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / f'{number}.png')
            (root / split / f'{number}.txt').write_text('A cup.')
    return source_settings('folder', root)


def source_settings(source, root):
    config = settings.default()
    config.data.update(source=source, root=str(root), train_split='train', validation_split='val')
    return SourceSettings(**settings.source(config))


def sizes(own, **changes):
    sources = open_sources(dataclasses.replace(own, **changes))
    return {split: (len(source), source.available) for split, source in sources.items()}


@pytest.mark.parametrize('name', ['coco', 'folder'])
def test_fewer_training_images_mean_fewer_validation_images(name, request, caplog):
    own = request.getfixturevalue(name)
    with caplog.at_level(logging.INFO):
        assert sizes(own) == {'train': (30, 30), 'validation': (12, 12)}
        assert sizes(own, train_images=30)['validation'] == (12, 12)
        assert sizes(own, train_images=99)['validation'] == (12, 12)
        assert not [record for record in caplog.records if 'in proportion' in record.message]
        assert sizes(own, train_images=10) == {'train': (10, 30), 'validation': (4, 12)}
    assert 'takes 10 of 30 images' in caplog.text
    assert 'the validation split holds 4 of 12; data.validation_images sets another' in caplog.text
    assert sizes(own, train_images=1)['validation'] == (1, 12)
    # What the settings say wins, and a config without a validation split keeps its meaning.
    assert sizes(own, train_images=1, validation_images=7)['validation'] == (7, 12)
    assert sizes(own, validation_images=7) == {'train': (30, 30), 'validation': (7, 12)}
    assert sizes(own, train_images=8, validation_split='') == {'train': (8, 30)}


def test_limits_are_numbers_or_shares():
    assert [taken(40, limit) for limit in (0, 1, 39, 40, 41)] == [40, 1, 39, 40, 40]
    assert [taken(40, share) for share in (0.001, 0.24, 0.26, 0.999)] == [1, 10, 10, 40]


def test_descriptions_of_whole_splits_are_those_of_always(coco):
    first = open_sources(coco)['train'].description
    assert first.keys() == {'source', 'split', 'count', 'panoptic_sha256', 'captions_sha256'}
    part = open_sources(dataclasses.replace(coco, train_images=10))['train'].description
    assert part == first | {'count': 10}


def test_the_pooling_of_maps_reaches_the_captions(coco):
    made = {}
    for void_wins in (False, True):
        own = dataclasses.replace(coco, captions='categories', void_wins=void_wins)
        source = open_sources(own)['train']
        made[void_wins] = [source[i].captions for i in range(len(source))]
    # Half of the random pixels are void or next to it, so the areas change.
    assert made[False] != made[True]


def test_scenes_have_repeats_where_the_settings_ask_for_them(tmp_path):
    own = dataclasses.replace(source_settings('scenes', tmp_path), train_images=3, repeats=False)
    found = {}
    for repeats in (False, True):
        sources = open_sources(dataclasses.replace(own, repeats=repeats, validation_images=2))
        found[repeats] = [source.description.get('repeats', False) for source in sources.values()]
    assert found == {False: [False, False], True: [True, True]}


def test_both_splits_must_number_categories_alike(tmp_path):
    for split in COUNTS:
        contents = coco_folders.write(tmp_path, split)
    own = source_settings('coco', tmp_path)
    open_sources(own)
    # The ids are renumbered to 1, 2 and 3 either way.
    for entry in contents[0]['categories']:
        entry['id'] += 1000
    for annotation in contents[0]['annotations']:
        for segment in annotation['segments_info']:
            segment['category_id'] += 1000
    coco_folders.save(tmp_path, contents, 'val')
    with pytest.raises(ValueError, match='validation split numbers its categories in another way'):
        open_sources(own)
