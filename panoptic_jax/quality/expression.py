"""Which pairs are kept, as people write it: 'agreement>0.9 and crumbs<0.02'.

Nothing is executed: Python's parser reads the text, and whatever is no comparison of a score with a
number is refused. A `not` is resolved while reading ('not void>0.1' is 'void<=0.1'), so that a
score that could not be measured passes no comparison, in whichever form it is written.
`quality/scores.py` has the scores.
"""

import ast
import math
import operator
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, Union

_LONGEST = 2000  # characters; Python's parser is not made for endless nesting
_ALLOWED = (
    'it joins comparisons of a score with a number, such as agreement>0.9, by and, or, not and '
    'brackets; the comparisons are <, <=, >, >= and =='
)
# {sign: (its test, what it says in a sentence, the sign of the opposite)}
_SIGNS = {
    '<': (operator.lt, 'below', '>='),
    '<=': (operator.le, 'at most', '>'),
    '>': (operator.gt, 'above', '<='),
    '>=': (operator.ge, 'at least', '<'),
    '==': (operator.eq, 'equal to', '!='),
    '!=': (operator.ne, 'other than', '=='),
}
# `!=` comes from `not` alone: scores are measured, and nearly all of them differ from a number.
_SIGN_OF = {ast.Lt: '<', ast.LtE: '<=', ast.Gt: '>', ast.GtE: '>=', ast.Eq: '=='}


class Comparison(NamedTuple):
    """A score against a number.

    Attributes:
      name: The score's name.
      sign: '<', '<=', '>', '>=', '==', or '!=' for a negated '=='.
      number: What it is compared with.
    """

    name: str
    sign: str
    number: float


class Joined(NamedTuple):
    """Several parts of which all or one must pass.

    Attributes:
      all_must: Whether all of them must pass ('and'), or one of them ('or').
      parts: At least two.
    """

    all_must: bool
    parts: tuple['Expression', ...]


Expression = Union[Comparison, Joined]  # noqa: UP007 - the names above are texts until here


class Failure(NamedTuple):
    """Why a pair does not pass.

    Attributes:
      reason: Without the pair's own numbers, so that reasons can be counted: 'crumbs is not below
        0.02'.
      text: With them: 'crumbs 0.034 is not below 0.02'.
    """

    reason: str
    text: str


def parse(text: str, names: Collection[str], setting: str = 'sample.keep') -> Expression:
    """Reads an expression.

    Args:
      text: The expression.
      names: The scores that there are.
      setting: What the text is the value of, for the message.

    Raises:
      ValueError: it is no expression of this kind, or names another score; in one sentence.
    """
    refused = f'{setting} is {text[:200]!r}'
    problem = f'has {len(text)} characters, more than {_LONGEST}' if len(text) > _LONGEST else ''
    problem = problem or ('' if text.strip() else 'is empty')
    if problem:
        raise ValueError(f'{refused}, which {problem}; {_ALLOWED}.')
    try:
        # Python takes leading spaces for an indented block.
        tree = ast.parse(text.strip(), mode='eval').body
        return _read(tree, names, negated=False)
    except _Refused as error:
        raise ValueError(f'{refused}; {error}.') from None
    # `ValueError` is what a NUL character raises, the last two come from nesting.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f'{refused}, which cannot be read; {_ALLOWED}.') from None


class _Refused(Exception):
    """A part that expressions do not have; the text ends the sentence."""


def _read(node: ast.expr, names: Collection[str], *, negated: bool) -> Expression:
    match node:
        case ast.BoolOp():
            parts = tuple(_read(value, names, negated=negated) for value in node.values)
            # Not (a and b) is (not a) or (not b).
            return Joined(isinstance(node.op, ast.And) != negated, parts)
        case ast.UnaryOp(op=ast.Not()):
            return _read(node.operand, names, negated=not negated)
        case ast.Compare(left=ast.Name(id=name), ops=[sign], comparators=[number]):
            if type(sign) not in _SIGN_OF:
                raise _Refused(f'{_shown(node)!r} is no comparison that it knows: {_ALLOWED}')
            if name not in names:
                raise _Refused(f'{name!r} is no score; the scores are {", ".join(names)}')
            own = _SIGN_OF[type(sign)]
            return Comparison(name, _SIGNS[own][2] if negated else own, _number(number))
        case ast.Compare(ops=[_, _, *_]):
            raise _Refused(f'{_shown(node)!r} compares more than twice; join two by and')
        case ast.Compare():
            raise _Refused(f'{_shown(node)!r} has no score on the left; {_ALLOWED}')
    raise _Refused(f'{_shown(node)!r} is no comparison; {_ALLOWED}')


def _number(node: ast.expr) -> float:
    """The number of a comparison, which may have a sign."""
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    value = inner.value if isinstance(inner, ast.Constant) else None
    # True is a number to Python.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.USub | ast.UAdd):
        is_number = False
    if not is_number or not math.isfinite(_as_float(value)):
        raise _Refused(f'{_shown(node)!r} is no number to compare with; {_ALLOWED}')
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    return -_as_float(value) if negative else _as_float(value)


def _shown(node: ast.expr) -> str:
    """A part of an expression for a sentence."""
    text = ast.unparse(node)
    return text if len(text) <= 60 else f'{text[:60]}...'


def _as_float(value: float) -> float:
    """The number; infinite where it has more digits than a float can hold."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def comparisons(expression: Expression) -> Iterator[Comparison]:
    """All comparisons in the order in which they are written."""
    if isinstance(expression, Comparison):
        yield expression
        return
    for part in expression.parts:
        yield from comparisons(part)


def require(
    expression: Expression, lacking: Mapping[str, str], setting: str = 'sample.keep'
) -> None:
    """Refuses an expression with a score that no pair of the job will have.

    Args:
      expression: From `parse`.
      lacking: {score: why there is none, such as 'evaluate.clip names no CLIP'}.
      setting: Where the expression is from, for the message.

    Raises:
      ValueError: naming the score and the reason.
    """
    for name in dict.fromkeys(comparison.name for comparison in comparisons(expression)):
        if name in lacking:
            raise ValueError(
                f'{setting} asks for {name}, which cannot be measured here: {lacking[name]}; '
                'leave it out, or supply what it needs.'
            )


def failure(expression: Expression, scores: Mapping[str, float | None]) -> Failure | None:
    """Why a pair is not kept; None where it is.

    'and' names the first part that fails, 'or' all its parts.

    Args:
      expression: From `parse`.
      scores: {name: value}; None, or no such name, for what could not be measured.
    """
    if isinstance(expression, Comparison):
        return _compare(expression, scores.get(expression.name))
    failures = [failure(part, scores) for part in expression.parts]
    failed = [each for each in failures if each]
    if expression.all_must:
        return failed[0] if failed else None
    if len(failed) < len(failures):
        return None
    return Failure(*(' and '.join(dict.fromkeys(texts)) for texts in zip(*failed, strict=True)))


def _compare(comparison: Comparison, value: float | None) -> Failure | None:
    name, sign, number = comparison
    test, words, _ = _SIGNS[sign]
    if value is None:
        text = f'{name} could not be measured'
        return Failure(text, text)
    if test(value, number):
        return None
    # Rounded so far only that the sentence stays true: 0.0200001 is not at most 0.02.
    rounded = [f'{value:.{digits}g}' for digits in range(3, 18)]
    shown = next((each for each in rounded if not test(float(each), number)), repr(value))
    tail = f'is not {words} {number:.12g}'
    return Failure(f'{name} {tail}', f'{name} {shown} {tail}')
