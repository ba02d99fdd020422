"""The picture grid of a training's preview."""

import numpy as np
import pytest

from panoptic_jax.data import categories
from panoptic_jax.scoring import preview


def test_grid_puts_each_map_beside_its_image():
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    maps = generator.integers(0, 256, (3, 4, 2), dtype=np.uint8)
    found = preview.grid_of_pairs(images, maps, columns=2)
    assert found.shape == (20, 40, 3)
    np.testing.assert_array_equal(found[:8, 24:32], images[1])
    np.testing.assert_array_equal(found[12:20, :8], images[2])
    for y, x in [(0, 0), (1, 3), (7, 7), (2, 4)]:
        expected = categories.palette()[maps[1, y // 2, x // 4]]
        np.testing.assert_array_equal(found[y, 32 + x], expected)
    assert (found[12:, 24:] == 255).all()
    with pytest.raises(ValueError, match='one map'):
        preview.grid_of_pairs(images, maps[:2], 2)
