"""What a scene can hold and how captions say it: categories, colours, the grammar and its parser.

A caption names every thing with its colour and both kinds of stuff, so it determines what must be
visible. `data/scenes.py` paints scenes, and `data/scene_oracle.py` reads images back.
"""

import itertools
import re

import numpy as np

from panoptic_jax.data.example import Category

# {colour's name: RGB}. The colours of things and stuff lie apart in RGB, so that an image can be
# read back cell by cell: the nearest pair is 95 apart, and still 69 apart where the light brings
# two colours together.
THING_COLOURS = {
    'red': (232, 18, 50),
    'green': (96, 240, 62),
    'blue': (38, 62, 245),
    'yellow': (246, 244, 22),
    'pink': (250, 62, 228),
    'purple': (122, 14, 160),
}

# {category id: nouns}. The first noun is the category's name.
THINGS = {
    1: ('circle', 'disc'),
    2: ('square', 'box'),
    3: ('triangle',),
    4: ('star',),
    5: ('ring', 'hoop'),
    6: ('cross', 'plus'),
}

# {category id: phrases} for the stuff above and below the horizon. Stuff starts at 92, as in COCO.
ABOVE = {
    92: ('a clear sky', 'a bright sky'),
    93: ('a night sky', 'a starry sky'),
    94: ('a sunset', 'an evening sky'),
    95: ('a wall', 'a brick wall'),
}
BELOW = {
    96: ('grass', 'a lawn'),
    97: ('sand', 'a beach'),
    98: ('water', 'a lake'),
    99: ('a road', 'asphalt'),
    100: ('snow',),
}

STUFF_NAMES = {
    92: 'sky',
    93: 'night',
    94: 'sunset',
    95: 'wall',
    96: 'grass',
    97: 'sand',
    98: 'water',
    99: 'road',
    100: 'snow',
}

STUFF_COLOURS = {
    92: (104, 200, 252),
    93: (12, 12, 76),
    94: (252, 146, 66),
    95: (198, 124, 142),
    96: (30, 128, 24),
    97: (232, 222, 132),
    98: (10, 128, 158),
    99: (92, 92, 96),
    100: (228, 240, 250),
}

# {the one word of each phrase that tells the kind of stuff: category id}.
_STUFF_WORDS = {
    'clear': 92, 'bright': 92, 'night': 93, 'starry': 93, 'sunset': 94, 'evening': 94, 'wall': 95,
    'grass': 96, 'lawn': 96, 'sand': 97, 'beach': 97, 'water': 98, 'lake': 98, 'road': 99,
    'asphalt': 99, 'snow': 100,
}  # fmt: skip

_THING_WORDS = {noun: number for number, nouns in THINGS.items() for noun in nouns}

# One caption each. The order of things, above and below differs between them, so the place of a
# word does not tell its meaning.
TEMPLATES = (
    '{things} over {below} against {above}',
    '{above} above {below} with {things}',
    'on {below} before {above}, {things}',
    '{things}, {below} below and {above} above',
    '{below} and {above} behind {things}',
)


def _words(text: str) -> list[str]:
    return re.findall('[a-z]+', text.lower())


def _vocabulary() -> tuple[str, ...]:
    words = {'a', 'and', *THING_COLOURS, *_THING_WORDS}
    for phrases in (*ABOVE.values(), *BELOW.values()):
        for phrase in phrases:
            words.update(_words(phrase))
    for template in TEMPLATES:
        without_fields = re.sub('{.*?}', '', template)
        words.update(_words(without_fields))
    return tuple(sorted(words))


# Every word that a caption can hold, in lower case.
VOCABULARY = _vocabulary()


def categories() -> tuple[Category, ...]:
    """The scenes' category list: things from 1 and stuff from 92, as COCO numbers them."""
    things = [Category(number, nouns[0], is_thing=True) for number, nouns in THINGS.items()]
    stuff = [Category(number, name, is_thing=False) for number, name in STUFF_NAMES.items()]
    return (*things, *stuff)


def describe(
    things: list[tuple[int, str]], above: int, below: int, generator: np.random.Generator
) -> list[str]:
    """Five captions, each of which names every thing with its colour and both kinds of stuff.

    Each caption has its own sentence pattern, order of the things and synonyms.

    Args:
      things: (category id, colour name) of each thing.
      above: Category id of the stuff above the horizon.
      below: Category id of the stuff below the horizon.
      generator: Decides patterns, orders and synonyms.
    """

    def pick(phrases: tuple[str, ...]) -> str:
        return phrases[generator.integers(len(phrases))]

    # The order of the draws is part of the data set: another order gives other captions from the
    # same seed.
    captions = []
    for template in generator.permutation(TEMPLATES):
        order = generator.permutation(len(things))
        nouns = []
        for index in order:
            category, colour = things[index]
            noun = pick(THINGS[category])
            nouns.append(f'a {colour} {noun}')
        phrase_above = pick(ABOVE[above])
        phrase_below = pick(BELOW[below])
        caption = template.format(things=_join(nouns), above=phrase_above, below=phrase_below)
        captions.append(caption)
    return captions


def _join(nouns: list[str]) -> str:
    """'a', 'a and b', or 'a, b and c'."""
    *first, last = nouns
    return f'{", ".join(first)} and {last}' if first else last


def parse(caption: str) -> tuple[list[tuple[int, str]], int, int]:
    """Inverts `describe`: reads what a caption says of the scene.

    Args:
      caption: A sentence of the scenes' grammar, in any case and with any punctuation.

    Returns:
      things: [(category id, colour name), ...] in the caption's order.
      above: Category id of the stuff above the horizon.
      below: Category id of the stuff below the horizon.

    Raises:
      ValueError: the caption holds an unknown word or a thing without its colour, or does not name
        one kind of stuff above and one below.
    """
    words = _words(caption)
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise ValueError(
            f'caption {caption!r} has the word {unknown[0]!r}, which scenes do not use; '
            f'their words are: {", ".join(VOCABULARY)}'
        )
    things = []
    for colour, noun in itertools.pairwise(words):
        if colour in THING_COLOURS and noun in _THING_WORDS:
            things.append((_THING_WORDS[noun], colour))
    # A colour or a noun that stands alone is in no pair.
    thing_words = [word for word in words if word in THING_COLOURS or word in _THING_WORDS]
    all_paired = len(thing_words) == 2 * len(things)
    stuff = [_STUFF_WORDS[word] for word in words if word in _STUFF_WORDS]
    above = [category for category in stuff if category in ABOVE]
    below = [category for category in stuff if category in BELOW]
    if not things or not all_paired or len(above) != 1 or len(below) != 1:
        raise ValueError(
            f'caption {caption!r} names {len(things)} things with their colour, {len(above)} kinds '
            f'of stuff above and {len(below)} below; a scene caption names each thing as colour '
            'and noun, and one kind of stuff above and one below'
        )
    return things, above[0], below[0]
