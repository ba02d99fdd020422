"""The ruler of a page, on which a value is read: where on its scale everything stands.

`export/templates/scores.html.j2` draws it.
"""

from collections.abc import Mapping
from typing import NamedTuple

_CHARACTER = 0.022  # width of a character as a share of the scale, on the narrowest screens


class Mark(NamedTuple):
    """A yardstick on the scale.

    Attributes:
      text: Its name and value.
      place: Where its line stands, from 0 (left end) to 1.
      centre: Where its name stands.
      row: The row of its name, from 0.
    """

    text: str
    place: float
    centre: float
    row: int


class Ruler(NamedTuple):
    """A value's place on its scale, its yardsticks from the left, and the rows of their names."""

    place: float
    marks: tuple[Mark, ...]
    rows: int


def ruler(value: float, yardsticks: Mapping[str, float], low: float, high: float) -> Ruler:
    """Places a value on a line from low to high, beside yardsticks that put it in proportion.

    Args:
      value: The value; a value that lies outside is drawn at the nearer end.
      yardsticks: Names to values on the same scale.
      low: Left end of the scale.
      high: Right end of the scale, above `low`.

    Returns:
      The places. Names that would overlap get separate rows.
    """

    def place(number: float) -> float:
        return min(1.0, max(0.0, (number - low) / (high - low)))

    ends: list[float] = []  # for each row of names, where its last name ends
    marks = []
    for name, number in sorted(yardsticks.items(), key=lambda item: item[1]):
        text = f'{name} {number:.3g}'
        half = _CHARACTER * len(text) / 2
        # A name near an end moves inwards, so that it stays on the scale.
        centre = min(max(place(number), half), max(half, 1 - half))
        free = [row for row, end in enumerate(ends) if centre - half > end + _CHARACTER]
        row = free[0] if free else len(ends)
        ends[row : row + 1] = [centre + half]
        marks.append(Mark(text, place(number), centre, row))
    return Ruler(place(value), tuple(marks), len(ends))
