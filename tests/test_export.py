"""COCO-panoptic results: known segments, and the round trip through PNG and JSON on disk."""

import json

import numpy as np
import pytest
from PIL import Image

from panoptic_jax.data import instances, panoptic_png
from panoptic_jax.data.categories import COCO
from panoptic_jax.data.example import Category
from panoptic_jax.export import coco

LIST = (Category(1, 'person', True), Category(3, 'car', True), Category(149, 'road', False))


def segments(category, categories):
    """The segments of a map whose things are its connected areas."""
    thing_ids = {entry.id for entry in categories if entry.is_thing}
    return coco.segments(*instances.separate(category, thing_ids=thing_ids), categories)


def test_segments_of_a_known_map():
    category = np.array(
        [
            [1, 1, 0, 1],
            [1, 0, 149, 1],
            [0, 3, 149, 1],
            [149, 0, 0, 1],
        ],
        np.uint8,
    )
    colours, info = segments(category, LIST)
    assert colours.dtype == np.uint8
    assert info == [
        {'id': 149, 'category_id': 149, 'area': 3, 'bbox': [0, 1, 3, 3], 'iscrowd': 0},
        {'id': 257, 'category_id': 1, 'area': 4, 'bbox': [3, 0, 1, 4], 'iscrowd': 0},
        {'id': 513, 'category_id': 1, 'area': 3, 'bbox': [0, 0, 2, 2], 'iscrowd': 0},
        {'id': 771, 'category_id': 3, 'area': 1, 'bbox': [1, 2, 1, 1], 'iscrowd': 0},
    ]
    np.testing.assert_array_equal(
        panoptic_png.segment_ids(colours),
        [[513, 513, 0, 257], [513, 0, 149, 257], [0, 771, 149, 257], [149, 0, 0, 257]],
    )


def test_touching_corners_are_two_things():
    _, info = segments(np.array([[1, 0], [0, 1]], np.uint8), LIST)
    assert [segment['area'] for segment in info] == [1, 1]


def test_void_is_no_segment():
    colours, info = segments(np.zeros((3, 3), np.uint8), LIST)
    assert info == []
    assert not colours.any()


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A folder of two maps of pixel noise as results, and the maps by image id."""
    folder = tmp_path_factory.mktemp('written')
    generator = np.random.default_rng(0)
    codes = np.array([0, *(entry.id for entry in COCO)], np.uint8)
    images, annotations, maps = [], [], {}
    for number in (7, 19):
        maps[number] = generator.choice(codes, (60, 90))
        maps[number][10:40, 10:50] = generator.choice(codes)
        colours, info = segments(maps[number], COCO)
        Image.fromarray(colours).save(folder / f'{number}.png')
        images.append({'id': number, 'file_name': f'{number}.jpg', 'width': 90, 'height': 60})
        annotations.append(
            {'image_id': number, 'file_name': f'{number}.png', 'segments_info': info}
        )
    coco.write_panoptic_json(folder / 'panoptic.json', images, annotations, COCO)
    assert {path.name for path in folder.iterdir()} == {'7.png', '19.png', 'panoptic.json'}
    return folder, maps


@pytest.fixture(params=[7, 19])
def read_back(written, request):
    """(segment ids (60, 90), segments_info, map) of one image."""
    folder, maps = written
    content = json.loads((folder / 'panoptic.json').read_text())
    (annotation,) = (
        entry for entry in content['annotations'] if entry['image_id'] == request.param
    )
    ids = panoptic_png.segment_ids(np.asarray(Image.open(folder / annotation['file_name'])))
    return ids, annotation['segments_info'], maps[request.param]


THINGS = frozenset(entry.id for entry in COCO if entry.is_thing)


def test_written_categories_are_those_of_coco(written):
    categories = json.loads((written[0] / 'panoptic.json').read_text())['categories']
    assert len(categories) == 133
    assert len(THINGS) == 80
    assert {entry['id'] for entry in categories if entry['isthing']} == THINGS


def test_segments_have_numbers_of_their_own(read_back):
    """Noise has far more than 255 things, which is more than one byte can number."""
    _, info, _ = read_back
    assert len(info) > 255
    assert len({segment['id'] for segment in info}) == len(info)


def test_segments_have_the_area_and_box_of_their_pixels(read_back):
    ids, info, _ = read_back
    for segment in info[:: len(info) // 40]:
        rows, columns = np.nonzero(ids == segment['id'])
        assert segment['area'] == len(rows)
        left, top, width, height = segment['bbox']
        assert (left, left + width) == (columns.min(), columns.max() + 1)
        assert (top, top + height) == (rows.min(), rows.max() + 1)


def test_round_trip_through_files(read_back):
    ids, info, expected = read_back
    found, _ = panoptic_png.to_maps(ids, info, {entry.id: entry.id for entry in COCO}, THINGS)
    np.testing.assert_array_equal(found, expected)


def test_categories_that_are_not_listed_are_refused():
    with pytest.raises(ValueError, match='category 2, which is none of the 3 listed'):
        segments(np.full((2, 2), 2, np.uint8), LIST)


IMAGE = {'id': 1, 'file_name': '1.png', 'width': 2, 'height': 2}
ANNOTATION = {'image_id': 1, 'file_name': '1.png', 'segments_info': []}


@pytest.mark.parametrize(
    ('images', 'annotations'),
    [
        ([IMAGE], []),
        ([IMAGE], [{**ANNOTATION, 'image_id': 2}]),
        ([IMAGE, IMAGE], [ANNOTATION, ANNOTATION]),
    ],
    ids=['missing', 'other', 'twice'],
)
def test_images_without_just_one_annotation_are_refused(tmp_path, images, annotations):
    with pytest.raises(ValueError, match='exactly one annotation per image id'):
        coco.write_panoptic_json(tmp_path / 'panoptic.json', images, annotations, LIST)
    assert not list(tmp_path.iterdir())
