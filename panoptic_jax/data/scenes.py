"""The embedded data set: procedural scenes with exact maps, drawn from a seed, nothing downloaded.

A scene shows one to four things (shape = category, colour = attribute) on two kinds of stuff that
meet at a tilted, curved horizon. Within a scene no shape and no colour occurs twice, so a word of a
caption means one thing. Here the scenes are painted; where things lie and the maps are in
`scene_layout.py`, what scenes can hold and the captions in `scene_words.py`, reading a picture back
in `scene_oracle.py`.
"""

import functools

import numpy as np

from panoptic_jax.data import scene_words
from panoptic_jax.data.example import Category, Example
from panoptic_jax.data.scene_layout import (
    SIZE,
    Footprint,
    Layout,
    Thing,
    draw_maps,
    visible_layout,
)

VERSION = 1
"""Of the drawing; raised whenever the same seed would give other scenes."""

_STREAMS = {'train': 0, 'validation': 1}


class Scenes:
    """A source of `count` scenes; scene i depends on (seed, split, i) only, not on `count`.

    Attributes:
      categories: the 6 shapes (ids 1..6) and 9 kinds of stuff (ids 92..100).
      num_captions: (count,) captions of each scene.
      description: everything that determines the scenes, JSON-able.

    Raises:
      ValueError: `split` is neither 'train' nor 'validation', or seed or count is impossible.
    """

    def __init__(self, seed: int, count: int, split: str):
        if split not in _STREAMS:
            raise ValueError(f"scenes have no split {split!r}; use 'train' or 'validation'")
        if seed < 0 or count < 1:
            raise ValueError(
                f'seed {seed} and count {count} of scenes: the seed must be at least 0 and the '
                'count at least 1'
            )
        self._seed, self._count, self._stream = seed, count, _STREAMS[split]
        self.num_captions = np.full(count, len(scene_words.TEMPLATES))
        self.categories: tuple[Category, ...] = scene_words.categories()
        self.description = {
            'source': 'scenes',
            'version': VERSION,
            'seed': seed,
            'count': count,
            'split': split,
        }

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        """Draws a scene: image (256, 256, 3), maps (256, 256), five captions; image_id is `index`.

        Raises:
          IndexError: `index` is not in 0..count-1.
        """
        if not 0 <= index < self._count:
            raise IndexError(
                f'scene {index} of {self._count}: the index must be 0..{self._count - 1}'
            )
        entropy = np.random.SeedSequence(self._seed, spawn_key=(self._stream, int(index)))
        generator = np.random.Generator(np.random.Philox(entropy))
        layout, footprints, order = visible_layout(generator)
        category, instance = draw_maps(layout, order)
        things = [(thing.category, thing.colour) for thing in layout.things]
        captions = scene_words.describe(things, layout.above, layout.below, generator)
        image = _paint(layout, footprints, generator)
        return Example(image, category, instance, captions, int(index))


def _paint(
    layout: Layout, footprints: list[Footprint], generator: np.random.Generator
) -> np.ndarray:
    """Flat colours, soft edges, texture, then light over the whole; (256, 256, 3) uint8."""
    row = np.arange(SIZE, dtype=np.float32)[:, None] + 0.5
    share_below = np.clip(row - layout.horizon + 0.5, 0, 1)
    kinds = (layout.above, layout.below)
    colours = np.array([scene_words.STUFF_COLOURS[kind] for kind in kinds], np.float32)
    texture = _texture(layout.above, generator)
    texture = texture + share_below * (_texture(layout.below, generator) - texture)
    image = np.empty((3, SIZE, SIZE), np.float32)
    for channel, (above, below) in zip(image, colours.T, strict=True):
        np.multiply(share_below, below - above, out=channel)
        channel += above
        channel += texture
    for thing, footprint in zip(layout.things, footprints, strict=True):
        _paint_thing(image, thing, footprint)
    image *= _light(generator)
    np.clip(image, 0, 255, out=image)
    image += np.float32(0.5)
    pixels = np.empty((SIZE, SIZE, 3), np.uint8)
    for channel, plane in enumerate(image):
        pixels[..., channel] = plane  # the cast cuts off: 0.5 was added to round
    return pixels


def _paint_thing(image: np.ndarray, thing: Thing, footprint: Footprint) -> None:
    """Blends one thing in: brighter towards the upper left, with a thin darker rim."""
    rows, columns, distance = footprint
    cover = np.clip(0.5 - distance, 0, 1)
    shade = np.clip(-distance, 0, 2) * np.float32(0.125) + np.float32(0.75)
    slope = np.float32(-0.06 / thing.size)
    shade += slope * (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - thing.centre[0])
    shade += slope * (np.arange(columns.start, columns.stop, dtype=np.float32) - thing.centre[1])
    for channel, value in zip(image, scene_words.THING_COLOURS[thing.colour], strict=True):
        window = channel[rows, columns]
        window += cover * (shade * np.float32(value) - window)


def _light(generator: np.random.Generator) -> np.ndarray:
    """Brightness that changes smoothly across the picture, (256, 256), within 0.88..1.12."""
    overall, slope, angle = generator.uniform((0.96, 0, 0), (1.04, 0.08, 2 * np.pi))
    along = np.linspace(-1, 1, SIZE, dtype=np.float32) * np.float32(slope / np.sqrt(2))
    return (
        np.float32(overall)
        + np.sin(angle, dtype=np.float32) * along[:, None]
        + np.cos(angle, dtype=np.float32) * along
    )


_TEXTURES = {
    92: ('clouds', 7),
    93: ('stars', 90),
    94: ('layers', 7),
    95: ('bricks', 7),
    96: ('blades', 9),
    97: ('grain', 7),
    98: ('ripples', 9),
    99: ('grain', 6),
    100: ('clouds', 5),
}
"""Stuff id -> kind of texture and its strength in levels of 0..255."""


def _texture(stuff: int, generator: np.random.Generator) -> np.ndarray:
    """A random window of the stuff's texture, (256, 256) in levels."""
    kind, strength = _TEXTURES[stuff]
    top, left = generator.integers(0, SIZE, 2)
    return _tile(kind)[top : top + SIZE, left : left + SIZE] * np.float32(strength)


@functools.cache
def _tile(kind: str) -> np.ndarray:
    """(512, 512) float32 of about unit strength; drawn once, the same in all processes."""
    if kind == 'bricks':
        row, column = np.indices((2 * SIZE, 2 * SIZE))
        shifted = column + 16 * (row // 16 % 2)
        joints = (row % 16 < 2) | (shifted % 32 < 2)
        return (0.4 * _noise(0.5, 1, 1) + 2.0 * joints).astype(np.float32)
    if kind == 'stars':
        bright = (_noise(0, 1, 1) > 3.2).astype(np.float32)
        return bright + 0.5 * (np.roll(bright, 1, 0) + np.roll(bright, 1, 1))
    exponent, tall, wide = {
        'clouds': (1.4, 12, 24),
        'layers': (1.4, 6, 60),
        'blades': (1.0, 5, 1),
        'ripples': (1.2, 2, 12),
        'grain': (0.4, 1, 1),
    }[kind]
    return np.clip(_noise(exponent, tall, wide), -2.5, 2.5)


def _noise(exponent: float, tall: float, wide: float) -> np.ndarray:
    """Periodic Gaussian noise of unit variance, correlated over about tall x wide pixels."""
    white = np.random.Generator(np.random.Philox(VERSION)).standard_normal((2 * SIZE, 2 * SIZE))
    y = np.fft.fftfreq(2 * SIZE)[:, None] * 2 * np.pi * tall
    x = np.fft.rfftfreq(2 * SIZE)[None, :] * 2 * np.pi * wide
    smooth = np.fft.irfft2(np.fft.rfft2(white) * (1 + y * y + x * x) ** -exponent)
    return ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)
