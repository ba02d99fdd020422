"""The panoptic PNG format: maps through it and back, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from panoptic_jax.data import panoptic_png
from panoptic_jax.data.example import Category

LIST = (
    Category(3, 'cat', is_thing=True),
    Category(7, 'dog', is_thing=True),
    Category(200, 'grass', is_thing=False),
)


def test_segment_ids_and_colours_are_inverse():
    colours = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    segments = panoptic_png.segment_ids(colours)
    assert segments[3, 4] == colours[3, 4] @ np.array([1, 256, 65_536])
    np.testing.assert_array_equal(panoptic_png.segment_colours(segments), colours)


def random_maps():
    """Category and instance maps: cats 1 and 2, larger first, a crowd of dogs, grass and void."""
    category = np.random.default_rng(1).choice([0, 3, 7, 200], (60, 40)).astype(np.uint8)
    numbers = np.zeros((60, 40), np.uint8)
    numbers[:, :25] = 1
    numbers[:, 25:35] = 2
    return category, np.where(category == 3, numbers, 0).astype(np.uint8)


def test_maps_through_a_png_file_and_back(tmp_path):
    category, instance = random_maps()
    colours, infos = panoptic_png.from_maps(category, instance, LIST)
    Image.fromarray(colours).save(tmp_path / 'map.png')
    read = np.asarray(Image.open(tmp_path / 'map.png'))
    back = panoptic_png.to_maps(
        panoptic_png.segment_ids(read), infos, {3: 3, 7: 7, 200: 200}, frozenset({3, 7})
    )
    np.testing.assert_array_equal(back[0], category)
    np.testing.assert_array_equal(back[1], instance)


def test_segments_of_a_map_are_described():
    category, instance = random_maps()
    _, infos = panoptic_png.from_maps(category, instance, LIST)
    assert {(i['category_id'], i['iscrowd'], i['area']) for i in infos} == {
        (3, 0, int(((category == 3) & (instance == 1)).sum())),
        (3, 0, int(((category == 3) & (instance == 2)).sum())),
        (3, 1, int(((category == 3) & (instance == 0)).sum())),
        (7, 1, int((category == 7).sum())),
        (200, 0, int((category == 200).sum())),
    }
    assert all(info['bbox'][3] <= 60 for info in infos)


def test_a_map_with_a_category_outside_the_list_is_refused():
    category, instance = random_maps()
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
