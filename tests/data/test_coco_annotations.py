"""What COCO's annotation files must be: one sentence names the file, the entry and the field."""

import gzip
import hashlib
import json
import re

import coco_folders
import pytest

from panoptic_jax.data.coco import CocoPanoptic
from panoptic_jax.data.facts import CategoryList


@pytest.fixture
def contents(tmp_path):
    """The contents of both JSON files of a folder, `tmp_path`."""
    return coco_folders.write(tmp_path)


def refused(root, sentence, **arguments):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        CocoPanoptic(str(root), 'tiny', **arguments)
    # A decoder's own errors are ValueErrors as well, but no sentences.
    assert type(caught.value) in (ValueError, FileNotFoundError)
    assert str(caught.value).isprintable()


LOST = object()  # the field is taken away
FIRST_SEGMENT = r'entry 0 of .segments_info.'
IMAGE_1 = r"entry 1 of 'annotations' \(image_id 1\)"
WHOLE = 'a whole number of at most 64 bits'
TWENTY_DIGITS = 12345678901234567890


@pytest.mark.parametrize(
    ('place', 'value', 'sentence'),
    [
        (('images',), LOST, r"lacks 'images'; a panoptic JSON"),
        (('images',), None, r"'images' is null; it must be a list"),
        (('images', 1), None, r"entry 1 of 'images' is null; it must be an object"),
        (('images', 1, 'id'), LOST, r"entry 1 of 'images' lacks 'id'"),
        (('images', 1, 'id'), 1.0, rf"'id' of entry 1 of 'images' is 1\.0; it must be {WHOLE}"),
        (('images', 1, 'id'), True, rf"'id' of entry 1 of 'images' .* is true; it must be {WHOLE}"),
        (('images', 1, 'id'), TWENTY_DIGITS, rf"'id' .* is {TWENTY_DIGITS}; it must be {WHOLE}"),
        (('images', 1, 'id'), '1', r'numbers, such as \d, and others that are texts, such as "1"'),
        (('images', 1, 'id'), 0, r'image id 0 stands for both "0\.jpg" and "1\.jpg"'),
        (('images', 1, 'file_name'), LOST, r"entry 1 of 'images' \(id 1\) lacks 'file_name'"),
        (('images', 1, 'file_name'), 7, r"'file_name' of entry 1 .* is 7; it must be a text"),
        (('images', 1, 'file_name'), 'a\ud800', r"'file_name' of entry 1 .* is \"a\\ud800\"; it"),
        (('images', 1, 'file_name'), '', r"tiny lacks 1 of 3 files, the first ''; unzip"),
        (('images', 1, 'file_name'), '0.jpg', r'two entries share the file 0\.jpg of'),
        (('annotations',), LOST, r"lacks 'annotations'"),
        (('annotations',), [], r"'annotations' is empty"),
        (('annotations', 1), [[]], r"entry 1 of 'annotations' is a list of 1 entries; it must be"),
        (('annotations', 1, 'image_id'), LOST, r"entry 1 of 'annotations' lacks 'image_id'"),
        (('annotations', 1, 'image_id'), 7, r'1 annotations, the first of image 7, have no entry'),
        (('annotations', 1, 'image_id'), 0, r'1 images, the first of id 0, have several entries'),
        (('annotations', 1, 'file_name'), LOST, rf"{IMAGE_1} lacks 'file_name'"),
        (('annotations', 1, 'file_name'), '0.png', r'two entries share the file 0\.png of'),
        (('annotations', 1, 'segments_info'), LOST, rf"{IMAGE_1} lacks 'segments_info'"),
        (('annotations', 1, 'segments_info'), None, rf"'segments_info' of {IMAGE_1} is null; it"),
        (
            ('annotations', 1, 'segments_info', 0, 'id'),
            LOST,
            rf"{FIRST_SEGMENT} of {IMAGE_1} lacks 'id'",
        ),
        (
            ('annotations', 1, 'segments_info', 0, 'id'),
            0,
            r"'id' of .* is 0; .* from 1 to 16777215",
        ),
        (('annotations', 1, 'segments_info', 0, 'id'), -5, r"'id' of .* is -5; .* from 1"),
        (('annotations', 1, 'segments_info', 0, 'id'), 2**24, r"'id' of .* is 16777216; .* from 1"),
        (
            ('annotations', 1, 'segments_info', 0, 'id'),
            '5',
            rf"'id' of {FIRST_SEGMENT} .* is \"5\"",
        ),
        (('annotations', 1, 'segments_info', 0, 'id'), 300, r'image 1 has segment 300 twice'),
        (
            ('annotations', 1, 'segments_info', 0, 'category_id'),
            LOST,
            rf"{FIRST_SEGMENT} \(id 5\) of {IMAGE_1} lacks 'category_id'",
        ),
        (
            ('annotations', 1, 'segments_info', 0, 'category_id'),
            '1',
            rf'is "1"; it must be {WHOLE}',
        ),
        (
            ('annotations', 1, 'segments_info', 0, 'category_id'),
            4,
            'segment 5 of image 1 has category 4, which the category list lacks',
        ),
        (('annotations', 1, 'segments_info', 0, 'iscrowd'), '0', r'"0"; it must be 0 or 1'),
        (('annotations', 1, 'segments_info', 0, 'iscrowd'), 2, r"'iscrowd' of .* is 2; it must be"),
        (('categories',), {}, r"'categories' is an object of 0 entries; it must be a list"),
        (
            ('categories', 0, 'isthing'),
            '0',
            r"'isthing' of entry 0 of 'categories' \(id 1\) is \"0\"",
        ),
        (('categories', 0, 'isthing'), None, r"'isthing' of .* is null; it must be 0 or 1"),
        (('categories', 0, 'isthing'), LOST, r"entry 0 of 'categories' \(id 1\) lacks 'isthing'"),
        (('categories', 0, 'id'), 77, r"Category id 77 stands for both 'cat' and 'dog'"),
        (('categories', 0, 'id'), '1', rf"'id' of entry 0 of 'categories' .* it must be {WHOLE}"),
        (('categories', 0, 'name'), None, r"'name' of entry 0 of 'categories' .* is null; it must"),
    ],
)
def test_wrong_panoptic_entries_are_named(tmp_path, contents, place, value, sentence):
    change(contents[0], place, value)
    coco_folders.save(tmp_path, contents)
    refused(tmp_path, rf'panoptic_tiny.*{sentence}' if 'lacks 1' not in sentence else sentence)


@pytest.mark.parametrize(
    ('place', 'value', 'sentence'),
    [
        (('annotations',), None, r"'annotations' is null; it must be a list"),
        (('annotations', 1, 'caption'), LOST, rf"{IMAGE_1} lacks 'caption'; .* instances lacks"),
        (
            ('annotations', 1, 'caption'),
            None,
            rf"'caption' of {IMAGE_1} is null; it must be a text",
        ),
        (
            ('annotations', 1, 'caption'),
            float('nan'),
            rf"'caption' of {IMAGE_1} is NaN; it must be",
        ),
        (('annotations', 1, 'caption'), 7, rf"'caption' of {IMAGE_1} is 7; it must be a text"),
        (('annotations', 1, 'caption'), ['A cat.'], rf"'caption' of {IMAGE_1} is a list of 1"),
        (('annotations', 1, 'caption'), 'A \udc00 cat', rf"'caption' of {IMAGE_1} is \"A \\udc00"),
        (('annotations', 1, 'image_id'), LOST, r"entry 1 of 'annotations' lacks 'image_id'"),
        (('annotations', 1, 'image_id'), 1.5, r"'image_id' of entry 1 .* is 1\.5; it must be"),
        (('annotations', 1, 'image_id'), '1', r'image ids that are numbers, such as 2, and others'),
    ],
)
def test_wrong_captions_are_named(tmp_path, contents, place, value, sentence):
    change(contents[1], place, value)
    coco_folders.save(tmp_path, contents)
    refused(tmp_path, rf'captions_tiny\.json.*{sentence}')


def change(content, place, value):
    """Sets or takes away what is at a place of a JSON content."""
    *way, last = place
    for step in way:
        content = content[step]
    if value is LOST:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ('damage', 'sentence'),
    [
        (lambda text: b'', 'is empty; unzip'),
        (lambda text: text[:-30], r'is not valid JSON \(.*\); unzip'),
        (lambda text: text + b'x', r'is not valid JSON \(it goes on behind its end: Extra data'),
        (lambda text: text + b'\n' + text, 'JSON Lines must become one object'),
        (lambda text: b'[' + text + b']', r'is a list of 1 entries; a panoptic JSON of'),
        (gzip.compress, 'is packed with gzip; unpack it'),
        (lambda text: text.replace(b'.jpg', b'\xe9.jpg'), "'utf-8' codec can't decode byte 0xe9"),
        (lambda text: b'[' * 10**5, r'is not valid JSON \(lists within lists without end\)'),
        (lambda text: text.replace(b'"id": 0', b'"id": ' + b'9' * 5000), "'id' of .* is Infinity"),
        (lambda text: text.replace(b'"images"', b'"\\ud800"'), 'has a key that is no text'),
    ],
)
def test_files_that_are_no_json_are_refused(tmp_path, contents, damage, sentence):
    path = tmp_path / 'annotations/panoptic_tiny.json'
    path.write_bytes(damage(path.read_bytes()))
    refused(tmp_path, rf'panoptic_tiny\.json.*{sentence}')


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32-be'])
def test_every_unicode_encoding_is_read_and_the_hash_is_of_the_bytes(tmp_path, contents, encoding):
    contents[1]['annotations'][0]['caption'] = 'Ein Kätzchen 🐈.'
    coco_folders.save(tmp_path, contents)
    path = tmp_path / 'annotations/captions_tiny.json'
    path.write_bytes(json.dumps(contents[1], ensure_ascii=False).encode(encoding))
    source = CocoPanoptic(str(tmp_path), 'tiny')
    assert source[0].captions == ['Ein Kätzchen 🐈.']
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.description['captions_sha256'] == expected


def test_fields_that_nobody_reads_may_hold_anything(tmp_path, contents):
    panoptic, captions = contents
    panoptic['info'] = {'\ud800': float('nan')}
    panoptic['images'][0]['height'] = 'tall'
    segment = panoptic['annotations'][0]['segments_info'][0]
    segment.update(area=float('nan'), bbox=None, iscrowd=False)
    panoptic['categories'][0]['isthing'] = True
    captions['images'] = 7
    captions['annotations'][0]['id'] = None
    coco_folders.save(tmp_path, contents)
    source = CocoPanoptic(str(tmp_path), 'tiny')
    assert [category.is_thing for category in source.categories] == [True, True, False]
    assert set(source[0].instance.ravel().tolist()) == {0, 1}


def test_names_as_image_ids_are_names_in_all_files(tmp_path, contents):
    panoptic, captions = contents
    for entry in panoptic['images']:
        entry['id'] = f'0{entry["id"]}'
    for entry in panoptic['annotations'] + captions['annotations']:
        entry['image_id'] = f'0{entry["image_id"]}'
    coco_folders.save(tmp_path, contents)
    source = CocoPanoptic(str(tmp_path), 'tiny')
    assert [source[i].image_id for i in range(3)] == [0, 1, 2]
    assert source.num_captions.tolist() == [1, 2, 3]
    captions['annotations'] = [{'image_id': '7', 'caption': 'x'}, {'image_id': 1, 'caption': 'x'}]
    coco_folders.save(tmp_path, contents)
    refused(tmp_path, 'captions_tiny.json has image ids that are numbers, such as 1, and others')


def test_numbers_and_their_texts_are_not_taken_for_each_other(tmp_path, contents):
    _, captions = contents
    for entry in captions['annotations']:
        entry['image_id'] = str(entry['image_id'])
    coco_folders.save(tmp_path, contents)
    refused(
        tmp_path, r'panoptic_tiny\.json are numbers and those of .*captions_tiny.json are texts'
    )


def test_an_image_may_be_listed_twice_if_both_entries_agree(tmp_path, contents):
    contents[0]['images'].append(contents[0]['images'][0])
    coco_folders.save(tmp_path, contents)
    assert len(CocoPanoptic(str(tmp_path), 'tiny')) == 3


@pytest.mark.parametrize('ids', [(0, 1, 2), (1, 77, 1001), (2, 1, 254), (-3, 0, 10**12)])
def test_every_category_is_given_back_the_id_of_its_source(tmp_path, contents, ids):
    panoptic, _ = contents
    new_ids = {
        entry['id']: number for entry, number in zip(panoptic['categories'], ids, strict=True)
    }
    for entry in panoptic['categories']:
        entry['id'] = new_ids[entry['id']]
    segments = panoptic['annotations'][0]['segments_info']
    for entry in panoptic['annotations']:
        for segment in entry['segments_info']:
            segment['category_id'] = new_ids[segment['category_id']]
    coco_folders.save(tmp_path, contents)
    source = CocoPanoptic(str(tmp_path), 'tiny')
    named = {category.name: source.source_ids[category.id] for category in source.categories}
    assert named == dict(zip(('cat', 'dog', 'grass'), ids, strict=True))
    entries = CategoryList.of_source(source.categories, source.source_ids)
    assert {theirs: source.source_ids[ours] for theirs, ours in entries.our_ids().items()} == {
        number: number for number in ids
    }
    # The instance numbers of the map tell which category is the cat.
    cat = source[0].category[source[0].instance == 1]
    assert {source.source_ids[int(number)] for number in cat} == {segments[0]['category_id']}


def test_the_captions_of_another_split_are_not_taken(tmp_path, contents):
    coco_folders.save(tmp_path, contents, 'tiny2')
    (tmp_path / 'annotations/captions_tiny.json').unlink()
    refused(tmp_path, r'captions_tiny\.json is missing; unzip annotations_trainval2017\.zip')


def test_brackets_in_the_path_are_letters(tmp_path):
    root = tmp_path / 'a [b]*'
    coco_folders.write(root)
    path = root / 'annotations/captions_tiny.json'
    path.rename(path.with_name('captions_tiny_part.json'))
    for name in ('._captions_tiny.json', '.DS_Store', 'Thumbs.db'):
        (root / 'annotations' / name).write_bytes(b'\0\1')
    assert len(CocoPanoptic(str(root), 'tiny')) == 3
    assert re.search(r'\[b\]', str(root))
