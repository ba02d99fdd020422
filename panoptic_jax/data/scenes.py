"""The embedded data set: procedural scenes with exact maps, drawn from a seed without a download.

A scene shows one to four things (shape = category, colour = attribute) on two kinds of stuff that
meet at a tilted, curved horizon. Within a scene no shape and no colour occurs twice, so a word of a
caption means one thing; with repeats there are two to five things, several of them of one kind
(`data/scene_repeats.py`). This module paints. `data/scene_layout.py` decides where things lie and
draws the maps, `data/scene_words.py` writes captions, `data/scene_oracle.py` reads an image back.
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

# The version of the drawing. It rises whenever the same seed would give other scenes, so that data
# prepared before are refused.
VERSION = 1

# Each split has a stream of random numbers of its own, so the splits share no scene.
_STREAMS = {'train': 0, 'validation': 1}


class Scenes:
    """A source of `count` scenes; scene i depends on (seed, split, i) only, not on `count`.

    Attributes:
      categories: The 6 shapes (ids 1..6) and 9 kinds of stuff (ids 92..100).
      source_ids: {our category id: the same id}.
      num_captions: (count,) int64, captions of each scene.
      description: Everything that determines the scenes, JSON-able.

    Raises:
      ValueError: `split` is neither 'train' nor 'validation', or seed or count is impossible.
    """

    def __init__(self, seed: int, count: int, split: str, *, repeats: bool = False) -> None:
        """Draws nothing yet; scenes are drawn when they are read.

        Args:
          seed: Decides the scenes, at least 0.
          count: How many scenes, at least 1.
          split: 'train' or 'validation'.
          repeats: Whether scenes hold several things of one kind.
        """
        if split not in _STREAMS:
            raise ValueError(f"scenes have no split {split!r}; use 'train' or 'validation'")
        if seed < 0 or count < 1:
            raise ValueError(
                f'seed {seed} and count {count} of scenes: the seed must be at least 0 and the '
                'count at least 1'
            )
        self._seed = seed
        self._count = count
        self._stream = _STREAMS[split]
        self._repeats = repeats
        self.num_captions = np.full(count, len(scene_words.TEMPLATES))
        self.categories: tuple[Category, ...] = scene_words.categories()
        self.source_ids = {category.id: category.id for category in self.categories}
        self.description = {
            'source': 'scenes',
            'version': VERSION,
            'seed': seed,
            'count': count,
            'split': split,
        }
        if repeats:  # others keep the description, and so the data, that they always had
            self.description['repeats'] = True

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        """Draws a scene: image (256, 256, 3), maps (256, 256) and five captions.

        The example's `image_id` is `index`.

        Raises:
          IndexError: `index` is not in 0..count-1.
        """
        if not 0 <= index < self._count:
            raise IndexError(
                f'scene {index} of {self._count}: the index must be 0..{self._count - 1}'
            )
        entropy = np.random.SeedSequence(self._seed, spawn_key=(self._stream, int(index)))
        generator = np.random.Generator(np.random.Philox(entropy))
        # Layout, captions and painting draw from one generator, in this order.
        layout, footprints, order = visible_layout(generator, repeats=self._repeats)
        category, instance = draw_maps(layout, order)
        things = [(thing.category, thing.colour) for thing in layout.things]
        captions = scene_words.describe(things, layout.above, layout.below, generator)
        image = _paint(layout, footprints, generator)
        return Example(
            image=image,
            category=category,
            instance=instance,
            captions=captions,
            image_id=int(index),
        )


def _paint(
    layout: Layout, footprints: list[Footprint], generator: np.random.Generator
) -> np.ndarray:
    """(256, 256, 3) uint8: stuff, things in front of it, then light over the whole image."""
    # Channels come first and most steps work in place, so few large arrays are made.
    image = _paint_stuff(layout, generator)  # (3, 256, 256)
    for thing, footprint in zip(layout.things, footprints, strict=True):
        _paint_thing(image, thing, footprint)
    image *= _light(generator)
    np.clip(image, 0, 255, out=image)
    # The cast below cuts fractions off, so adding a half rounds.
    image += np.float32(0.5)
    pixels = np.empty((SIZE, SIZE, 3), np.uint8)
    for channel, plane in enumerate(image):
        pixels[..., channel] = plane
    return pixels


def _paint_stuff(layout: Layout, generator: np.random.Generator) -> np.ndarray:
    """(3, 256, 256) float32 in levels of 0..255: both kinds of stuff with their textures."""
    row = np.arange(SIZE, dtype=np.float32)[:, None] + 0.5
    # Along the horizon a pixel holds a share of both kinds, which makes the edge soft.
    share_below = np.clip(row - layout.horizon + 0.5, 0, 1)  # (256, 256)
    texture_above = _texture(layout.above, generator)
    texture_below = _texture(layout.below, generator)
    texture = texture_above + share_below * (texture_below - texture_above)
    above = np.array(scene_words.STUFF_COLOURS[layout.above], np.float32)
    below = np.array(scene_words.STUFF_COLOURS[layout.below], np.float32)
    image = np.empty((3, SIZE, SIZE), np.float32)
    for channel, plane in enumerate(image):
        np.multiply(share_below, below[channel] - above[channel], out=plane)
        plane += above[channel]
        plane += texture
    return image


def _paint_thing(image: np.ndarray, thing: Thing, footprint: Footprint) -> None:
    """Blends one thing into the image: brighter to the upper left, with a thin darker rim."""
    rows, columns, distance = footprint
    # The share of each pixel that the thing covers, which makes its edge soft.
    cover = np.clip(0.5 - distance, 0, 1)
    shade = np.clip(-distance, 0, 2) * np.float32(0.125) + np.float32(0.75)
    slope = np.float32(-0.06 / thing.size)
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    x = np.arange(columns.start, columns.stop, dtype=np.float32)
    shade += slope * (y - thing.centre[0])
    shade += slope * (x - thing.centre[1])
    colour = scene_words.THING_COLOURS[thing.colour]
    for plane, value in zip(image, colour, strict=True):
        window = plane[rows, columns]
        window += cover * (shade * np.float32(value) - window)


def _light(generator: np.random.Generator) -> np.ndarray:
    """(256, 256) float32 within 0.88..1.12: brightness that changes smoothly across the image."""
    overall, slope, angle = generator.uniform((0.96, 0, 0), (1.04, 0.08, 2 * np.pi))
    # The corners are sqrt(2) away, so the slope is divided by it to stay within the range.
    along = np.linspace(-1, 1, SIZE, dtype=np.float32) * np.float32(slope / np.sqrt(2))
    down = np.sin(angle, dtype=np.float32) * along[:, None]
    across = np.cos(angle, dtype=np.float32) * along
    return np.float32(overall) + down + across


# {stuff id: (kind of texture, strength in levels of 0..255)}. The mean of a texture over a cell is
# small beside the distances between colours, so the oracle still reads the cell right.
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

# {kind of texture: (exponent, height, width)}, the arguments of `_noise`.
_NOISES = {
    'clouds': (1.4, 12, 24),
    'layers': (1.4, 6, 60),
    'blades': (1.0, 5, 1),
    'ripples': (1.2, 2, 12),
    'grain': (0.4, 1, 1),
}


def _texture(stuff: int, generator: np.random.Generator) -> np.ndarray:
    """(256, 256) float32 in levels: a random window of the stuff's texture."""
    kind, strength = _TEXTURES[stuff]
    top, left = generator.integers(0, SIZE, 2)
    window = _tile(kind)[top : top + SIZE, left : left + SIZE]
    return window * np.float32(strength)


@functools.cache
def _tile(kind: str) -> np.ndarray:
    """(512, 512) float32 of about unit strength, the same in all processes.

    Each process draws a tile once: a tile takes eight times as long as a whole scene.
    """
    if kind == 'bricks':
        return _brick_tile()
    if kind == 'stars':
        return _star_tile()
    exponent, height, width = _NOISES[kind]
    return np.clip(_noise(exponent, height, width), -2.5, 2.5)


def _brick_tile() -> np.ndarray:
    row, column = np.indices((2 * SIZE, 2 * SIZE))
    # Every second row of bricks is shifted by half a brick.
    shifted = column + 16 * (row // 16 % 2)
    joints = (row % 16 < 2) | (shifted % 32 < 2)
    noise = _noise(0.5, 1, 1)
    return (0.4 * noise + 2.0 * joints).astype(np.float32)


def _star_tile() -> np.ndarray:
    bright = (_noise(0, 1, 1) > 3.2).astype(np.float32)
    glow = np.roll(bright, 1, axis=0) + np.roll(bright, 1, axis=1)
    return bright + 0.5 * glow


def _noise(exponent: float, height: float, width: float) -> np.ndarray:
    """(512, 512) float32: periodic Gaussian noise of unit variance.

    Args:
      exponent: How fast fine detail fades; 0 gives white noise.
      height: About how many pixels the noise stays alike from top to bottom.
      width: About how many pixels it stays alike from left to right.
    """
    generator = np.random.Generator(np.random.Philox(VERSION))
    white = generator.standard_normal((2 * SIZE, 2 * SIZE))
    y = np.fft.fftfreq(2 * SIZE)[:, None] * 2 * np.pi * height
    x = np.fft.rfftfreq(2 * SIZE)[None, :] * 2 * np.pi * width
    fading = (1 + y * y + x * x) ** -exponent
    smooth = np.fft.irfft2(np.fft.rfft2(white) * fading)
    normal = (smooth - smooth.mean()) / smooth.std()
    return normal.astype(np.float32)
