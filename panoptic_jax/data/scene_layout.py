"""Where things and stuff lie in a scene, how much of each is visible, and the exact maps.

A layout decides the category and instance maps and what the captions say. `data/scenes.py` paints
it and makes the data set. `data/scene_words.py` says what scenes can hold, `data/scene_shapes.py`
what the things look like, and `data/scene_repeats.py` draws several things of one kind.
"""

from typing import NamedTuple

import numpy as np

from panoptic_jax.data import scene_repeats, scene_shapes, scene_words
from panoptic_jax.data.scene_shapes import SIZE, Thing

# Each thing shows this share of its area at least. The smallest thing has 2124 px, so each thing
# shows over 1000 px, which the oracle can find.
MIN_VISIBLE_SHARE = 0.5
# Pixels that each kind of stuff shows at least: an eighth of the scene.
MIN_VISIBLE_STUFF = 8192


class Layout(NamedTuple):
    """What a scene holds.

    Attributes:
      things: The things; later things lie in front of earlier ones.
      above: Category id of the stuff above the horizon.
      below: Category id of the stuff below the horizon.
      horizon: (256,) float32, the horizon's row in each column.
    """

    things: list[Thing]
    above: int
    below: int
    horizon: np.ndarray


class Footprint(NamedTuple):
    """Where a thing lies.

    Attributes:
      rows: The rows of the window that holds all of the thing.
      columns: The columns of that window.
      distance: (rows, columns) float32, signed distance to the thing's edge in pixels, negative
        inside the thing.
    """

    rows: slice
    columns: slice
    distance: np.ndarray


def visible_layout(
    generator: np.random.Generator, *, repeats: bool = False
) -> tuple[Layout, list[Footprint], np.ndarray]:
    """Draws layouts until everything that a caption would name is visible.

    Args:
      generator: Decides everything.
      repeats: Whether several things of a kind are drawn, see `scene_repeats.draw_things`.

    Returns:
      layout: The first layout that passes.
      footprints: Where each of its things lies.
      order: (256, 256) uint8, the number of the front thing at each pixel, from 1; 0 for stuff.
    """
    while True:
        layout = _draw_layout(generator, repeats)
        footprints = [_footprint(thing) for thing in layout.things]
        order = np.zeros((SIZE, SIZE), np.uint8)
        for number, (rows, columns, distance) in enumerate(footprints, start=1):
            # Later things overwrite earlier ones, as they do when they are painted.
            order[rows, columns][distance < 0] = number
        told_apart = not repeats or scene_repeats.are_told_apart(layout.things, order)
        if told_apart and _all_visible(layout, order):
            return layout, footprints, order


def _all_visible(layout: Layout, order: np.ndarray) -> bool:
    visible_things = 0
    for number, thing in enumerate(layout.things, start=1):
        visible = np.count_nonzero(order == number)
        if visible < MIN_VISIBLE_SHARE * np.pi * thing.size**2:
            return False
        visible_things += visible
    below = np.count_nonzero(_is_below(layout) & (order == 0))
    above = SIZE * SIZE - visible_things - below
    return min(above, below) >= MIN_VISIBLE_STUFF


# The order of the draws below is part of the data set: another order gives other scenes from the
# same seed, and `scenes.VERSION` would have to rise.


def _draw_layout(generator: np.random.Generator, repeats: bool) -> Layout:
    draw_things = scene_repeats.draw_things if repeats else _draw_things
    things = draw_things(generator)
    above = int(generator.choice(list(scene_words.ABOVE)))
    below = int(generator.choice(list(scene_words.BELOW)))
    horizon = _draw_horizon(generator)
    return Layout(things=things, above=above, below=below, horizon=horizon)


def _draw_things(generator: np.random.Generator) -> list[Thing]:
    count = int(generator.integers(1, 5))
    # Permutations: no shape and no colour occurs twice, so a word of a caption means one thing.
    shapes = generator.permutation(list(scene_words.THINGS))[:count]
    colours = generator.permutation(list(scene_words.THING_COLOURS))[:count]
    things: list[Thing] = []
    for shape, colour in zip(shapes, colours, strict=True):
        size = generator.uniform(26, 48)
        centre = generator.uniform(size, SIZE - size, 2)
        # Each earlier thing can block one corner of the range at most, so a place is always left.
        while any(_too_near(centre, size, other) for other in things):
            centre = generator.uniform(size, SIZE - size, 2)
        angle = generator.uniform(-0.5, 0.5)
        thing = Thing(
            category=int(shape),
            colour=str(colour),
            centre=tuple(centre.tolist()),
            size=size,
            angle=angle,
        )
        things.append(thing)
    return things


def _too_near(centre: np.ndarray, size: float, other: Thing) -> bool:
    distance = np.hypot(*(centre - other.centre))
    # The factor is below 1, so things may overlap, and one of them lies in front.
    return distance < 0.6 * (size + other.size)


def _draw_horizon(generator: np.random.Generator) -> np.ndarray:
    """(256,) float32 row of the horizon in each column: a tilted line with a gentle wave."""
    x = np.linspace(-1, 1, SIZE, dtype=np.float32)
    middle, tilt, bend = generator.uniform((90, -14, 4), (166, 14, 10))
    phase, waves = generator.uniform((0, 0.3), (2 * np.pi, 0.8))
    wave = np.sin(phase + 2 * np.pi * waves * x)
    horizon = middle + tilt * x + bend * wave
    return horizon.astype(np.float32)


def _footprint(thing: Thing) -> Footprint:
    # No shape reaches further from its centre than 1.6 sizes; 2 px are left for soft edges.
    reach = 1.6 * thing.size + 2
    centre = np.array(thing.centre)
    top, left = np.clip(centre - reach, 0, SIZE).astype(int)
    bottom, right = np.clip(centre + reach, 0, SIZE).astype(int)
    # Coordinates of the pixels' centres from the thing's centre, in units of its size.
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
    y = (y - thing.centre[0]) / thing.size  # (rows, 1)
    x = np.arange(left, right, dtype=np.float32)[None, :] + 0.5
    x = (x - thing.centre[1]) / thing.size  # (1, columns)
    cosine = np.float32(np.cos(thing.angle))
    sine = np.float32(np.sin(thing.angle))
    # Turning the grid back by the angle turns the shape by it.
    turned_x = cosine * x + sine * y
    turned_y = cosine * y - sine * x
    distance = scene_shapes.DISTANCES[thing.category](turned_x, turned_y)
    return Footprint(
        rows=slice(top, bottom),
        columns=slice(left, right),
        distance=distance * np.float32(thing.size),
    )


def _is_below(layout: Layout) -> np.ndarray:
    """(256, 256) bool: whether a pixel's centre lies below the horizon."""
    rows = np.arange(SIZE, dtype=np.float32)[:, None] + 0.5
    return rows > layout.horizon


def draw_maps(layout: Layout, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Category and instance maps, (256, 256) uint8; the thing that shows most is instance 1.

    Args:
      layout: The scene.
      order: The number of the front thing at each pixel, from `visible_layout`.
    """
    above = np.uint8(layout.above)
    below = np.uint8(layout.below)
    category = np.where(_is_below(layout), below, above)
    instance = np.zeros_like(category)
    masks = [order == number for number in range(1, len(layout.things) + 1)]
    areas = [np.count_nonzero(mask) for mask in masks]
    largest_first = np.argsort([-area for area in areas], kind='stable')
    for number, index in enumerate(largest_first, start=1):
        mask = masks[index]
        category[mask] = layout.things[index].category
        instance[mask] = number
    return category, instance
