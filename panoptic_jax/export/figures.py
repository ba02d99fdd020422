"""Small inline SVG figures of a report: the loss curve and the ruler that a value is read on.

Colours and fonts are the page's: everything is drawn by class, `report.css` says how it looks.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 64, 14, 44  # margins of the loss curve
_POINTS = 240  # of a drawn curve; longer ones are averaged


def loss_curve(lines: Sequence[Mapping[str, Any]]) -> str:
    """The loss of each stream over the steps, both axes logarithmic.

    Args:
      lines: what `json_lines.read` gives for metrics.jsonl; `step`, `loss_image` and `loss_map` are
        used, missing and non-positive values left out.

    Returns:
      An <svg> element: each stream faint as logged and bold as its running mean; a sentence where
      no stream has two points.
    """
    curves = {}
    for name, label in (('loss_image', 'image'), ('loss_map', 'map')):
        points = [
            (line['step'], line[name])
            for line in lines
            if line['step'] > 0 and line.get(name) is not None and line[name] > 0
        ]
        if len(points) > 1:
            curves[label] = np.log10(np.array(points, np.float64))
    if not curves:
        return '<p class="empty">No loss curve was recorded.</p>'

    everything = np.concatenate([*curves.values()])
    (left, low), (right, high) = everything.min(axis=0), everything.max(axis=0)
    low, high = low - 0.06 * (high - low) - 0.01, high + 0.06 * (high - low) + 0.01

    def place(points: np.ndarray) -> np.ndarray:
        x = (points[:, 0] - left) / max(right - left, 1e-9)
        y = (points[:, 1] - low) / (high - low)
        return np.stack(
            [
                _LEFT + x * (_WIDTH - _LEFT - _RIGHT),
                _HEIGHT - _BOTTOM - y * (_HEIGHT - _TOP - _BOTTOM),
            ],
            axis=1,
        )

    parts = [
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="Training loss of each stream over the steps, logarithmic axes">'
    ]
    bottom, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in _ticks(left, right):
        x = place(np.array([[math.log10(tick), low]]))[0, 0]
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{tick:,g}</text>')
    for tick in _ticks(low, high):
        y = place(np.array([[left, math.log10(tick)]]))[0, 1]
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,.10g}</text>')
    middle = (_LEFT + end) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">training step</text>')
    parts.append(
        f'<text transform="translate(13 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        'loss</text>'
    )
    ends = []
    for label, points in curves.items():
        points = _thin(points)
        smooth = place(np.stack([points[:, 0], _running_mean(points[:, 1])], axis=1))
        parts.append(f'<polyline class="raw {label}" points="{_coordinates(place(points))}"/>')
        parts.append(f'<polyline class="mean {label}" points="{_coordinates(smooth)}"/>')
        ends.append([smooth[-1, 1], label])
    ends.sort()
    if len(ends) == 2 and ends[1][0] - ends[0][0] < 15:  # keep the two names apart
        centre = (ends[0][0] + ends[1][0]) / 2
        ends[0][0], ends[1][0] = centre - 7.5, centre + 7.5
    for y, label in ends:
        parts.append(f'<text class="name {label}" x="{end + 8}" y="{y + 4:.1f}">{label}</text>')
    return ''.join([*parts, '</svg>'])


def ruler(value: float, marks: Mapping[str, float], low: float, high: float) -> str:
    """A value as a dot on a line from low to high, beside named marks that put it in proportion.

    Args:
      value: drawn at the nearer end where it lies outside.
      marks: names to values on the same scale.
      low: left end.
      high: right end, above `low`.

    Returns:
      An <svg> element; marks that would overlap are named in separate rows.
    """
    width, line_y = 400, 14

    def place(number: float) -> float:
        return 8 + min(1.0, max(0.0, (number - low) / (high - low))) * (width - 16)

    row_ends: list[float] = []
    parts, labels = [], []
    for name, number in sorted(marks.items(), key=lambda item: item[1]):
        x = place(number)
        text = f'{name} {number:.3g}'
        half = 3.1 * len(text)  # about half of what the text takes up at 11 px
        centre = min(max(x, half), width - half)
        row = next(
            (i for i, taken in enumerate(row_ends) if centre - half > taken + 8), len(row_ends)
        )
        row_ends[row : row + 1] = [centre + half]
        y = line_y + 24 + 15 * row
        parts.append(
            f'<line class="mark" x1="{x:.1f}" y1="{line_y - 6}" x2="{x:.1f}" y2="{y - 11}"/>'
        )
        labels.append(
            f'<text x="{centre:.1f}" y="{y}" text-anchor="middle">{html.escape(text)}</text>'
        )
    height = line_y + 14 + 15 * len(row_ends)
    return (
        f'<svg class="ruler" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{value:.3g} on a scale from {low:g} to {high:g}">'
        f'<line class="scale" x1="8" y1="{line_y}" x2="{width - 8}" y2="{line_y}"/>'
        f'{"".join(parts)}{"".join(labels)}'
        f'<circle class="value" cx="{place(value):.1f}" cy="{line_y}" r="6"/></svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten: 1-2-5 steps, or decades where those are many."""
    decades = range(math.floor(low) - 1, math.ceil(high) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        found = [
            factor * 10.0**decade
            for decade in decades
            for factor in factors
            if low <= math.log10(factor) + decade <= high
        ]
        if len(found) <= 8:
            break
    return found


def _thin(points: np.ndarray) -> np.ndarray:
    """Means over as many runs of neighbours as can be seen, even along the (logarithmic) axis."""
    if len(points) <= _POINTS:
        return points
    edges = np.linspace(points[0, 0], points[-1, 0], _POINTS + 1)[1:-1]
    runs = np.split(points, np.unique(np.searchsorted(points[:, 0], edges)))
    return np.array([run.mean(axis=0) for run in runs if len(run)])


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean over about a twelfth of the curve, over less at both ends."""
    half = max(1, len(values) // 24)
    sums = np.concatenate([[0], np.cumsum(values)])
    reach = np.minimum(half, np.minimum(np.arange(len(values)), np.arange(len(values))[::-1]))
    centres = np.arange(len(values))
    return (sums[centres + reach + 1] - sums[centres - reach]) / (2 * reach + 1)


def _coordinates(points: np.ndarray) -> str:
    return ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
