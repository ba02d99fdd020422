"""What captions name: phrases, plurals, the packaged synonyms, and files of others."""

import importlib.resources
import json

import numpy as np
import pytest

from panoptic_jax.data import categories, category_captions, geometry, scene_words
from panoptic_jax.data.coco import CocoPanoptic
from panoptic_jax.data.example import Category
from panoptic_jax.quality import scores, words

NAMES = {entry.id: entry.name for entry in categories.COCO}


@pytest.fixture(scope='module')
def coco():
    return words.vocabulary_of(categories.COCO)


def named(vocabulary, caption, names=NAMES):
    return [{names[number] for number in ids} for ids in vocabulary.named(caption)]


@pytest.mark.parametrize(
    ('caption', 'expected'),
    [
        ('A dog.', [{'dog'}]),
        ('TWO DOGS and a Cat', [{'dog'}, {'cat'}]),
        ('dog, dogs: puppies!', [{'dog'}]),
        ('a hot dog', [{'hot dog'}]),
        ('hotdogs beside teddy bears', [{'hot dog'}, {'teddy bear'}]),
        ("the dog's bowl", [{'dog'}, {'bowl'}]),
        ('the dog’s bowls', [{'dog'}, {'bowl'}]),
        ('a dogma of catering', []),
        ('men, women and children', [{'person'}]),
        ('firemen on a fire-truck', [{'person'}, {'truck'}]),
        ('knives on shelves', [{'knife'}, {'shelf'}]),
        ('three sheep at buses', [{'sheep'}, {'bus'}]),
        ('an orange shirt', []),
        ('an orange', [{'orange'}]),
        ('sofas before a brick wall', [{'couch'}, {'wall-brick'}]),
        ('', []),
        ('12345 !?', []),
    ],
)
def test_captions_name_categories(coco, caption, expected):
    assert named(coco, caption) == expected


def test_a_word_of_several_categories_stands_for_any_of_them(coco):
    (wall,) = named(coco, 'a wall')
    assert wall == {name for name in NAMES.values() if name.startswith('wall-')}
    everything = np.zeros((8, 8), np.uint8)
    everything[:] = 199  # wall-other-merged
    assert scores.captioned(everything, coco.named('a wall')) == 1
    assert scores.captioned(everything, coco.named('a wall and a dog')) == 0.5
    assert scores.captioned(everything, coco.named('nothing at all')) is None


def test_every_coco_category_is_found_by_its_name_and_its_plural(coco):
    for entry in categories.COCO:
        for text in (entry.name, category_captions.spoken(entry.name)):
            assert any(entry.id in ids for ids in coco.named(f'a {text}!')), entry
        last = words.words_of(category_captions.spoken(entry.name))
        several = ' '.join([*last[:-1], words.plural(last[-1])])
        assert any(entry.id in ids for ids in coco.named(several)), several


@pytest.mark.parametrize('seed', range(20))
def test_captions_made_of_a_map_name_all_that_it_holds(coco, seed):
    generator = np.random.default_rng(seed)
    ids = generator.choice([number for number in NAMES], (4, 1), replace=False)
    ids = np.uint8(ids).repeat(4, axis=1)
    caption = category_captions.caption(ids, NAMES)
    found = coco.named(caption)
    assert all(any(number in each for each in found) for number in np.unique(ids))
    assert scores.captioned(ids, found) == 1


def test_packaged_synonyms_are_of_coco_and_none_is_empty_or_twice():
    text = (importlib.resources.files('panoptic_jax.quality') / 'synonyms.json').read_text()
    own = json.loads(text, object_pairs_hook=list)
    assert [name for name, _ in own if name] == list(NAMES.values())
    for name, phrases in own:
        assert all(words.words_of(phrase) for phrase in phrases), name
        assert len({*phrases}) == len(phrases), name
    # What names nothing must not be what names something.
    content = dict(own)
    somewhere = {phrase for name, phrases in own if name for phrase in phrases}
    assert not somewhere & {*content['']}


def test_real_captions_fit_their_own_maps_and_not_those_of_others(coco, shared):
    """On a hundred real images the words are right in nine of ten cases."""
    source = CocoPanoptic(str(shared / 'data' / 'coco_sample'), 'val2017')
    maps, captions = [], []
    for number in range(0, len(source), 4):
        example = source[number]
        _, category, _ = geometry.fit(example)
        maps.append(category)
        captions.append([coco.named(caption) for caption in example.captions])

    def mean(shift):
        each = [
            scores.captioned(category, named)
            for category, own in zip(maps, [*captions[shift:], *captions[:shift]], strict=True)
            for named in own
        ]
        measured = [value for value in each if value is not None]
        assert len(measured) > 0.9 * len(each)
        return np.mean(measured)

    assert mean(0) > 0.85
    assert mean(1) < 0.4


def test_scenes_have_their_own_words():
    vocabulary = words.vocabulary_of(scene_words.categories(), is_scenes=True)
    generator = np.random.default_rng(0)
    for _ in range(100):
        things = [
            (int(generator.choice([*scene_words.THINGS])), 'red'),
            (int(generator.choice([*scene_words.THINGS])), 'blue'),
        ]
        above = int(generator.choice([*scene_words.ABOVE]))
        below = int(generator.choice([*scene_words.BELOW]))
        for caption in scene_words.describe(things, above, below, generator):
            expected = {number for number, _ in things} | {above, below}
            assert {number for ids in vocabulary.named(caption) for number in ids} == expected


def test_names_shared_with_coco_have_its_synonyms():
    own = [Category(3, 'sky', is_thing=False), Category(4, 'Couch', is_thing=True)]
    vocabulary = words.vocabulary_of(own)
    assert vocabulary.named('sofas below clouds') == [frozenset({4}), frozenset({3})]
    foreign = [Category(1, 'Haus_Tür', is_thing=False), Category(2, 'n/a', is_thing=False)]
    assert words.vocabulary_of(foreign).named('eine HAUS-TÜR') == [frozenset({1})]
    assert words.vocabulary_of([Category(1, '...', is_thing=False)]).named('...') == []


def test_a_file_of_synonyms_replaces_the_packaged_one(tmp_path):
    own = [Category(1, 'dog', is_thing=True), Category(2, 'tree-merged', is_thing=False)]
    path = tmp_path / 'words.json'
    path.write_text(json.dumps({'dog': ['Waldi'], 'tree': ['oak'], '': ['dog days']}))
    vocabulary = words.vocabulary_of(own, path=str(path))
    assert vocabulary.named('waldi and oaks') == [frozenset({1}), frozenset({2})]
    assert vocabulary.named('dog days of a puppy') == []
    assert vocabulary.named('the dog') == [frozenset({1})]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"cat": ["kitten"]}', "has synonyms of 'cat', a category that the data lack; .*: dog"),
        ('{"dog": "puppy"}', 'must be'),
        ('["dog"]', 'name of a category'),
        ('{"dog": [1]}', 'a text'),
        ('{', 'not valid JSON'),
        ('', 'is empty'),
    ],
)
def test_bad_files_of_synonyms_are_refused(tmp_path, text, message):
    path = tmp_path / 'words.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        words.read(str(path), ['dog'])
    assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r'evaluate\.synonyms names it'):
        words.read(str(tmp_path / 'none.json'), ['dog'])
