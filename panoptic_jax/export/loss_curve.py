"""The loss curve of a page: matplotlib's SVG, whose colours the page's style decides.

`export/report.py` puts it on the page, and `export/templates/` has the style.
"""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

_POINTS = 240  # a drawn curve has no more points; longer curves are averaged
_SIZE = (10.4, 3.8)  # inches, of 72 units in the SVG
_STREAMS = {'loss_image': 'image', 'loss_map': 'map'}
# Colours that nothing else has, and the variables of the page's style that take their place, so
# that the figure follows a dark scheme.
_COLOURS = {
    'image': ('#010101', 'var(--image)'),
    'map': ('#020202', 'var(--map)'),
    'text': ('#030303', 'var(--quiet)'),
    'grid': ('#040404', 'var(--line)'),
}
_STYLE = {
    'svg.fonttype': 'none',  # letters stay text, in the page's font
    'svg.hashsalt': 'loss',  # the same data give the same file
    'svg.id': 'loss-curve',
    'font.size': 10.5,
    'text.color': _COLOURS['text'][0],
    'axes.labelcolor': _COLOURS['text'][0],
    'axes.edgecolor': _COLOURS['grid'][0],
    'grid.color': _COLOURS['grid'][0],
    'xtick.color': _COLOURS['text'][0],
    'ytick.color': _COLOURS['text'][0],
}


def loss_curve(lines: Sequence[Mapping[str, Any]]) -> str:
    """The loss of each stream over the steps, both axes logarithmic.

    Args:
      lines: What `json_lines.read` gives for metrics.jsonl. The figure uses `step`, `loss_image`
        and `loss_map`, and leaves out missing and non-positive values.

    Returns:
      An <svg> element in which each stream has a faint curve as logged and a bold one of its
      running mean; '' if no stream has two points.
    """
    curves = {}
    for name, stream in _STREAMS.items():
        points = _logged_points(lines, name)
        if len(points) > 1:
            curves[stream] = _thin(np.log10(np.array(points, np.float64)))  # (n, 2)
    if not curves:
        return ''
    # A figure of its own, not pyplot's, which keeps figures for a screen.
    with matplotlib.rc_context(_STYLE):
        figure = Figure(_SIZE, layout='constrained')
        _draw(figure.add_subplot(), curves)
        content = io.StringIO()
        nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
        figure.savefig(content, format='svg', transparent=True, metadata=nothing)
    svg = content.getvalue()
    # What stands before the element belongs to files.
    svg = svg[svg.index('<svg') :]
    for drawn, variable in _COLOURS.values():
        svg = svg.replace(drawn, variable)
    return svg


def _draw(axes: Axes, curves: Mapping[str, np.ndarray]) -> None:
    """Draws powers of ten of step and loss, (n, 2) for each stream."""
    for stream, points in curves.items():
        colour = _COLOURS[stream][0]
        steps, losses = 10**points.T
        means = 10 ** _running_mean(points[:, 1])
        axes.plot(steps, losses, color=colour, lw=1, alpha=0.35, gid=f'logged-{stream}')
        axes.plot(steps, means, color=colour, lw=2, gid=f'mean-{stream}')
    axes.set(xscale='log', yscale='log', xlabel='training step', ylabel='loss')
    axes.margins(x=0, y=0.08)
    axes.grid(lw=0.8)
    axes.spines[:].set(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = np.log10(axis.get_view_interval())
        axis.set_major_locator(FixedLocator(_ticks(low, high)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.10g}'))
        axis.set_minor_locator(NullLocator())
    axes.tick_params(which='both', length=0)
    _name_curves(axes, {stream: points[-1] for stream, points in curves.items()})


def _name_curves(axes: Axes, ends: Mapping[str, np.ndarray]) -> None:
    """The name of each curve beside its end, from the top, far enough apart to be read."""
    low, high = np.log10(axes.get_ylim())
    distance = 0.07 * (high - low)  # height of a line of text
    ordered = sorted(ends, key=lambda stream: -ends[stream][1])
    heights = {stream: ends[stream][1] for stream in ordered}
    for upper, lower in itertools.pairwise(ordered):
        lacking = distance - (heights[upper] - heights[lower])
        if lacking > 0:
            heights[upper] += lacking / 2
            heights[lower] -= lacking / 2
    for stream, height in heights.items():
        end = 10 ** np.array([ends[stream][0], height])
        axes.annotate(
            stream,
            xy=tuple(end),
            xytext=(7, 0),
            textcoords='offset points',
            va='center',
            color=_COLOURS[stream][0],
            weight='bold',
            annotation_clip=False,
        )


def _logged_points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """The (step, loss) of the lines that have a logarithm."""
    points = []
    for line in lines:
        step, loss = line['step'], line.get(name)
        if step > 0 and loss is not None and loss > 0:
            points.append((step, loss))
    return points


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten: 1-2-5 steps, or decades where those are many.

    matplotlib's own ticks leave all but decades without numbers, and a short run has none.
    """
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
