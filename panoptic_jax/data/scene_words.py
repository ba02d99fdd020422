"""What a scene can hold and how it is said: categories, colours, the caption grammar, its parser.

A caption names every thing with its colour and both kinds of stuff, so it determines what must be
seen. Drawing is in `scenes.py`, reading pictures in `scene_oracle.py`.
"""

import itertools
import re

import numpy as np

from panoptic_jax.data.example import Category

THING_COLOURS = {
    'red': (232, 18, 50),
    'green': (96, 240, 62),
    'blue': (38, 62, 245),
    'yellow': (246, 244, 22),
    'pink': (250, 62, 228),
    'purple': (122, 14, 160),
}
"""Attribute -> RGB. With STUFF_COLOURS spread out in RGB, so that a picture can be read back cell
by cell: the nearest pair is 95 apart, and still 69 where the light brings two colours together."""

THINGS = {
    1: ('circle', 'disc'),
    2: ('square', 'box'),
    3: ('triangle',),
    4: ('star',),
    5: ('ring', 'hoop'),
    6: ('cross', 'plus'),
}
"""Category id -> nouns; the first is the category's name."""

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
"""Category id -> phrases for the stuff above and below the horizon."""

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

_STUFF_WORDS = {
    'clear': 92, 'bright': 92, 'night': 93, 'starry': 93, 'sunset': 94, 'evening': 94, 'wall': 95,
    'grass': 96, 'lawn': 96, 'sand': 97, 'beach': 97, 'water': 98, 'lake': 98, 'road': 99,
    'asphalt': 99, 'snow': 100,
}  # fmt: skip
"""The one word of each phrase that tells the kind of stuff."""

_THING_WORDS = {noun: identity for identity, nouns in THINGS.items() for noun in nouns}

TEMPLATES = (
    '{things} over {below} against {above}',
    '{above} above {below} with {things}',
    'on {below} before {above}, {things}',
    '{things}, {below} below and {above} above',
    '{below} and {above} behind {things}',
)
"""One caption each; every sentence order of things, above and below occurs once or more."""


def _words(text: str) -> list[str]:
    return re.findall('[a-z]+', text.lower())


VOCABULARY = tuple(
    sorted(
        {'a', 'and', *THING_COLOURS, *_THING_WORDS}
        | {
            word
            for kinds in (ABOVE, BELOW)
            for phrases in kinds.values()
            for word in _words(' '.join(phrases))
        }
        | {word for template in TEMPLATES for word in _words(re.sub('{.*?}', '', template))}
    )
)
"""Every word that a caption can hold, in lower case."""


def categories() -> tuple[Category, ...]:
    """The scenes' category list: things from 1, stuff from 92, as COCO numbers them."""
    things = [Category(identity, nouns[0], True) for identity, nouns in THINGS.items()]
    return (*things, *(Category(identity, name, False) for identity, name in STUFF_NAMES.items()))


def describe(
    things: list[tuple[int, str]], above: int, below: int, generator: np.random.Generator
) -> list[str]:
    """Five captions, each naming every thing with its colour and both kinds of stuff.

    Each caption has its own sentence pattern, order of the things and synonyms.

    Args:
      things: (category id, colour name) of each thing.
      above: category id of the stuff above the horizon.
      below: category id of the stuff below it.
      generator: decides patterns, orders and synonyms.
    """

    def pick(phrases: tuple[str, ...]) -> str:
        return phrases[generator.integers(len(phrases))]

    captions = []
    for template in generator.permutation(TEMPLATES):
        shuffled = [things[index] for index in generator.permutation(len(things))]
        nouns = [f'a {colour} {pick(THINGS[identity])}' for identity, colour in shuffled]
        listed = ' and '.join(filter(None, [', '.join(nouns[:-1]), nouns[-1]]))
        captions.append(
            template.format(things=listed, above=pick(ABOVE[above]), below=pick(BELOW[below]))
        )
    return captions


def parse(caption: str) -> tuple[list[tuple[int, str]], int, int]:
    """Inverts `describe`: what a caption says is in the picture.

    Args:
      caption: a sentence of the scenes' grammar, in any case and punctuation.

    Returns:
      ([(category id, colour name), ...] in the caption's order, stuff id above, stuff id below).

    Raises:
      ValueError: an unknown word, a thing without colour, or not one kind of stuff above and below.
    """
    words = _words(caption)
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise ValueError(
            f'caption {caption!r} has the word {unknown[0]!r}, which scenes do not use; '
            f'their words are: {", ".join(VOCABULARY)}'
        )
    things = [
        (_THING_WORDS[noun], colour)
        for colour, noun in itertools.pairwise(words)
        if colour in THING_COLOURS and noun in _THING_WORDS
    ]
    named = sum(word in THING_COLOURS or word in _THING_WORDS for word in words)
    stuff = [_STUFF_WORDS[word] for word in words if word in _STUFF_WORDS]
    above = [identity for identity in stuff if identity in ABOVE]
    below = [identity for identity in stuff if identity in BELOW]
    if not things or named != 2 * len(things) or len(above) != 1 or len(below) != 1:
        raise ValueError(
            f'caption {caption!r} names {len(things)} things with their colour, {len(above)} kinds '
            f'of stuff above and {len(below)} below; a scene caption names each thing as colour '
            'and noun, and one kind of stuff above and one below'
        )
    return things, above[0], below[0]
