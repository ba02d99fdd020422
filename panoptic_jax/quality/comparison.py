"""The figures of a set of pairs beside those of real data, as quality.json shows them.

`quality/summary.py` adds up what they are made of.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from panoptic_jax.data.example import Category
from panoptic_jax.quality.scores import KINDS
from panoptic_jax.quality.summary import SIZES, Summary

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_VOID = Category(0, 'void', is_thing=False)


def figures(
    own: Summary, categories: Sequence[Category], reference: Summary | None = None
) -> dict[str, Any]:
    """What a set holds, JSON-able.

    - pairs: their number, and with a reference that of its maps.
    - categories: {name: {'pixels': share, 'images': share that hold it}}, the largest first.
    - objects_per_image: 'mean' and {number of things: share of the pairs}.
    - sizes: shares of small, medium and large things by COCO's bounds of 32 and 96 pixels squared.
    - diversity: see `Summary.diversity`.
    - scores: for each score the pairs that have it, their mean and quantiles, to 4 decimals.
    - distances: half the sum of absolute differences from the reference (total variation), 0 for
      equal and 1 for disjoint, of pixels, of things per image and of sizes.

    Args:
      own: The pairs.
      categories: The maps' categories; ids that they lack go by their number.
      reference: A reference split's maps, whose figures stand beside as 'reference'; None for none.
    """
    content = _plain(own, categories)
    if reference and reference.pairs and own.pairs:
        content['reference'] = _plain(reference, categories)
        content['distances'] = distances(own, reference)
    return content


def _plain(summary: Summary, categories: Sequence[Category]) -> dict[str, Any]:
    """The figures that true maps have as well as pairs."""
    pairs = max(summary.pairs, 1)
    names = {entry.id: entry.name for entry in (_VOID, *categories)}
    # Names may repeat, and then the second one needs its number.
    seen: dict[str, int] = {}
    for number, name in names.items():
        names[number] = name if seen.setdefault(name, number) == number else f'{name} ({number})'
    order = np.argsort(-summary.shares, kind='stable')
    mean = sum(count * each for count, each in summary.things.items()) / pairs
    return {
        'pairs': summary.pairs,
        'categories': {
            names.get(int(number), f'id {number}'): {
                'pixels': float(summary.shares[number] / pairs),
                'images': float(summary.holding[number] / pairs),
            }
            for number in order
            if summary.holding[number]
        },
        'objects_per_image': {
            'mean': mean,
            'shares': {str(n): each / pairs for n, each in sorted(summary.things.items())},
        },
        'sizes': {
            name: float(count / max(summary.sizes.sum(), 1))
            for name, count in zip(SIZES, summary.sizes, strict=True)
        },
        'diversity': summary.diversity(),
        'scores': {
            name: of_values(counts) | {'meaning': KINDS[name].meaning}
            for name, counts in summary.values.items()
        },
    }


def distances(own: Summary, reference: Summary) -> dict[str, float]:
    """Total variation of two sets, see `figures`; both hold at least one pair."""
    most = max(*own.things, *reference.things)
    return {
        'pixels': _variation(own.shares, reference.shares),
        'objects_per_image': _variation(
            *([each.things[n] for n in range(most + 1)] for each in (own, reference))
        ),
        'sizes': _variation(own.sizes, reference.sizes),
    }


def _variation(one: Sequence[float], other: Sequence[float]) -> float:
    """Total variation of two histograms, each scaled to 1; what is empty differs in all."""
    one, other = (np.array(each) / max(np.sum(each), 1e-12) for each in (one, other))
    # An empty histogram lacks all that the other one has.
    missing = abs(one.sum() - other.sum())
    return float(0.5 * (np.abs(one - other).sum() + missing))


def of_values(counts: Mapping[float | None, int]) -> dict[str, Any]:
    """Pairs that a score was measured of and those it was not, the mean, and quantiles.

    A quantile q is the smallest value that at least q of the pairs do not exceed.

    Args:
      counts: {value: pairs}; None for pairs without the score.
    """
    values = sorted(value for value in counts if value is not None)
    weights = [counts[value] for value in values]
    total = sum(weights)
    missing = sum(count for value, count in counts.items() if value is None)
    content: dict[str, Any] = {'measured': total, 'missing': missing}
    if not total:
        return content
    content['mean'] = math.fsum(map(math.prod, zip(values, weights, strict=True))) / total
    behind = np.cumsum(weights)
    places = np.searchsorted(behind, [max(math.ceil(q * total), 1) for q in _QUANTILES])
    content['quantiles'] = {
        f'{q:g}': values[place] for q, place in zip(_QUANTILES, places, strict=True)
    }
    return content
