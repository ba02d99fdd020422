"""Which saved step is the best: the meta of a step holds the scores that were measured at it.

So a score is damaged or removed only together with its step. `weights/checkpoint.py` keeps the best
step beside the newest ones, `weights/recovery.py` reads it, and `train.py` measures.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging

from panoptic_jax.weights import steps

_HELD_OUT = 'validation/loss_'
# {what config.checkpoint_best says: the name of the score}; 'loss' is a sum over the streams.
NAME_OF = {
    'agreement': 'preview/image_map_agreement',
    'mcd': 'preview/mcd',
    'loss': _HELD_OUT + 'image',
}
NAMES = tuple(NAME_OF)


def require(name: str, measured: Iterable[str]) -> None:
    """Refuses to look for the best step by a score that a training does not measure.

    Args:
      name: One of `NAMES`, or '' for none.
      measured: Names of the scores that the training measures.

    Raises:
      ValueError: the score is not among them.
    """
    measured = set(measured)
    if not name or NAME_OF[name] in measured:
        return
    possible = [repr(other) for other in NAMES if NAME_OF[other] in measured]
    raise ValueError(
        f'checkpoint_best is {name!r}, but this training does not measure {NAME_OF[name]}: '
        "'loss' takes validate_every and held-out images, 'mcd' takes preview_every and generated "
        "maps, and 'agreement' takes preview_every and maps of the embedded scenes; here it may be "
        f'{", ".join([*possible, repr("")])}.'
    )


def rank(name: str, scores: Mapping[str, float | None]) -> float | None:
    """A number that is higher for better scores; None where the score was not measured.

    Args:
      name: One of `NAMES`.
      scores: From names to values, all those of a step.
    """
    if name == 'loss':
        values = [value for key, value in scores.items() if key.startswith(_HELD_OUT)]
    else:
        values = [scores[NAME_OF[name]]] if NAME_OF[name] in scores else []
    # A score of arrays that are not finite is no score.
    if not values or any(value is None or not math.isfinite(value) for value in values):
        return None
    return float(sum(values)) if name == 'agreement' else -float(sum(values))


def best_first(workdir: str, name: str) -> list[tuple[float, int]]:
    """(rank, step) of a workdir's steps that have the score; of equal ones the older is first."""
    ranked = []
    for number, meta in _metas(workdir):
        value = rank(name, _scores_of(meta))
        if value is not None:
            ranked.append((value, number))
    return sorted(ranked, key=lambda entry: (-entry[0], entry[1]))


def chosen_by(workdir: str) -> str:
    """By which score the training keeps its best step, as its newest step says; '' for none."""
    for _, meta in _metas(workdir):
        name = meta.get('best_by', '')
        return name if name in NAMES else ''
    return ''


def _scores_of(meta: Mapping[str, Any]) -> dict[str, float | None]:
    """The scores in a meta, which may be damaged, or that of an older version."""
    scores = meta.get('scores')
    if not isinstance(scores, dict):
        return {}
    return {k: v for k, v in scores.items() if v is None or isinstance(v, int | float)}


def _metas(workdir: str) -> Iterable[tuple[int, dict]]:
    """(step, meta) of all steps whose meta can be read, newest first."""
    for number in steps.numbers(workdir):
        try:
            step = steps.Step(steps.folder_of(workdir) / steps.name_of(number), number)
        except steps.Unreadable as error:
            logging.warning('Step %d of %s has no known score: %s.', number, workdir, error)
            continue
        yield number, step.meta
