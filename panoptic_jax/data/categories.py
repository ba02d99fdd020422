"""Category lists and their colours: COCO's 133 as the default, renumbering, a fixed palette.

Ids are uint8 everywhere: 0 is void, 1..254 are categories, 255 is reserved. The manifest of a
prepared data set decides which categories exist (`data/manifest.py`). Nothing here reads files.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from panoptic_jax.data.example import Category

# COCO's own ids, which leave gaps: categories that COCO dropped kept their numbers. Every id fits
# into 1..254, so maps of COCO keep these numbers and other tools can read them.
_COCO_THINGS = """
1 person; 2 bicycle; 3 car; 4 motorcycle; 5 airplane; 6 bus; 7 train; 8 truck; 9 boat;
10 traffic light; 11 fire hydrant; 13 stop sign; 14 parking meter; 15 bench; 16 bird;
17 cat; 18 dog; 19 horse; 20 sheep; 21 cow; 22 elephant; 23 bear; 24 zebra; 25 giraffe;
27 backpack; 28 umbrella; 31 handbag; 32 tie; 33 suitcase; 34 frisbee; 35 skis;
36 snowboard; 37 sports ball; 38 kite; 39 baseball bat; 40 baseball glove; 41 skateboard;
42 surfboard; 43 tennis racket; 44 bottle; 46 wine glass; 47 cup; 48 fork; 49 knife;
50 spoon; 51 bowl; 52 banana; 53 apple; 54 sandwich; 55 orange; 56 broccoli; 57 carrot;
58 hot dog; 59 pizza; 60 donut; 61 cake; 62 chair; 63 couch; 64 potted plant; 65 bed;
67 dining table; 70 toilet; 72 tv; 73 laptop; 74 mouse; 75 remote; 76 keyboard;
77 cell phone; 78 microwave; 79 oven; 80 toaster; 81 sink; 82 refrigerator; 84 book;
85 clock; 86 vase; 87 scissors; 88 teddy bear; 89 hair drier; 90 toothbrush
"""

_COCO_STUFF = """
92 banner; 93 blanket; 95 bridge; 100 cardboard; 107 counter; 109 curtain; 112 door-stuff;
118 floor-wood; 119 flower; 122 fruit; 125 gravel; 128 house; 130 light; 133 mirror-stuff;
138 net; 141 pillow; 144 platform; 145 playingfield; 147 railroad; 148 river; 149 road;
151 roof; 154 sand; 155 sea; 156 shelf; 159 snow; 161 stairs; 166 tent; 168 towel;
171 wall-brick; 175 wall-stone; 176 wall-tile; 177 wall-wood; 178 water-other;
180 window-blind; 181 window-other; 184 tree-merged; 185 fence-merged; 186 ceiling-merged;
187 sky-other-merged; 188 cabinet-merged; 189 table-merged; 190 floor-other-merged;
191 pavement-merged; 192 mountain-merged; 193 grass-merged; 194 dirt-merged;
195 paper-merged; 196 food-other-merged; 197 building-other-merged; 198 rock-merged;
199 wall-other-merged; 200 rug-merged
"""


def _parse(text: str, is_thing: bool) -> list[Category]:
    """Categories of a text '1 person; 2 bicycle; ...'."""
    categories = []
    for entry in text.replace('\n', ' ').split('; '):
        # A name may hold spaces ('traffic light'), so only the first space separates.
        number, name = entry.split(maxsplit=1)
        categories.append(Category(int(number), name.strip(), is_thing))
    return categories


COCO: tuple[Category, ...] = (
    *_parse(_COCO_THINGS, is_thing=True),
    *_parse(_COCO_STUFF, is_thing=False),
)


def remap(categories: Sequence[Category]) -> tuple[tuple[Category, ...], dict[int, int]]:
    """Fits a source's category list into ids 1..254.

    Args:
      categories: A source's categories; ids are any distinct integers.

    Returns:
      The categories with our ids, and {source's id: our id}. If all ids lie in 1..254, the ids stay
      as they are. Otherwise the categories are numbered from 1: first the things, then the stuff,
      both in the given order.

    Raises:
      ValueError: the list is empty, has more than 254 entries, or holds an id twice.
    """
    if not 1 <= len(categories) <= 254:
        raise ValueError(
            f'The category list has {len(categories)} entries; it must have 1 to 254, since ids '
            'are uint8 with 0 for void and 255 reserved: merge or drop some.'
        )
    names = {}
    for category in categories:
        if category.id in names:
            raise ValueError(
                f'Category id {category.id} stands for both {names[category.id]!r} and '
                f'{category.name!r}; ids must be distinct: correct the category list.'
            )
        names[category.id] = category.name
    if all(1 <= number <= 254 for number in names):
        return tuple(categories), {number: number for number in names}
    # Things first, as in COCO: min-pooling lets the smaller id win, and things must win over stuff.
    ordered = sorted(categories, key=lambda category: not category.is_thing)
    renumbered = []
    our_ids = {}
    for our_id, category in enumerate(ordered, start=1):
        renumbered.append(category._replace(id=our_id))
        our_ids[category.id] = our_id
    return tuple(renumbered), our_ids


def things_of(categories: Iterable[Category]) -> frozenset[int]:
    """The ids of the categories that are things."""
    return frozenset(entry.id for entry in categories if entry.is_thing)


def valid_codes(categories: Sequence[Category]) -> np.ndarray:
    """(n + 1,) uint8 codes that a decoder may produce: void and the ids of `categories`, sorted."""
    codes = {0}
    codes.update(category.id for category in categories)
    return np.array(sorted(codes), np.uint8)


def palette() -> np.ndarray:
    """(256, 3) uint8 RGB colour of every id; every picture of a map uses these colours.

    Void is black and the reserved id 255 is white. The other colours come from a lattice of 7
    levels per channel without its darkest and lightest corners, so any two colours are at least 42
    apart.
    """
    levels = np.arange(7) * 255 // 6
    grid = np.meshgrid(levels, levels, levels, indexing='ij')
    lattice = np.stack(grid, axis=-1).reshape(-1, 3)  # (343, 3)
    brightness = lattice.sum(axis=1)
    # Dark colours look like void and light ones like the reserved id.
    lattice = lattice[(brightness >= 158) & (brightness <= 680)]
    # Related categories have neighbouring ids. Of all strides, 235 keeps ids up to 4 apart farthest
    # from each other: at least 118.
    positions = np.arange(1, 255) * 235 % len(lattice)
    colours = np.zeros((256, 3), np.uint8)
    colours[1:255] = lattice[positions]
    colours[255] = 255
    return colours


def colour(ids: np.ndarray) -> np.ndarray:
    """Paints a map: (...) uint8 ids become (..., 3) uint8 RGB."""
    return palette()[ids]
