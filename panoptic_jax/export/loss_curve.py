"""The loss curve of a report, an SVG figure inside the page.

This module draws by class name; `export/report.css` holds the colours and fonts of the classes.
`export/report.py` puts the figure on the page, and `export/ruler.py` draws its other figure.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# The drawing and its margins, in units of the SVG.
_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 64, 14, 44
_PLOT_END = _WIDTH - _RIGHT
_PLOT_BOTTOM = _HEIGHT - _BOTTOM
_POINTS = 240  # a drawn curve has no more points; longer curves are averaged
_NAME_DISTANCE = 15  # height of a line of text: two names that are closer would overlap


class _Axes(NamedTuple):
    """The part of the data that the loss curve shows, in powers of ten.

    Attributes:
      left, right: Range of the steps.
      low, high: Range of the loss.
    """

    left: float
    right: float
    low: float
    high: float

    def x(self, step: Any) -> Any:
        """The place on the drawing of powers of ten of the step, an array or a number."""
        # One single step would have no range to divide by.
        share = (step - self.left) / max(self.right - self.left, 1e-9)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, loss: Any) -> Any:
        """The same for powers of ten of the loss; SVG counts from the top."""
        share = (loss - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def place(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) powers of ten -> (n, 2) places."""
        return np.stack([self.x(points[:, 0]), self.y(points[:, 1])], axis=1)


def loss_curve(lines: Sequence[Mapping[str, Any]]) -> str:
    """The loss of each stream over the steps, both axes logarithmic.

    Args:
      lines: What `json_lines.read` gives for metrics.jsonl. The figure uses `step`, `loss_image`
        and `loss_map`, and leaves out missing and non-positive values.

    Returns:
      An <svg> element in which each stream has a faint curve as logged and a bold one of its
      running mean; or a sentence if no stream has two points.
    """
    curves = {}
    for name, stream in (('loss_image', 'image'), ('loss_map', 'map')):
        points = _logged_points(lines, name)
        if len(points) > 1:
            curves[stream] = np.log10(np.array(points, np.float64))  # (n, 2)
    if not curves:
        return '<p class="empty">No loss curve was recorded.</p>'
    axes = _axes_around(curves)
    parts = [
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="Training loss of each stream over the steps, logarithmic axes">',
        *_grid(axes),
        *_axis_titles(),
    ]
    # The last heights of the running means, at which the curves get their names.
    ends = {}
    for stream, points in curves.items():
        thinned = _thin(points)
        means = np.stack([thinned[:, 0], _running_mean(thinned[:, 1])], axis=1)
        smooth = axes.place(means)
        parts.append(_polyline(f'raw {stream}', axes.place(thinned)))
        parts.append(_polyline(f'mean {stream}', smooth))
        ends[stream] = smooth[-1, 1]
    parts += _curve_names(ends)
    return ''.join([*parts, '</svg>'])


def _logged_points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """The (step, loss) of the lines that have a logarithm."""
    points = []
    for line in lines:
        step, loss = line['step'], line.get(name)
        if step > 0 and loss is not None and loss > 0:
            points.append((step, loss))
    return points


def _axes_around(curves: Mapping[str, np.ndarray]) -> _Axes:
    """Axes that show all curves, with a little room above and below."""
    points = np.concatenate([*curves.values()])  # (n, 2)
    left, low = points.min(axis=0)
    right, high = points.max(axis=0)
    # A constant loss has no range of its own; the hundredth gives it one.
    room = 0.06 * (high - low)
    return _Axes(left=left, right=right, low=low - room - 0.01, high=high + room + 0.01)


def _grid(axes: _Axes) -> Iterator[str]:
    """Grid lines with their numbers: the steps, then the loss."""
    for tick in _ticks(axes.left, axes.right):
        x = axes.x(math.log10(tick))
        yield (
            f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" '
            f'x2="{x:.1f}" y2="{_PLOT_BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{_PLOT_BOTTOM + 17}" '
            f'text-anchor="middle">{tick:,g}</text>'
        )
    for tick in _ticks(axes.low, axes.high):
        y = axes.y(math.log10(tick))
        yield (
            f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" '
            f'x2="{_PLOT_END}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" '
            f'text-anchor="end">{tick:,.10g}</text>'
        )


def _axis_titles() -> Iterator[str]:
    """What the two axes show; the loss is written upwards."""
    x = (_LEFT + _PLOT_END) / 2
    y = (_TOP + _PLOT_BOTTOM) / 2
    yield f'<text x="{x}" y="{_HEIGHT - 6}" text-anchor="middle">training step</text>'
    yield f'<text transform="translate(13 {y}) rotate(-90)" text-anchor="middle">loss</text>'


def _curve_names(ends: Mapping[str, float]) -> Iterator[str]:
    """The name of each curve beside its end, from the top.

    Args:
      ends: {stream: height of the curve's end on the drawing}.
    """
    named = sorted((y, stream) for stream, y in ends.items())
    if len(named) == 2 and named[1][0] - named[0][0] < _NAME_DISTANCE:
        centre = (named[0][0] + named[1][0]) / 2
        upper, lower = centre - _NAME_DISTANCE / 2, centre + _NAME_DISTANCE / 2
        named = [(upper, named[0][1]), (lower, named[1][1])]
    for y, stream in named:
        x = _PLOT_END + 8
        yield f'<text class="name {stream}" x="{x}" y="{y + 4:.1f}">{stream}</text>'


def _polyline(kind: str, places: np.ndarray) -> str:
    """A curve of the given classes through places (n, 2)."""
    coordinates = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)
    return f'<polyline class="{kind}" points="{coordinates}"/>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten: 1-2-5 steps, or decades where those are many."""
    decades = range(math.floor(low) - 1, math.ceil(high) + 1)
    ticks = []
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        ticks = [
            factor * 10.0**decade
            for decade in decades
            for factor in factors
            if low <= math.log10(factor) + decade <= high
        ]
        # More numbers than this run into each other.
        if len(ticks) <= 8:
            break
    return ticks


def _thin(points: np.ndarray) -> np.ndarray:
    """Means over as many runs of neighbours as can be seen, even along the logarithmic axis.

    Args:
      points: (n, 2) powers of ten, by step.
    """
    if len(points) <= _POINTS:
        return points
    edges = np.linspace(points[0, 0], points[-1, 0], _POINTS + 1)[1:-1]
    # The first steps lie so far apart that several edges fall between two of them.
    borders = np.unique(np.searchsorted(points[:, 0], edges))
    runs = np.split(points, borders)
    return np.array([run.mean(axis=0) for run in runs if len(run)])


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean over about a twelfth of the curve, over less at both ends."""
    half = max(1, len(values) // 24)  # neighbours on each side
    centres = np.arange(len(values))
    # With the same number of neighbours on both sides the mean does not lag behind.
    reach = np.minimum(half, np.minimum(centres, centres[::-1]))
    sums = np.concatenate([[0], np.cumsum(values)])
    return (sums[centres + reach + 1] - sums[centres - reach]) / (2 * reach + 1)
