"""Category lists, the panoptic PNG both ways, and the COCO folder as a source."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_jax.data import categories, category_captions, geometry, panoptic_png
from panoptic_jax.data.coco import CocoPanoptic
from panoptic_jax.data.example import Category

SAMPLE = Path(__file__).parents[3] / 'shared' / 'data' / 'coco_sample'
needs_sample = pytest.mark.skipif(not SAMPLE.exists(), reason=f'{SAMPLE} is missing')

LIST = (Category(3, 'cat', True), Category(7, 'dog', True), Category(200, 'grass', False))


def write_folder(root: Path, count: int = 3) -> None:
    """A COCO folder of `count` random pictures: grass, two cats of different size, a crowd of dogs.

    Source ids above 254 get renumbered: cat 300 -> 1, dog 301 -> 2, grass 999 -> 3.
    """
    rng = np.random.default_rng(0)
    (root / 'annotations' / 'panoptic_tiny').mkdir(parents=True)
    (root / 'tiny').mkdir()
    listed = ((300, 'cat', 1), (999, 'grass', 0), (301, 'dog', 1))
    panoptic = {
        'categories': [{'id': i, 'name': name, 'isthing': thing} for i, name, thing in listed],
        'images': [],
        'annotations': [],
    }
    captions = []
    for number in range(count):
        segments = np.full((40, 60), 70_000 + number)
        segments[:10, :10] = 5  # the smaller cat comes first in the JSON
        segments[20:35, 20:40] = 256
        segments[:10, 50:] = 65_536
        segments[39] = 0
        stem = f'{number:012d}'
        Image.fromarray(panoptic_png.segment_colours(segments)).save(
            root / 'annotations' / 'panoptic_tiny' / f'{stem}.png'
        )
        pixels = rng.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(root / 'tiny' / f'{stem}.jpg')
        panoptic['images'].append({'id': number, 'file_name': f'{stem}.jpg'})
        infos = [(5, 300, 0), (256, 300, 0), (65_536, 301, 1), (70_000 + number, 999, 0)]
        panoptic['annotations'].append(
            {
                'image_id': number,
                'file_name': f'{stem}.png',
                'segments_info': [
                    {'id': i, 'category_id': category, 'iscrowd': crowd}
                    for i, category, crowd in infos
                ],
            }
        )
        for k in range(number + 1):
            captions.append({'image_id': number, 'caption': f' Cats on grass {k}.\n'})
    write_json(root / 'annotations' / 'panoptic_tiny.json', panoptic)
    write_json(root / 'annotations' / 'captions_tiny.json', {'annotations': captions})


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path)
    return tmp_path


def test_default_list_is_cocos():
    ids = [category.id for category in categories.COCO]
    things = [category for category in categories.COCO if category.is_thing]
    assert (len(ids), len(things), max(ids)) == (133, 80, 200)
    assert max(category.id for category in things) == 90
    assert min(category.id for category in categories.COCO if not category.is_thing) == 92
    by_id = {category.id: category.name for category in categories.COCO}
    assert (by_id[1], by_id[90], by_id[187]) == ('person', 'toothbrush', 'sky-other-merged')


@needs_sample
def test_default_list_equals_the_official_json():
    listed = json.loads((SAMPLE / 'annotations' / 'panoptic_val2017.json').read_text())
    official = {(c['id'], c['name'], bool(c['isthing'])) for c in listed['categories']}
    assert {tuple(category) for category in categories.COCO} == official


def test_colours_differ_and_neighbours_differ_most():
    palette = categories.palette().astype(int)
    distance = np.linalg.norm(palette[:, None] - palette, axis=-1)
    apart = np.abs(np.subtract.outer(np.arange(256), np.arange(256)))
    assert distance[apart > 0].min() > 40
    inner = np.ix_(range(1, 255), range(1, 255))
    assert distance[inner][(apart[inner] > 0) & (apart[inner] <= 4)].min() > 115
    ids = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
    painted = categories.colour(ids)
    assert painted.shape == (5, 7, 3)
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted[2, 3], palette[ids[2, 3]])
    assert not palette[0].any()


def test_remap_keeps_small_ids_and_renumbers_others_things_first():
    assert categories.remap(LIST) == (LIST, {3: 3, 7: 7, 200: 200})
    wide = (Category(500, 'sky', False), Category(2, 'cat', True), Category(0, 'car', True))
    listed, ids = categories.remap(wide)
    assert ids == {2: 1, 0: 2, 500: 3}
    assert listed == (Category(1, 'cat', True), Category(2, 'car', True), Category(3, 'sky', False))
    assert categories.valid_codes(listed).tolist() == [0, 1, 2, 3]
    assert categories.valid_codes(LIST[::-1]).tolist() == [0, 3, 7, 200]


def test_remap_refuses_long_and_ambiguous_lists():
    with pytest.raises(ValueError, match='255 entries; it must have 1 to 254'):
        categories.remap([Category(i, str(i), True) for i in range(255)])
    with pytest.raises(ValueError, match=r"id 3 stands for both 'cat' and 'cow'"):
        categories.remap([*LIST, Category(3, 'cow', True)])


def test_segment_ids_and_colours_are_inverse():
    colours = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    segments = panoptic_png.segment_ids(colours)
    assert segments[3, 4] == colours[3, 4] @ np.array([1, 256, 65_536])
    np.testing.assert_array_equal(panoptic_png.segment_colours(segments), colours)


def test_maps_through_a_png_file_and_back(tmp_path):
    category = np.random.default_rng(1).choice([0, 3, 7, 200], (60, 40)).astype(np.uint8)
    columns = np.arange(40)
    instance = np.where(columns < 25, 1, np.where(columns < 35, 2, 0)) + 0 * category[:, :1]
    # Number 1 and 2 are cats, larger first; dogs are a crowd and grass has no instances.
    instance = np.where(category == 3, instance, 0).astype(np.uint8)
    colours, infos = panoptic_png.from_maps(category, instance, LIST)
    Image.fromarray(colours).save(tmp_path / 'map.png')
    read = np.asarray(Image.open(tmp_path / 'map.png'))
    back = panoptic_png.to_maps(
        panoptic_png.segment_ids(read), infos, {3: 3, 7: 7, 200: 200}, frozenset({3, 7})
    )
    np.testing.assert_array_equal(back[0], category)
    np.testing.assert_array_equal(back[1], instance)
    assert {(i['category_id'], i['iscrowd'], i['area']) for i in infos} == {
        (3, 0, int(((category == 3) & (instance == 1)).sum())),
        (3, 0, int(((category == 3) & (instance == 2)).sum())),
        (3, 1, int(((category == 3) & (instance == 0)).sum())),
        (7, 1, int((category == 7).sum())),
        (200, 0, int((category == 200).sum())),
    }
    assert all(info['bbox'][3] <= 60 for info in infos)
    with pytest.raises(ValueError, match='The map holds category 7, which is none of the 1 listed'):
        panoptic_png.from_maps(category, instance, LIST[:1])


def test_smallest_things_lose_their_number():
    areas = np.random.default_rng(2).permutation(np.arange(1, 301))
    segments = np.repeat(np.arange(1, 301), areas)[None]
    infos = [{'id': i, 'category_id': 3} for i in range(1, 301)]
    _, instance = panoptic_png.to_maps(segments, infos, {3: 3}, frozenset({3}))
    first_pixel = np.cumsum(areas) - areas
    expected = 301 - areas  # the largest has 300 pixels
    np.testing.assert_array_equal(instance[0, first_pixel], np.where(expected <= 255, expected, 0))


def test_segments_that_the_json_does_not_describe_are_refused():
    segments = np.array([[0, 8, 9]])
    info = [{'id': 9, 'category_id': 3}]
    with pytest.raises(ValueError, match='1 segment ids of the PNG, the first 8, are not in'):
        panoptic_png.to_maps(segments, info, {3: 3}, frozenset())
    info.append({'id': 8, 'category_id': 4})
    with pytest.raises(ValueError, match='Segment 8 has category 4, which the category list lacks'):
        panoptic_png.to_maps(segments, info, {3: 3}, frozenset())
    with pytest.raises(ValueError, match='describes segment 9 twice'):
        panoptic_png.to_maps(segments, [info[0], info[0]], {3: 3}, frozenset())


def test_folder_gives_known_examples(folder):
    source = CocoPanoptic(str(folder), 'tiny')
    assert len(source) == 3
    assert source.num_captions.tolist() == [1, 2, 3]
    assert [category.name for category in source.categories] == ['cat', 'dog', 'grass']
    assert source.source_ids == {1: 300, 2: 301, 3: 999}
    example = source[1]
    assert example.captions == ['Cats on grass 0.', 'Cats on grass 1.']
    assert example.image.shape == (40, 60, 3)
    spots = [(0, 0), (25, 25), (0, 55), (38, 0), (39, 0)]
    pairs = [(int(example.category[spot]), int(example.instance[spot])) for spot in spots]
    assert pairs == [(1, 2), (1, 1), (2, 0), (3, 0), (0, 0)]
    assert len(CocoPanoptic(str(folder), 'tiny', limit=2)) == 2
    json.dumps(source.description)


def test_images_without_caption_are_left_out(folder):
    path = folder / 'annotations' / 'captions_tiny.json'
    write_json(path, {'annotations': [{'image_id': 2, 'caption': 'One.'}]})
    source = CocoPanoptic(str(folder), 'tiny')
    assert [source[i].image_id for i in range(len(source))] == [2]
    write_json(path, {'annotations': []})
    with pytest.raises(ValueError, match=r'captions_tiny\.json holds no captions'):
        CocoPanoptic(str(folder), 'tiny')
    write_json(path, {'annotations': [{'image_id': 77, 'caption': 'One.'}]})
    with pytest.raises(ValueError, match='None of the 3 images'):
        CocoPanoptic(str(folder), 'tiny')


def test_captions_file_may_have_a_longer_name(folder):
    path = folder / 'annotations' / 'captions_tiny.json'
    path.rename(path.with_name('captions_tiny_part.json'))
    assert len(CocoPanoptic(str(folder), 'tiny')) == 3
    path.with_name('captions_tiny_b.json').write_text('{}')
    with pytest.raises(ValueError, match=r'rename the one to use to captions_tiny\.json'):
        CocoPanoptic(str(folder), 'tiny')


@pytest.mark.parametrize(
    ('lost', 'sentence'),
    [
        (
            'annotations/panoptic_tiny/000000000001.png',
            r'lacks 1 of 3 files, the first 000000000001\.png; unzip annotations/panoptic_tiny',
        ),
        (
            'tiny/000000000002.jpg',
            r'lacks 1 of 3 files, the first 000000000002\.jpg; unzip tiny\.zip',
        ),
        (
            'annotations/panoptic_tiny.json',
            r'panoptic_tiny\.json is missing; unzip panoptic_annotations_trainval2017\.zip',
        ),
        (
            'annotations/captions_tiny.json',
            r'captions_tiny\.json is missing; unzip annotations_trainval2017\.zip',
        ),
    ],
)
def test_missing_files_are_named_before_any_work(folder, lost, sentence):
    (folder / lost).unlink()
    with pytest.raises(FileNotFoundError, match=sentence):
        CocoPanoptic(str(folder), 'tiny')


def test_unusable_files_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'data\.root is .*no folder annotations/'):
        CocoPanoptic(str(tmp_path / 'nowhere'), 'tiny')
    picture = folder / 'tiny' / '000000000000.jpg'
    picture.write_bytes(picture.read_bytes()[:300])
    with pytest.raises(ValueError, match='cannot be read as a picture'):
        CocoPanoptic(str(folder), 'tiny')[0]
    Image.new('RGB', (60, 41)).save(picture)
    with pytest.raises(ValueError, match=r'has 60x41 pixels and .* 60x40; both must be originals'):
        CocoPanoptic(str(folder), 'tiny')[0]
    (folder / 'annotations' / 'panoptic_tiny.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='is not valid JSON'):
        CocoPanoptic(str(folder), 'tiny')


@needs_sample
def test_real_sample_is_read_and_pooled_faithfully():
    source = CocoPanoptic(str(SAMPLE), 'val2017')
    assert len(source) == 103
    assert source.num_captions.sum() == 516
    assert source.categories == categories.COCO
    annotated = json.loads((SAMPLE / 'annotations' / 'panoptic_val2017.json').read_text())
    crowds = {
        entry['image_id']: {s['category_id'] for s in entry['segments_info'] if s['iscrowd']}
        for entry in annotated['annotations']
    }
    assert sum(map(bool, crowds.values())) >= 5
    crowded = [i for i, entry in enumerate(annotated['annotations']) if crowds[entry['image_id']]]
    for i in (0, 50, 102, *crowded[:3]):
        example = source[i]
        segments = annotated['annotations'][i]['segments_info']
        assert example.image_id == annotated['annotations'][i]['image_id']
        for number in {s['category_id'] for s in segments}:
            area = sum(s['area'] for s in segments if s['category_id'] == number)
            assert (example.category == number).sum() == area
        for number in crowds[example.image_id]:
            assert ((example.category == number) & (example.instance == 0)).any()
        areas = np.bincount(example.instance.ravel(), minlength=256)[1:]
        assert (np.diff(areas) <= 0).all()
        image, category, instance = geometry.fit(example)
        assert (image.shape, image.dtype) == ((256, 256, 3), np.uint8)
        assert category.shape == instance.shape == (128, 128)
        pairs = set(zip(category.ravel().tolist(), instance.ravel().tolist(), strict=True))
        assert {number for number, _ in pairs} <= {0, *(s['category_id'] for s in segments)}
        owners = [number for number, instance in pairs if instance]
        things = {entry.id for entry in source.categories if entry.is_thing}
        assert len(owners) == len({instance for _, instance in pairs if instance})
        assert set(owners) <= things


def test_data_sets_without_captions_or_categories_of_their_own(folder):
    """Another list of categories, with large ids, and captions made of what the maps show."""
    annotations = folder / 'annotations'
    panoptic = json.loads((annotations / 'panoptic_tiny.json').read_text())
    listed = panoptic.pop('categories')
    move = {entry['id']: 1000 + 7 * number for number, entry in enumerate(listed)}
    for entry in listed:
        entry['id'] = move[entry['id']]
    for annotation in panoptic['annotations']:
        for segment in annotation['segments_info']:
            segment['category_id'] = move[segment['category_id']]
            segment['area'] = {5: 100, 256: 300, 65_536: 100}.get(segment['id'], 1840)
    write_json(annotations / 'panoptic_tiny.json', panoptic)
    (annotations / 'captions_tiny.json').unlink()
    with pytest.raises(ValueError, match="lacks 'categories'"):
        CocoPanoptic(str(folder), 'tiny')
    write_json(folder / 'categories.json', listed)
    source = CocoPanoptic(
        str(folder), 'tiny', categories=str(folder / 'categories.json'), captions='categories'
    )
    assert source.num_captions.tolist() == [1] * len(source)
    assert sorted(source.source_ids.values()) == sorted(move.values())
    names = {category.id: category.name for category in source.categories}
    for i in range(len(source)):
        example = source[i]
        ids, areas = np.unique(example.category[example.category > 0], return_counts=True)
        *first, last = [names[ids[k]] for k in np.argsort(-areas, kind='stable')]
        expected = f'{", ".join(first)} and {last}' if first else last
        assert example.captions == [f'a picture of {expected}']
    with pytest.raises(FileNotFoundError, match=r'nowhere\.json is missing; give the path of a'):
        CocoPanoptic(str(folder), 'tiny', categories='nowhere.json')


def test_categories_are_named_as_people_say_them():
    names = {1: 'person', 2: 'sky-other-merged', 3: 'traffic_light', 4: 'wall-brick', 5: 'other'}
    sizes = ((2, 50), (1, 30), (3, 20), (1, 25), (9, 99), (4, 5), (5, 1))
    segments = [{'category_id': number, 'area': area} for number, area in sizes]
    expected = 'a picture of person, sky, traffic light, wall brick and other'
    assert category_captions.caption(segments, names) == expected
    assert category_captions.caption(segments[:1], names) == 'a picture of sky'
    assert category_captions.caption([], names) == 'a picture of nothing'


def test_image_ids_may_be_names(folder):
    annotations = folder / 'annotations'
    for file, key in (('panoptic', 'images'), ('panoptic', 'annotations'), ('captions', None)):
        path = annotations / f'{file}_tiny.json'
        content = json.loads(path.read_text())
        field = 'id' if key == 'images' else 'image_id'
        for entry in content[key or 'annotations']:
            entry[field] = f'street_{entry[field]}'
        write_json(path, content)
    source = CocoPanoptic(str(folder), 'tiny')
    assert [source[i].image_id for i in range(3)] == [0, 1, 2]
    assert source.num_captions.tolist() == [1, 2, 3]


def test_a_categories_file_of_another_form_is_refused(folder):
    for content in ({'categories': []}, [{'id': 3, 'name': 'cat'}], [3]):
        write_json(folder / 'categories.json', content)
        with pytest.raises(ValueError, match=r'categories\.json: .* needs? id, name and isthing'):
            CocoPanoptic(str(folder), 'tiny', categories=str(folder / 'categories.json'))
