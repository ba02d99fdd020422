"""Things of scenes with repeats: several things of one kind, which touch or overlap.

A map of categories alone cannot tell such things apart. The image can: things of one kind that
touch have different colours, and things of one colour are of one kind and lie apart. So a caption
('two red circles, a blue circle and a pink star') still says what each colour is, and
`data/scene_segments.py` can read the things in an image. `data/scene_layout.py` decides the rest.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from panoptic_jax.data import scene_words
from panoptic_jax.data.scene_shapes import SIZE, Thing

_CELL = 8  # pixels, the oracle's
_MOST_GROUPS = 4  # so many things of different kinds or colours keep captions short
_SMALLEST_READING = 8  # cells, `scene_oracle.MIN_THING_CELLS`

# The order of the draws below is part of the data set, as in `data/scene_layout.py`.


def draw_things(generator: np.random.Generator) -> list[Thing]:
    """Two or three things of one kind, and up to two of other kinds, in random order of depth."""
    while True:
        things = _draw_once(generator)
        if not any(_too_near(*pair) for pair in itertools.combinations(things, 2)):
            return [things[index] for index in generator.permutation(len(things))]


def _draw_once(generator: np.random.Generator) -> list[Thing]:
    kinds = generator.permutation(list(scene_words.THINGS)).tolist()
    colours = generator.permutation(list(scene_words.THING_COLOURS)).tolist()
    alike = int(generator.integers(2, 4))
    used = [colours.pop()]
    for _ in range(alike - 1):
        # Half of the things repeat a colour, so that captions have numbers.
        is_new = generator.random() < 0.5
        used.append(colours.pop() if is_new else str(generator.choice(used)))
    # The colours of other kinds are new ones.
    most = min(2, _MOST_GROUPS - len(set(used)))
    others = int(generator.integers(0, most + 1))
    named = [(kinds[0], colour) for colour in used]
    named += [(kinds[1 + i], colours.pop()) for i in range(others)]
    things: list[Thing] = []
    for category, colour in named:
        size = float(generator.uniform(26, 40))
        centre = _draw_centre(generator, size, things, (category, colour))
        angle = float(generator.uniform(-0.5, 0.5))
        things.append(Thing(category, colour, centre, size, angle))
    return things


def _draw_centre(
    generator: np.random.Generator, size: float, things: list[Thing], name: tuple[int, str]
) -> tuple[float, float]:
    """Beside or in front of a thing of the kind in another colour; anywhere if there is none."""
    category, colour = name
    partners = [t for t in things if t.category == category and t.colour != colour]
    anywhere = generator.uniform(size, SIZE - size, 2)
    if not partners:
        return tuple(anywhere.tolist())
    partner = partners[generator.integers(len(partners))]
    angle, share = generator.uniform((0, 0.65), (2 * np.pi, 1.0))
    reach = share * (size + partner.size)
    beside = np.array(partner.centre) + reach * np.array([np.sin(angle), np.cos(angle)])
    return tuple(np.clip(beside, size, SIZE - size).tolist())


def _too_near(one: Thing, other: Thing) -> bool:
    distance = np.hypot(one.centre[0] - other.centre[0], one.centre[1] - other.centre[1])
    # Things of one colour lie apart; a cheap test before `are_told_apart`.
    factor = 1.3 if one.colour == other.colour else 0.6
    return distance < factor * (one.size + other.size)


def are_told_apart(things: Sequence[Thing], order: np.ndarray) -> bool:
    """Whether the things of each colour read as one area of cells each.

    Args:
      things: The things.
      order: (256, 256), the number of the front thing at each pixel, from 1.
    """
    colours = [thing.colour for thing in things]
    for colour in set(colours):
        numbers = [n for n, each in enumerate(colours, start=1) if each == colour]
        if len(numbers) == 1:
            continue
        touched = np.zeros((SIZE // _CELL, SIZE // _CELL), bool)
        for number in numbers:
            cells = (order == number).reshape(SIZE // _CELL, _CELL, SIZE // _CELL, _CELL)
            own = cells.any(axis=(1, 3))
            # Cells that touch by their sides would read as one area.
            if (ndimage.binary_dilation(own) & touched).any():
                return False
            touched |= own
            full = ndimage.binary_opening(cells.mean(axis=(1, 3)) > 0.5, np.ones((2, 2)))
            if ndimage.label(full)[1] != 1 or np.count_nonzero(full) < _SMALLEST_READING:
                return False
    return True
