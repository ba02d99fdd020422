"""COCO-panoptic results: known segments, and the round trip through PNG and JSON on disk."""

import json

import numpy as np
import pytest
from PIL import Image

from panoptic_jax.data import panoptic_png
from panoptic_jax.data.categories import COCO
from panoptic_jax.data.example import Category
from panoptic_jax.export import coco

LIST = (Category(1, 'person', True), Category(3, 'car', True), Category(149, 'road', False))


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
    colours, info = coco.segments(category, LIST)
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


def test_touching_corners_are_two_things_and_void_is_none():
    _, info = coco.segments(np.array([[1, 0], [0, 1]], np.uint8), LIST)
    assert [segment['area'] for segment in info] == [1, 1]
    colours, info = coco.segments(np.zeros((3, 3), np.uint8), LIST)
    assert info == []
    assert not colours.any()


def test_round_trip_through_files(tmp_path):
    generator = np.random.default_rng(0)
    codes = np.array([0, *(entry.id for entry in COCO)], np.uint8)
    images, annotations, maps = [], [], {}
    for number in (7, 19):  # pixel noise: far more than 255 things
        maps[number] = generator.choice(codes, (60, 90))
        maps[number][10:40, 10:50] = generator.choice(codes)
        colours, info = coco.segments(maps[number], COCO)
        Image.fromarray(colours).save(tmp_path / f'{number}.png')
        images.append({'id': number, 'file_name': f'{number}.jpg', 'width': 90, 'height': 60})
        annotations.append(
            {'image_id': number, 'file_name': f'{number}.png', 'segments_info': info}
        )
    coco.write_panoptic_json(tmp_path / 'panoptic.json', images, annotations, COCO)
    assert {path.name for path in tmp_path.iterdir()} == {'7.png', '19.png', 'panoptic.json'}

    content = json.loads((tmp_path / 'panoptic.json').read_text())
    things = frozenset(entry['id'] for entry in content['categories'] if entry['isthing'])
    assert len(content['categories']) == 133
    assert len(things) == 80
    for annotation in content['annotations']:
        info = annotation['segments_info']
        assert len(info) > 255
        assert len({segment['id'] for segment in info}) == len(info)
        ids = panoptic_png.segment_ids(np.asarray(Image.open(tmp_path / annotation['file_name'])))
        for segment in info[:: len(info) // 40]:
            rows, columns = np.nonzero(ids == segment['id'])
            assert segment['area'] == len(rows)
            left, top, width, height = segment['bbox']
            assert (left, left + width) == (columns.min(), columns.max() + 1)
            assert (top, top + height) == (rows.min(), rows.max() + 1)
        found, _ = panoptic_png.to_maps(ids, info, {entry.id: entry.id for entry in COCO}, things)
        np.testing.assert_array_equal(found, maps[annotation['image_id']])


def test_bad_input_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match='category 2, which is none of the 3 listed'):
        coco.segments(np.full((2, 2), 2, np.uint8), LIST)
    image = {'id': 1, 'file_name': '1.png', 'width': 2, 'height': 2}
    annotation = {'image_id': 1, 'file_name': '1.png', 'segments_info': []}
    for images, annotations in (
        ([image], []),
        ([image], [{**annotation, 'image_id': 2}]),
        ([image, image], [annotation, annotation]),
    ):
        with pytest.raises(ValueError, match='exactly one annotation per image id'):
            coco.write_panoptic_json(tmp_path / 'panoptic.json', images, annotations, LIST)
    assert not list(tmp_path.iterdir())
