"""Which pairs of a job are kept: the best of several copies, and how many are rejected and why.

`quality/expression.py` says what passes.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from panoptic_jax.quality import expression
from panoptic_jax.quality.expression import Expression
from panoptic_jax.quality.scores import KINDS, Scores

BY_KEEP = 'keep'
_UP = {'>': 1, '>=': 1, '<': -1, '<=': -1}  # which way a comparison pulls its score


class Order(NamedTuple):
    """A score by which copies are compared.

    Attributes:
      name: The score.
      better: 1 where more is better, -1 where less is.
    """

    name: str
    better: int


class Gate(NamedTuple):
    """What a job keeps.

    Attributes:
      keep: What a pair has to pass; None for nothing.
      orders: What copies of one request are compared by; the second one decides where the first
        one is equal. () takes the first copy that passes.
    """

    keep: Expression | None
    orders: tuple[Order, ...]


def gate_of(keep: str, best_of: str, lacking: Mapping[str, str]) -> Gate:
    """The gate of the settings, checked before anything is drawn.

    Args:
      keep: The setting sample.keep, see `expression.parse`; '' for none.
      best_of: The setting sample.best_of, see `orders_of`.
      lacking: {score: why the job has none}, from `scores.lacking_of`.

    Raises:
      ValueError: one of them is wrong, or asks for what cannot be measured; in one sentence.
    """
    parsed = expression.parse(keep, KINDS) if keep else None
    if parsed:
        expression.require(parsed, lacking)
    return Gate(parsed, tuple(orders_of(best_of, parsed, lacking)))


def orders_of(
    by: str, keep: Expression | None, lacking: Mapping[str, str], setting: str = 'sample.best_of'
) -> list[Order]:
    """What copies are compared by; the second score decides where the first one is equal.

    Args:
      by: A score; 'keep' for the scores of the expression in its order, in the direction that each
        comparison asks for; '' for nothing: the first copy that passes is taken.
      keep: The expression; None for none.
      lacking: {score: why the job has none}.
      setting: The setting that holds `by`, for messages.

    Raises:
      ValueError: there is no such score, or it says neither good nor bad; in one sentence.
    """
    if by == BY_KEEP and keep:
        asked = expression.comparisons(keep)
        return [Order(each.name, _UP[each.sign]) for each in asked if each.sign in _UP]
    if by == BY_KEEP:
        raise ValueError(f'{setting} is {by!r}, which needs an expression in sample.keep.')
    directed = [name for name, kind in KINDS.items() if kind.better]
    if by and by not in directed:
        raise ValueError(
            f'{setting} is {by!r}; it must be one of {", ".join(directed)}, '
            f"{BY_KEEP!r} for those of sample.keep in its order, or ''."
        )
    if by in lacking:
        raise ValueError(
            f'{setting} is {by!r}, which cannot be measured here: {lacking[by]}; choose another '
            'score, or supply what it needs.'
        )
    return [Order(by, KINDS[by].better)] if by else []


class Choice(NamedTuple):
    """What becomes of the copies of one request.

    Attributes:
      kept: The place of the copy that is kept; None where none passes.
      reasons: For each copy why it is not kept, without its own numbers; '' for the one that is.
    """

    kept: int | None
    reasons: tuple[str, ...]


NOT_THE_BEST = 'another copy is better'
NEAR_COPY = 'nearly a copy of a training image'


def best(copies: Sequence[Scores], gate: Gate, dropped: Sequence[str] = ()) -> Choice:
    """The best copy of those that pass; the first one of equals.

    Args:
      copies: The scores of all pairs that were drawn for one request.
      gate: What they have to pass and are compared by. A copy without the score is worse than any
        that has it.
      dropped: For each copy why it is dropped whatever its scores, such as `NEAR_COPY`, and '' for
        one that is not; () for none.
    """
    failures = [expression.failure(gate.keep, each) if gate.keep else None for each in copies]
    reasons = [failed.reason if failed else '' for failed in failures]
    if dropped:
        reasons = [drop or fail for drop, fail in zip(dropped, reasons, strict=True)]

    def rank(number):
        values = [(copies[number].get(name), better) for name, better in gate.orders]
        return [(value is not None, better * (value or 0)) for value, better in values]

    passing = [number for number, reason in enumerate(reasons) if not reason]
    # `max` takes the first of equals.
    kept = max(passing, key=rank, default=None)
    left = [
        '' if number == kept else reason or NOT_THE_BEST for number, reason in enumerate(reasons)
    ]
    return Choice(kept, tuple(left))


@dataclasses.dataclass
class Tally:
    """How many pairs were kept, and how many rejected for which reason; tallies of parts add up.

    Attributes:
      kept: Pairs.
      rejected: {reason: pairs}.
    """

    kept: int = 0
    rejected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> 'Tally':
        """Reads what `to_json` made."""
        return cls(content['kept'], collections.Counter(content['rejected']))

    def add(self, choice: Choice) -> None:
        """Counts the copies of one request."""
        self.kept += choice.kept is not None
        self.rejected.update(reason for reason in choice.reasons if reason)

    def reject(self, reason: str, pairs: int = 1) -> None:
        """Counts pairs that are dropped for another reason."""
        self.rejected[reason] += pairs

    def merge(self, other: 'Tally') -> None:
        """Adds the counts of another part."""
        self.kept += other.kept
        self.rejected.update(other.rejected)

    def to_json(self) -> dict[str, Any]:
        """{'kept': pairs, 'rejected': {reason: pairs}}, the most frequent reason first."""
        ordered = sorted(self.rejected.items(), key=lambda entry: (-entry[1], entry[0]))
        return {'kept': self.kept, 'rejected': dict(ordered)}

    def sentence(self) -> str:
        """'Kept 91 of 128 pairs; rejected: 20 (crumbs is not below 0.02), 17 (...).'."""
        total = self.kept + self.rejected.total()
        counts = self.to_json()['rejected'].items()
        listed = ', '.join(f'{count} ({reason})' for reason, count in counts)
        return f'Kept {self.kept} of {total} pairs' + (f'; rejected: {listed}.' if listed else '.')
