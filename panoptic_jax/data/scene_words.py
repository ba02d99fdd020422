"""What a scene can hold and how captions say it: categories, colours, the grammar and its parser.

A caption names every thing with its colour and both kinds of stuff, so it determines what must be
visible. `data/scenes.py` paints scenes, and `data/scene_oracle.py` reads images back.
"""

import collections
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

_PLURALS = {'box': 'boxes', 'cross': 'crosses', 'plus': 'pluses'}  # the others end in s
# {things of one shape and colour: the word before them}; scenes without repeats have one of each.
NUMBERS = {1: 'a', 2: 'two', 3: 'three'}

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


def plural(noun: str) -> str:
    """The word for several things."""
    return _PLURALS.get(noun, noun + 's')


_THING_WORDS = {noun: number for number, nouns in THINGS.items() for noun in nouns}
_PLURAL_WORDS = {plural(noun): number for noun, number in _THING_WORDS.items()}
_COUNTS = {word: count for count, word in NUMBERS.items() if count > 1}

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
    words = {'and', *NUMBERS.values(), *THING_COLOURS, *_THING_WORDS, *_PLURAL_WORDS}
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

    Each caption has its own sentence pattern, order of the things and synonyms. Things of one
    category and colour are named together: 'two red circles'.

    Args:
      things: (category id, colour name) of each thing; at most three of them are the same.
      above: Category id of the stuff above the horizon.
      below: Category id of the stuff below the horizon.
      generator: Decides patterns, orders and synonyms.
    """

    def pick(phrases: tuple[str, ...]) -> str:
        return phrases[generator.integers(len(phrases))]

    # The order of the draws is part of the data set: another order gives other captions from the
    # same seed.
    captions = []
    groups = list(collections.Counter(things).items())  # in the order of their first things
    for template in generator.permutation(TEMPLATES):
        order = generator.permutation(len(groups))
        nouns = []
        for index in order:
            (category, colour), count = groups[index]
            noun = pick(THINGS[category])
            if count > 1:
                noun = plural(noun)
            nouns.append(f'{NUMBERS[count]} {colour} {noun}')
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
      things: [(category id, colour name), ...] in the caption's order; 'two red circles' are two
        entries.
      above: Category id of the stuff above the horizon.
      below: Category id of the stuff below the horizon.

    Raises:
      ValueError: the caption holds an unknown word, a thing without its colour or a number that
        does not fit its noun, or does not name one kind of stuff above and one below.
    """
    words = _words(caption)
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise ValueError(
            f'caption {caption!r} has the word {unknown[0]!r}, which scenes do not use; '
            f'their words are: {", ".join(VOCABULARY)}'
        )
    things, named = [], 0
    for before, (colour, noun) in zip(['', *words], itertools.pairwise(words), strict=False):
        if colour not in THING_COLOURS:
            continue
        if noun in _THING_WORDS and before not in _COUNTS:
            things.append((_THING_WORDS[noun], colour))
            named += 2
        elif noun in _PLURAL_WORDS and before in _COUNTS:
            things += [(_PLURAL_WORDS[noun], colour)] * _COUNTS[before]
            named += 3
    # A colour, a noun or a number that stands alone is part of no thing.
    parts = {*THING_COLOURS, *_THING_WORDS, *_PLURAL_WORDS, *_COUNTS}
    all_paired = sum(word in parts for word in words) == named
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
