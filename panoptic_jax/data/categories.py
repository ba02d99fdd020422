"""Category lists and their colours: COCO's 133 as the default, renumbering, a fixed palette.

Ids are uint8 everywhere: 0 void, 1..254 categories, 255 reserved. A prepared data set's manifest
rules which categories exist; nothing here reads files.
"""

from collections.abc import Sequence

import numpy as np

from panoptic_jax.data.example import Category

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
    entries = (entry.split(maxsplit=1) for entry in text.replace('\n', ' ').split('; '))
    return [Category(int(number), name.strip(), is_thing) for number, name in entries]


COCO: tuple[Category, ...] = (*_parse(_COCO_THINGS, True), *_parse(_COCO_STUFF, False))


def remap(categories: Sequence[Category]) -> tuple[tuple[Category, ...], dict[int, int]]:
    """Fits a source's category list into ids 1..254.

    Args:
      categories: A source's categories; ids are any distinct integers.

    Returns:
      The categories with our ids, and {source's id: our id}. Ids stay as they are if all lie in
      1..254; otherwise they are numbered from 1, things first, else in the given order.

    Raises:
      ValueError: no categories, more than 254, or an id that occurs twice.
    """
    if not 1 <= len(categories) <= 254:
        raise ValueError(
            f'The category list has {len(categories)} entries; it must have 1 to 254, since ids '
            'are uint8 with 0 for void and 255 reserved: merge or drop some.'
        )
    seen = {}
    for category in categories:
        if category.id in seen:
            raise ValueError(
                f'Category id {category.id} stands for both {seen[category.id]!r} and '
                f'{category.name!r}; ids must be distinct: correct the category list.'
            )
        seen[category.id] = category.name
    if all(1 <= number <= 254 for number in seen):
        return tuple(categories), {number: number for number in seen}
    ordered = sorted(categories, key=lambda category: not category.is_thing)
    return (
        tuple(category._replace(id=i) for i, category in enumerate(ordered, start=1)),
        {category.id: i for i, category in enumerate(ordered, start=1)},
    )


def valid_codes(categories: Sequence[Category]) -> np.ndarray:
    """(n + 1,) uint8: void and the ids of `categories`, ascending; what a decoder may produce."""
    return np.array(sorted({0, *(category.id for category in categories)}), np.uint8)


def palette() -> np.ndarray:
    """(256, 3) uint8 RGB colour of every id, the same in all pictures of maps.

    Void is black and the reserved 255 white. The others come from a lattice of 7 levels per channel
    without its darkest and lightest corners, so any two are at least 42 apart; the stride is the
    one that keeps ids up to 4 apart farthest from each other (at least 118).
    """
    levels = np.arange(7) * 255 // 6
    lattice = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), axis=-1).reshape(-1, 3)
    brightness = lattice.sum(axis=1)
    lattice = lattice[(brightness >= 158) & (brightness <= 680)]
    colours = np.zeros((256, 3), np.uint8)
    colours[1:255] = lattice[np.arange(1, 255) * 235 % len(lattice)]
    colours[255] = 255
    return colours


def colour(ids: np.ndarray) -> np.ndarray:
    """Paints a map: (...) uint8 ids to (..., 3) uint8 RGB."""
    return palette()[ids]
