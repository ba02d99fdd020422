"""The ruler of a report, an SVG figure inside the page on which a value is read.

This module draws by class name; `export/report.css` holds the colours and fonts of the classes.
`export/report.py` puts the figure on the page, and `export/loss_curve.py` draws its other figure.
"""

import html
from collections.abc import Mapping, Sequence

# Lengths in units of the SVG.
_WIDTH, _MARGIN = 400, 8
_LINE = 14  # height of the scale, from the top
_ROW = 15  # height of a row of names
_HALF_CHARACTER = 3.1  # about half the width of a character at 11 px


def ruler(value: float, marks: Mapping[str, float], low: float, high: float) -> str:
    """A value as a dot on a line from low to high, beside named marks that put it in proportion.

    Args:
      value: The value; a value that lies outside is drawn at the nearer end.
      marks: Names to values on the same scale.
      low: Left end of the scale.
      high: Right end of the scale, above `low`.

    Returns:
      An <svg> element. Names that would overlap stand in separate rows.
    """

    def place(number: float) -> float:
        share = (number - low) / (high - low)
        within = min(1.0, max(0.0, share))
        return _MARGIN + within * (_WIDTH - 2 * _MARGIN)

    row_ends: list[float] = []  # for each row of names, where its last name ends
    lines = []
    labels = []
    for name, number in sorted(marks.items(), key=lambda item: item[1]):
        text = f'{name} {number:.3g}'
        x = place(number)
        half = _HALF_CHARACTER * len(text)
        # A name near an end moves inwards, so that the drawing does not cut it off.
        centre = min(max(x, half), _WIDTH - half)
        row = _free_row(row_ends, centre - half)
        row_ends[row : row + 1] = [centre + half]
        y = _LINE + 24 + _ROW * row
        top, bottom = _LINE - 6, y - 11
        lines.append(f'<line class="mark" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        escaped = html.escape(text)
        labels.append(f'<text x="{centre:.1f}" y="{y}" text-anchor="middle">{escaped}</text>')
    height = _LINE + 14 + _ROW * len(row_ends)
    start, end = _MARGIN, _WIDTH - _MARGIN
    return (
        f'<svg class="ruler" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{value:.3g} on a scale from {low:g} to {high:g}">'
        f'<line class="scale" x1="{start}" y1="{_LINE}" x2="{end}" y2="{_LINE}"/>'
        f'{"".join(lines)}{"".join(labels)}'
        f'<circle class="value" cx="{place(value):.1f}" cy="{_LINE}" r="6"/></svg>'
    )


def _free_row(row_ends: Sequence[float], start: float) -> int:
    """The first row whose last name leaves room for a name that begins at `start`."""
    for row, end in enumerate(row_ends):
        if start > end + 8:
            return row
    return len(row_ends)
