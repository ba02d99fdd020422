"""The kinds of values that settings have: whole numbers, numbers, truth values, texts, choices.

A kind says whether a value is of it, and in words what would be. `command/fields.py` gives every
setting its kind.
"""

import math
import numbers
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a setting may be.

    Attributes:
      expected: What the value must be, as it stands behind 'it must be'.
      holds: Whether a value is of this kind; any object may be asked.
    """

    expected: str
    holds: Callable[[Any], bool]


def whole(least: int, most: int) -> Kind:
    """Whole numbers from `least` to `most`; truth values and 2.0 are none."""
    return Kind(
        f'a whole number from {least:,} to {most:,}',
        lambda value: _is_number(value, numbers.Integral) and least <= value <= most,
    )


def number(least: float, most: float, *, above: bool = False) -> Kind:
    """Finite numbers from `least` to `most`, also whole ones.

    Args:
      least: The smallest.
      most: The largest.
      above: Whether `least` itself is not allowed.
    """
    low = f'above {least:g} and at most {most:,g}' if above else f'from {least:g} to {most:,g}'
    return Kind(f'a number {low}', lambda value: _is_between(value, least, most, above=above))


def pair(kind: Kind) -> Kind:
    """Two values of one kind, as a tuple or list."""

    def holds(value):
        return isinstance(value, tuple | list) and len(value) == 2 and all(map(kind.holds, value))

    return Kind(f'two values, such as (0.9, 0.9), each {kind.expected}', holds)


def below_one() -> Kind:
    """Numbers from 0 on and below 1."""
    return Kind(
        'a number from 0 on and below 1', lambda value: _is_between(value, 0, 1) and value < 1
    )


def truth() -> Kind:
    """True or False."""
    return Kind('True or False', lambda value: isinstance(value, bool))


def choice(values: Sequence[Any]) -> Kind:
    """One of some values, of the same type: True is not 1."""

    def holds(value):
        return any(type(value) is type(each) and value == each for each in values)

    return Kind('one of ' + ', '.join(map(repr, values)), holds)


def whole_or(least: int, most: int, *, word: int) -> Kind:
    """Whole numbers from `least` to `most`, or `word`, a number with a meaning of its own."""
    inside = whole(least, most)
    return Kind(
        f'{word} or {inside.expected}',
        lambda value: (
            inside.holds(value) or (_is_number(value, numbers.Integral) and value == word)
        ),
    )


def text(*, empty: bool, what: str = 'one line of text') -> Kind:
    """One line of text in valid Unicode.

    Args:
      empty: Whether '' is allowed; a text of blanks alone never is.
      what: The text in words.
    """

    def holds(value):
        return is_line(value) and (bool(value.strip()) or (empty and not value))

    return Kind(f"{what}, or ''" if empty else f'{what}, not empty', holds)


def path(where: str = 'bucket', *, empty: bool) -> Kind:
    """A path of a file or folder.

    Args:
      where: The farthest place where it may lie: 'local', 'bucket' (gs://) or 'hub' (hf://).
        `files.connect` refuses all other schemes.
      empty: Whether '' is allowed.
    """
    places, refused = {
        'local': ('a local path of one line', ('gs://', 'hf://')),
        'bucket': ('a path of one line, local or gs://', ('hf://',)),
        'hub': ('a path of one line, local, gs:// or hf://', ()),
    }[where]
    line = text(empty=empty, what=places)
    return Kind(
        line.expected, lambda value: line.holds(value) and not value.startswith(tuple(refused))
    )


def name(*, empty: bool) -> Kind:
    """A plain name of a file or folder: no path, and nothing that stands for another folder."""

    def holds(value):
        if not is_line(value):
            return False
        if not value:
            return empty
        is_plain = not set(value) & set('/\\') and value not in ('.', '..')
        # Blanks at the ends are not seen in a listing, and some file systems drop them.
        return is_plain and value == value.strip() and len(value.encode()) <= 255

    condition = " or ''" if empty else ''
    return Kind(f'a plain name without / and \\{condition}', holds)


def patterns() -> Kind:
    """Patterns of names with commas between them; '' for none."""
    return Kind("one line of patterns such as 'ema.*,*.bias', or ''", is_line)


def is_line(value: Any) -> bool:
    """Whether a value is a text of one line: neither breaks, controls nor broken Unicode."""
    if not isinstance(value, str):
        return False
    # Cc: control characters, Cs: what the shell passes on of bytes that are no UTF-8.
    refused = {'Cc', 'Cs', 'Zl', 'Zp'}
    return all(each == '\t' or unicodedata.category(each) not in refused for each in value)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_between(value: Any, least: float, most: float, *, above: bool = False) -> bool:
    if not _is_number(value, numbers.Real):
        return False
    # Comparisons come first: a huge whole number has no float that `math` could look at.
    inside = least < value <= most if above else least <= value <= most
    return bool(inside) and math.isfinite(value)
