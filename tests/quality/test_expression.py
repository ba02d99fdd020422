"""The expression that pairs are kept by: against Python's own logic, and what it refuses."""

import random
import re

import pytest

from panoptic_jax.quality import expression
from panoptic_jax.quality.expression import Comparison

NAMES = ('void', 'crumbs', 'agreement', 'captioned')


def random_text(generator, depth):
    """An expression of up to `depth` levels."""
    kind = generator.choice(['compare', 'and', 'or', 'not']) if depth else 'compare'
    if kind == 'compare':
        sign = generator.choice(['<', '<=', '>', '>=', '=='])
        return f'{generator.choice(NAMES)}{sign}{generator.choice([0, 0.25, 0.5, 1])}'
    if kind == 'not':
        return f'not ({random_text(generator, depth - 1)})'
    parts = [random_text(generator, depth - 1) for _ in range(generator.choice([2, 3]))]
    return f'({f" {kind} ".join(parts)})'


@pytest.mark.parametrize('seed', range(200))
def test_expressions_mean_what_python_means(seed):
    generator = random.Random(seed)
    text = random_text(generator, 3)
    parsed = expression.parse(text, NAMES)
    for _ in range(20):
        scores = {name: generator.choice([0, 0.25, 0.4, 0.5, 1]) for name in NAMES}
        failure = expression.failure(parsed, scores)
        # Python's own reading is the truth; the text is made above.
        assert (failure is None) == eval(text, {}, scores)
        assert failure is None or (failure.text and failure.reason)


def test_reasons_name_score_value_and_bound():
    def text(written, **scores):
        return expression.failure(expression.parse(written, NAMES), scores)

    both = 'agreement>0.9 and crumbs<0.02'
    assert text(both, agreement=0.95, crumbs=0.01) is None
    assert text(both, agreement=0.95, crumbs=0.0341) == (
        'crumbs is not below 0.02',
        'crumbs 0.0341 is not below 0.02',
    )
    # The first of several is named.
    assert text(both, agreement=0.5, crumbs=1.0).text == 'agreement 0.5 is not above 0.9'
    assert text('agreement>0.9 or crumbs<=0.02', agreement=0.5, crumbs=0.3).text == (
        'agreement 0.5 is not above 0.9 and crumbs 0.3 is not at most 0.02'
    )
    # A rounded number must not contradict the sentence.
    assert text('crumbs<=0.02', crumbs=0.0200001).text == 'crumbs 0.0200001 is not at most 0.02'
    assert text('not void==0', void=0.0).text == 'void 0 is not other than 0'
    assert text('void>=-1.5', void=-2.0).reason == 'void is not at least -1.5'


@pytest.mark.parametrize('text', ['agreement>0.5', 'not agreement>0.5', 'not agreement==1'])
def test_what_could_not_be_measured_passes_nothing(text):
    parsed = expression.parse(text, NAMES)
    for scores in ({}, {'agreement': None}):
        failure = expression.failure(parsed, scores)
        assert failure.text == failure.reason == 'agreement could not be measured'
    other = expression.parse(f'{text} or void<0.1', NAMES)
    assert expression.failure(other, {'agreement': None, 'void': 0.0}) is None
    both = expression.failure(other, {'agreement': None, 'void': 0.5})
    assert both.reason == 'agreement could not be measured and void is not below 0.1'


def test_scores_that_no_pair_will_have_are_refused_at_the_start():
    parsed = expression.parse('void<0.1 and not agreement<0.5', NAMES)
    assert list(expression.comparisons(parsed)) == [
        Comparison('void', '<', 0.1),
        Comparison('agreement', '>=', 0.5),
    ]
    expression.require(parsed, {'captioned': 'the pairs have no captions'})
    with pytest.raises(ValueError, match=r'asks for agreement, which .* here: no second map'):
        expression.require(parsed, {'agreement': 'no second map'})


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'which is empty; it joins comparisons'),
        ('  ', 'which is empty'),
        ('agrement>0.9', "'agrement' is no score; the scores are void, crumbs, agreement, capt"),
        ('agreement>', 'cannot be read; it joins'),
        ('agreement>0.9 and', 'cannot be read'),
        ('agreement>0.9, crumbs<1', "'(agreement > 0.9, crumbs < 1)' is no comparison"),
        ('agreement', "'agreement' is no comparison; it joins"),
        ('True', "'True' is no comparison"),
        ('0.1<void<0.2', "compares more than twice; join two by and"),
        ('0.1<void', 'has no score on the left'),
        ('void+crumbs<0.2', 'has no score on the left'),
        ('void<crumbs', "'crumbs' is no number to compare with"),
        ('void<True', "'True' is no number"),
        ('void<1e999', 'is no number'),
        ('void<' + '9' * 400, 'is no number'),
        ('void<nan', "'nan' is no number"),
        ('void<~1', "'~1' is no number"),
        ('void<--1', "is no number"),
        ('void<1j', "'1j' is no number"),
        ("void<'0.1'", 'is no number'),
        ('void<1/2', "'1 / 2' is no number"),
        ('void!=0', "'void != 0' is no comparison that it knows"),
        ('void in 1', 'is no comparison that it knows'),
        ('void is 1', 'is no comparison that it knows'),
        ('__import__("os").system("ls")', 'is no comparison'),
        ('void.__class__<1', 'has no score on the left'),
        ('(lambda: 1)()', 'is no comparison'),
        ('[void<1 for void in (1,)]', 'is no comparison'),
        ('void<1 if 1 else void>1', 'is no comparison'),
        ('void:=1', 'cannot be read'),
        ('void<1\ncrumbs<1', 'cannot be read'),
        ('void<1\0', 'cannot be read'),
        ('(' * 900 + 'void<1' + ')' * 900, 'cannot be read'),
        ('not ' * 499 + 'x', 'cannot be read|is no comparison'),
        ('void<1 and ' * 500 + 'void<1', 'characters, more than 2000'),
    ],
)  # fmt: skip
def test_bad_expressions_are_refused_in_one_sentence(text, message):
    pattern = message if '|' in message else re.escape(message)
    with pytest.raises(ValueError, match=pattern) as caught:
        expression.parse(text, NAMES)
    said = str(caught.value)
    assert said.startswith('sample.keep is ')
    assert said.endswith('.')
    assert '\n' not in said
    assert len(said) < 700
