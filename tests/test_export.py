"""COCO-panoptic results: known segments, and the round trip through PNG and JSON on disk."""

import json

import numpy as np
import pytest
import sample_folders
from etils import epath
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO as COCOTools

from panoptic_jax.data import instances, panoptic_png
from panoptic_jax.data.categories import COCO
from panoptic_jax.data.example import Category
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.export import coco, rle

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


ANNOTATIONS = 'annotations/panoptic_generated.json'


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A samples folder of two maps of pixel noise, and the maps in the size of their images."""
    folder = tmp_path_factory.mktemp('written')
    generator = np.random.default_rng(0)
    codes = np.array([0, *(entry.id for entry in COCO)], np.uint8)
    ids = generator.choice(codes, (2, 64, 64))
    for one in ids:
        one[10:40, 10:50] = generator.choice(codes)
    images = generator.integers(0, 256, (2, 256, 256, 3), np.uint8)
    listed = CategoryList(COCO, tuple(entry.id for entry in COCO))
    sample_folders.write(epath.Path(folder), listed, 'ab', images=images, ids=ids)
    return folder, ids.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(params=[0, 1])
def read_back(written, request):
    """(segment ids (256, 256), segments_info, map) of one image."""
    folder, maps = written
    content = json.loads((folder / ANNOTATIONS).read_text())
    (annotation,) = (
        entry for entry in content['annotations'] if entry['image_id'] == request.param
    )
    path = folder / 'annotations' / 'panoptic_generated' / annotation['file_name']
    ids = panoptic_png.segment_ids(np.asarray(Image.open(path)))
    return ids, annotation['segments_info'], maps[request.param]


THINGS = frozenset(entry.id for entry in COCO if entry.is_thing)


def test_written_categories_are_those_of_coco(written):
    categories = json.loads((written[0] / ANNOTATIONS).read_text())['categories']
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


def test_detection_tools_see_the_same_things(written, capsys):
    folder, _ = written
    found = COCOTools(folder / 'annotations' / 'instances_generated.json')
    capsys.readouterr()
    panoptic = json.loads((folder / ANNOTATIONS).read_text())
    assert {entry['id'] for entry in found.loadCats(found.getCatIds())} == THINGS
    assert [entry['file_name'] for entry in found.loadImgs([0, 1])] == [
        '00000000.png', '00000001.png',
    ]  # fmt: skip
    for annotation in panoptic['annotations']:
        path = folder / 'annotations' / 'panoptic_generated' / annotation['file_name']
        ids = panoptic_png.segment_ids(np.asarray(Image.open(path)))
        things = [s for s in annotation['segments_info'] if s['category_id'] in THINGS]
        own = found.loadAnns(found.getAnnIds(imgIds=[annotation['image_id']]))
        assert len(own) == len(things) > 255
        for segment, entry in zip(things, own, strict=True):
            for name in ('category_id', 'area', 'bbox', 'iscrowd'):
                assert entry[name] == segment[name]
            np.testing.assert_array_equal(found.annToMask(entry) > 0, ids == segment['id'])


@pytest.mark.parametrize('shape', [(1, 1), (1, 7), (9, 1), (40, 30), (256, 256)])
def test_run_lengths_are_those_of_pycocotools(shape):
    rng = np.random.default_rng(0)
    masks = [np.zeros(shape, bool), np.ones(shape, bool)]
    masks += [rng.random(shape) < share for share in (0.01, 0.1, 0.5, 0.99)]
    for mask in masks:
        expected = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle.encode(mask) == expected['counts'].decode()
