"""Maps that a model is given: pictures of ids, COCO-panoptic PNGs, and lists that differ."""

import json

import numpy as np
import pytest
from PIL import Image

from panoptic_jax.data import given_maps, panoptic_png
from panoptic_jax.data.example import Category
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.map_pictures import Form, of_ids, reader

# Numbered anew, since 0 and 1001 do not fit.
OURS = CategoryList(
    (Category(1, 'car', True), Category(2, 'road', False), Category(3, 'sky', False)),
    (1001, 0, 77),
)
FORM = Form(OURS, side=64, void_wins=False)
THEIRS = [
    {'id': 5, 'name': 'sky', 'isthing': 0},
    {'id': 3, 'name': 'road', 'isthing': 0},
    {'id': 9, 'name': 'lake', 'isthing': 0},
]


def picture_of_ids(seed=0, codes=(1, 2, 3)):
    return np.random.default_rng(seed).choice(np.array(codes, np.uint8), (64, 64))


def test_pictures_of_ids_have_the_ids_of_the_source(tmp_path):
    expected = picture_of_ids()
    source = np.array([0, 1001, 0, 77])[expected]
    Image.fromarray(source.astype(np.uint16)).save(tmp_path / 'grey.png')
    np.testing.assert_array_equal(reader(FORM)(tmp_path / 'grey.png'), expected)
    # A larger one is cropped to its centre and pooled.
    wide = np.pad(source.repeat(5, 0).repeat(5, 1), ((0, 0), (30, 30)), constant_values=77)
    np.testing.assert_array_equal(of_ids(wide, FORM), expected)


def test_palettes_are_read_as_ids_and_0_and_255_as_void(tmp_path):
    plain = Form(CategoryList(OURS.entries, (1, 2, 3)), side=64, void_wins=False)
    ids = picture_of_ids(codes=(0, 1, 2, 3, 255))
    picture = Image.fromarray(ids, mode='P')
    picture.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    picture.save(tmp_path / 'palette.png')
    found = reader(plain)(tmp_path / 'palette.png')
    np.testing.assert_array_equal(found, np.where(ids == 255, 0, ids))


@pytest.mark.parametrize('place', ['given', 'beside', 'of the folder'])
def test_coloured_pngs_are_read_by_the_names_of_their_json(tmp_path, place):
    expected = picture_of_ids(codes=(0, 2, 3))
    folder = tmp_path / 'maps'
    folder.mkdir()
    segments = np.array([0, 0, 70_000, 300])[expected]
    Image.fromarray(panoptic_png.segment_colours(segments)).save(folder / 'a.png')
    infos = [{'id': 300, 'category_id': 5}, {'id': 70_000, 'category_id': 3}]
    annotation = {'image_id': 1, 'file_name': 'a.png', 'segments_info': infos}
    content = json.dumps({'annotations': [annotation], 'categories': THEIRS})
    path = {
        'given': tmp_path / 'any name.json',
        'beside': folder / 'a.json',
        'of the folder': tmp_path / 'maps.json',
    }[place]
    path.write_text(content)
    found = reader(FORM)(folder / 'a.png', path if place == 'given' else None)
    np.testing.assert_array_equal(found, expected)

    infos[0]['category_id'] = 9
    path.write_text(json.dumps({'annotations': [annotation], 'categories': THEIRS}))
    with pytest.raises(ValueError, match=r'a\.png shows lake, which the model has not learned'):
        reader(FORM)(folder / 'a.png', path if place == 'given' else None)
    infos[0]['id'] = 2**24
    path.write_text(json.dumps({'annotations': [annotation], 'categories': THEIRS}))
    with pytest.raises(ValueError, match=r'json: .*16777216.* it must be an integer from 1 to'):
        reader(FORM)(folder / 'a.png', path if place == 'given' else None)


def test_a_map_that_cannot_be_read_is_one_sentence(tmp_path):
    read = reader(FORM)
    with pytest.raises(FileNotFoundError, match=r'a\.png is missing'):
        read(tmp_path / 'a.png')
    Image.fromarray(np.full((8, 8), 13, np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=r'a\.png: 13 is no category id of the model'):
        read(tmp_path / 'a.png')
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / 'b.png')
    # Another program's JSON says nothing about the map.
    (tmp_path / 'b.json').write_text('{"shapes": []}')
    with pytest.raises(ValueError, match=r'b\.png .*needs its JSON, b\.json or'):
        read(tmp_path / 'b.png')
    with pytest.raises(ValueError, match=r'b\.json has no segments_info of b\.png'):
        read(tmp_path / 'b.png', tmp_path / 'b.json')


def test_lists_are_compared_by_name():
    assert given_maps.translation(OURS, OURS, 'The data') is None
    theirs = CategoryList(
        (Category(4, 'sky', False), Category(9, 'car', True), Category(1, 'road', False)), (4, 9, 1)
    )
    table = given_maps.translation(theirs, OURS, 'The data')
    assert [table[i] for i in (0, 4, 9, 1)] == [0, 3, 1, 2]
    lake = CategoryList((Category(1, 'lake', False),), (1,))
    with pytest.raises(ValueError, match=r'The data has 1 categories .* such as lake; the model'):
        given_maps.translation(lake, OURS, 'The data')
    twice = CategoryList((Category(1, 'sky', False), Category(2, 'sky', False)), (1, 2))
    with pytest.raises(ValueError, match='names that stand twice'):
        given_maps.translation(twice, OURS, 'The data')
