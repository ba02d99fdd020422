"""A score, and the content of metrics.json.

`scoring/maps.py` and `scoring/images.py` compute scores, `export/report.py` shows them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from panoptic_jax.export import report


class Score(NamedTuple):
    """A metric, and how many images it and its yardsticks were measured on."""

    metric: report.Metric
    count: int
    yardstick_count: int


def metrics_json(scores: Sequence[Score], facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The content of metrics.json: {name: {value, n, nfe, guidance, ema, weights, label}}.

    A metric's yardsticks follow it as 'name/yardstick', with their own n. 'label' is the name that
    carries all of it, such as 'FID/30k/nfe50/guidance1.0/ema'. What is not known, as with others'
    folders, is None and left out of the label.

    Raises:
      ValueError: a score or a yardstick is not finite; nothing should be written then.
    """
    sampling = facts['sample']
    common = {
        'nfe': sampling.get('evaluations'),
        'guidance': sampling.get('guidance'),
        'ema': facts['ema'],
        'weights': facts['weights'],
    }
    numbers = {}

    def add(name, value, count):
        if not math.isfinite(value):
            raise ValueError(
                f'{name} of {count} images is {value}, which is no score; a picture, a map or the '
                'network that looks at them is damaged.'
            )
        # '30k' reads better than '30000' in a dashboard's list.
        thousands = count and count % 1000 == 0
        conditions = [f'{count // 1000}k' if thousands else str(count)]
        # Numbers that were sampled differently must not share a name.
        if common['nfe'] is not None:
            conditions += [f'nfe{common["nfe"]}', f'guidance{common["guidance"]}']
            conditions += ['ema'] if common['ema'] else []
        label = '/'.join([name.replace(' ', '_'), *conditions])
        numbers[name] = {'value': value, 'n': count, **common, 'label': label}

    for metric, count, yardstick_count in scores:
        add(metric.name, metric.value, count)
        for name, value in metric.yardsticks.items():
            add(f'{metric.name}/{name}', value, yardstick_count)
    return numbers
