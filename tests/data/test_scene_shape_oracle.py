"""The shapes of things: read wherever they lie and however they are turned."""

import numpy as np
import pytest

from panoptic_jax.data import scene_shape_oracle, scene_shapes, scene_words


@pytest.mark.parametrize('category', scene_words.THINGS)
def test_shapes_are_read_wherever_they_lie_and_however_they_are_turned(category):
    rng = np.random.default_rng(category)
    y, x = np.mgrid[:64, :64] + 0.5
    for _ in range(20):
        centre_x, centre_y = rng.uniform(20, 44, 2)
        size, angle = rng.uniform(7, 11), rng.uniform(-0.5, 0.5)
        x_here, y_here = (x - centre_x) / size, (y - centre_y) / size
        turned = (
            np.cos(angle) * x_here + np.sin(angle) * y_here,
            np.cos(angle) * y_here - np.sin(angle) * x_here,
        )
        mask = scene_shapes.DISTANCES[category](*turned) < 0
        assert scene_shape_oracle.shape_of(mask) == category


def test_areas_that_are_too_small_or_too_many_have_no_shape():
    pixels = np.zeros((64, 64), bool)
    pixels[2:12, 2:12] = pixels[20:34, 20:34] = pixels[40:43, 40:43] = True
    square = 2
    assert scene_shape_oracle.shapes_of(pixels, 3, smallest=20) == [square, square]
    assert scene_shape_oracle.shapes_of(pixels, 1, smallest=20) == [square]
    assert scene_shape_oracle.shapes_of(pixels, 1, smallest=1000) == []
    assert scene_shape_oracle.shapes_of(pixels & False, 1, smallest=1) == []
