"""Where things and stuff lie in a scene, which of them show, and the exact maps.

A layout decides the category and instance maps and what the captions say; `scenes.py` paints it and
makes the data set. What scenes can hold is in `scene_words.py`.
"""

from typing import NamedTuple

import numpy as np

from panoptic_jax.data import scene_words

SIZE = 256
"""Side of a scene, pixels."""
MIN_VISIBLE_SHARE = 0.5
"""Of its area, for every thing. The smallest thing has 2124 px, so each shows over 1000 px."""
MIN_VISIBLE_STUFF = 8192
"""Pixels that each kind of stuff shows at least."""


class Thing(NamedTuple):
    """One shape: centre (y, x), size (radius of a disc of the same area) in px, angle (rad)."""

    category: int
    colour: str
    centre: tuple[float, float]
    size: float
    angle: float


class Layout(NamedTuple):
    """What a scene holds; later things lie in front. `horizon`: (256,) float32, row per column."""

    things: list[Thing]
    above: int
    below: int
    horizon: np.ndarray


class Footprint(NamedTuple):
    """Where a thing lies: its window of the picture and there its signed distance, < 0 inside."""

    rows: slice
    columns: slice
    distance: np.ndarray


def visible_layout(
    generator: np.random.Generator,
) -> tuple[Layout, list[Footprint], np.ndarray]:
    """Draws layouts until everything that a caption would name can be seen.

    The third result is the number of the front thing at each pixel, (256, 256) uint8 from 1, or 0.
    """
    while True:
        layout = _draw_layout(generator)
        footprints = [_footprint(thing) for thing in layout.things]
        order = np.zeros((SIZE, SIZE), np.uint8)
        for number, (rows, columns, distance) in enumerate(footprints, 1):
            order[rows, columns][distance < 0] = number
        visible = np.array([np.count_nonzero(order == k + 1) for k in range(len(footprints))])
        wanted = [MIN_VISIBLE_SHARE * np.pi * thing.size**2 for thing in layout.things]
        stuff_below = np.count_nonzero(_is_below(layout) & (order == 0))
        stuff_above = SIZE * SIZE - visible.sum() - stuff_below
        if (visible >= wanted).all() and min(stuff_above, stuff_below) >= MIN_VISIBLE_STUFF:
            return layout, footprints, order


def _draw_layout(generator: np.random.Generator) -> Layout:
    count = int(generator.integers(1, 5))
    shapes = generator.permutation(list(scene_words.THINGS))[:count]
    colours = generator.permutation(list(scene_words.THING_COLOURS))[:count]
    things: list[Thing] = []
    for shape, colour in zip(shapes, colours, strict=True):
        size = generator.uniform(26, 48)
        centre = generator.uniform(size, SIZE - size, 2)
        # Each earlier thing can block one corner of the range at most, so a place is always left.
        while any(np.hypot(*(centre - t.centre)) < 0.6 * (size + t.size) for t in things):
            centre = generator.uniform(size, SIZE - size, 2)
        angle = generator.uniform(-0.5, 0.5)
        things.append(Thing(int(shape), str(colour), tuple(centre.tolist()), size, angle))
    above = int(generator.choice(list(scene_words.ABOVE)))
    below = int(generator.choice(list(scene_words.BELOW)))
    x = np.linspace(-1, 1, SIZE, dtype=np.float32)
    middle, tilt, bend = generator.uniform((90, -14, 4), (166, 14, 10))
    phase, waves = generator.uniform((0, 0.3), (2 * np.pi, 0.8))
    horizon = middle + tilt * x + bend * np.sin(phase + 2 * np.pi * waves * x)
    return Layout(things, above, below, horizon.astype(np.float32))


def _footprint(thing: Thing) -> Footprint:
    reach = 1.6 * thing.size + 2
    (low_y, low_x), (high_y, high_x) = (
        np.clip(np.array(thing.centre) + side * reach, 0, SIZE).astype(int) for side in (-1, 1)
    )
    y = (np.arange(low_y, high_y, dtype=np.float32)[:, None] + 0.5 - thing.centre[0]) / thing.size
    x = (np.arange(low_x, high_x, dtype=np.float32)[None, :] + 0.5 - thing.centre[1]) / thing.size
    cosine, sine = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
    distance = _DISTANCES[thing.category](cosine * x + sine * y, cosine * y - sine * x)
    return Footprint(slice(low_y, high_y), slice(low_x, high_x), distance * np.float32(thing.size))


def _is_below(layout: Layout) -> np.ndarray:
    return np.arange(SIZE, dtype=np.float32)[:, None] + 0.5 > layout.horizon


def draw_maps(layout: Layout, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Category and instance maps, (256, 256) uint8; the thing that shows most is instance 1."""
    category = np.where(_is_below(layout), np.uint8(layout.below), np.uint8(layout.above))
    instance = np.zeros_like(category)
    shown = [order == number for number in range(1, len(layout.things) + 1)]
    by_size = np.argsort([-np.count_nonzero(mask) for mask in shown], kind='stable')
    for number, index in enumerate(by_size, 1):
        category[shown[index]] = layout.things[index].category
        instance[shown[index]] = number
    return category, instance


# Shapes: signed distances in units of the thing's size (y points down); all have the area pi.


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 1


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.886


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(0.866 * np.abs(x) - 0.5 * y, y) - 0.778


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mirrors the plane into the half wedge of one point, where the edge is a straight line."""
    x, y = np.abs(x), -y
    for normal_x, normal_y in ((0.809, -0.588), (-0.809, -0.588)):
        beyond = 2 * np.maximum(normal_x * x + normal_y * y, 0)
        x, y = x - beyond * normal_x, y - beyond * normal_y
    tip, notch = 1.462, 0.731
    edge_x, edge_y = notch * 0.588, notch * 0.809 - tip
    length = np.hypot(edge_x, edge_y)
    return (np.abs(x) * (-edge_y / length)) + (y - tip) * (edge_x / length)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.782) - 0.319


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1.154, np.minimum(x, y) - 0.415)


_DISTANCES = {1: _circle, 2: _square, 3: _triangle, 4: _star, 5: _ring, 6: _cross}
