"""The tables of studies in Markdown."""

from collections.abc import Iterable, Sequence

import numpy as np


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation where there are several values; '' for none."""
    if not values:
        return ''
    spread = f' ± {np.std(values):.3f}' if len(values) > 1 else ''
    return f'{np.mean(values):.3f}{spread}'


def table(titles: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A table: its titles, and the cells of its rows."""
    lines = [f'| {" | ".join(titles)} |', '|---' * len(titles) + '|']
    lines += [f'| {" | ".join(map(str, cells))} |' for cells in rows]
    return '\n'.join(lines)
