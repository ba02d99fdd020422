"""The best of several copies against sorting by hand, and the counts of what is rejected."""

import json

import numpy as np
import pytest

from panoptic_jax.data import categories, scene_words
from panoptic_jax.quality import expression, scores, selection
from panoptic_jax.quality.selection import Order

KEEP = expression.parse('agreement>0.5 and crumbs<0.1', scores.KINDS)


def random_copies(generator, count):
    """Scores with ties, and with some that could not be measured."""
    values = generator.integers(0, 11, (count, 2)) / 10
    return [
        {'agreement': None if missing else float(a), 'crumbs': float(c) / 5}
        for (a, c), missing in zip(values, generator.random(count) < 0.2, strict=True)
    ]


@pytest.mark.parametrize('seed', range(50))
@pytest.mark.parametrize('by', ['', 'agreement', 'crumbs', 'keep'])
@pytest.mark.parametrize('keep', [None, KEEP])
def test_the_best_copy_passes_and_no_better_one_does(seed, by, keep):
    if by == 'keep' and keep is None:
        return
    copies = random_copies(np.random.default_rng(seed), 5)
    gate = selection.Gate(keep, tuple(selection.orders_of(by, keep, {})))
    choice = selection.best(copies, gate)
    passing = [n for n, each in enumerate(copies) if not (keep and expression.failure(keep, each))]
    assert (choice.kept is None) == (not passing)
    assert [bool(reason) for reason in choice.reasons] == [n != choice.kept for n in range(5)]
    if not passing:
        return
    agreements = [-1 if c['agreement'] is None else c['agreement'] for c in copies]
    crumbs = [c['crumbs'] for c in copies]
    keys = {
        '': lambda n: (n,),
        'agreement': lambda n: (-agreements[n], n),
        'crumbs': lambda n: (crumbs[n], n),
        'keep': lambda n: (-agreements[n], crumbs[n], n),
    }
    assert choice.kept == sorted(passing, key=keys[by])[0]
    for number, reason in enumerate(choice.reasons):
        if number in passing and number != choice.kept:
            assert reason == selection.NOT_THE_BEST


def test_what_copies_are_compared_by():
    assert selection.orders_of('void', None, {}) == [Order('void', -1)]
    assert selection.orders_of('clip', None, {}) == [Order('clip', 1)]
    written = 'not crumbs>=0.1 and (things>=2 or not captioned<1) and void==0'
    keep = expression.parse(written, scores.KINDS)
    expected = [Order('crumbs', -1), Order('things', 1), Order('captioned', 1)]
    assert selection.orders_of('keep', keep, {}) == expected
    for by, message in [
        ('things', "must be one of void, crumbs, captioned, agreement, iou, clip, 'keep'"),
        ('beauty', "is 'beauty'; it must be one of"),
        ('keep', 'needs an expression in'),
        ('clip', 'cannot be measured here: no CLIP'),
    ]:
        with pytest.raises(ValueError, match=message):
            selection.orders_of(by, None, {'clip': 'no CLIP'})


@pytest.mark.parametrize('parts', [1, 3])
def test_tallies_of_parts_add_up(parts):
    generator = np.random.default_rng(0)
    requests = [random_copies(generator, 3) for _ in range(40)]
    gate = selection.Gate(KEEP, (Order('agreement', 1),))
    choices = [selection.best(copies, gate) for copies in requests]
    whole = selection.Tally()
    for first in range(parts):
        part = selection.Tally()
        for choice in choices[first::parts]:
            part.add(choice)
        whole.merge(selection.Tally.from_json(json.loads(json.dumps(part.to_json()))))
    content = whole.to_json()
    assert content['kept'] == sum(choice.kept is not None for choice in choices)
    assert content['kept'] + sum(content['rejected'].values()) == 40 * 3
    assert {*content['rejected']} == {
        'agreement is not above 0.5', 'crumbs is not below 0.1', selection.NOT_THE_BEST,
        'agreement could not be measured',
    }  # fmt: skip
    counts = list(content['rejected'].values())
    assert counts == sorted(counts, reverse=True)
    whole.reject(selection.NEAR_COPY, pairs=2)
    said = whole.sentence()
    assert said.startswith(f'Kept {content["kept"]} of 122 pairs; rejected: ')
    assert f'2 ({selection.NEAR_COPY})' in said
    assert selection.Tally(kept=3).sentence() == 'Kept 3 of 3 pairs.'


@pytest.mark.parametrize('seed', range(20))
def test_copies_that_are_dropped_are_never_taken(seed):
    generator = np.random.default_rng(seed)
    copies = random_copies(generator, 6)
    dropped = [selection.NEAR_COPY if each else '' for each in generator.random(6) < 0.5]
    gate = selection.Gate(KEEP, (Order('agreement', 1),))
    choice = selection.best(copies, gate, dropped)
    left = [number for number in range(6) if not dropped[number]]
    alone = selection.best([copies[number] for number in left], gate)
    assert choice.kept == (None if alone.kept is None else left[alone.kept])
    for number, reason in enumerate(dropped):
        if reason:
            assert choice.reasons[number] == selection.NEAR_COPY


def test_settings_are_checked_at_the_start():
    own = scores.measures_of(scene_words.categories(), is_scenes=True)
    other = scores.measures_of(categories.COCO, is_scenes=False)
    some = {'has_map': True, 'has_second_map': False, 'clip': 'evaluate.clip names none'}
    lacking = scores.lacking_of(own, **some)
    assert selection.gate_of('', '', lacking) == (None, ())
    gate = selection.gate_of('agreement>0.9 and crumbs<0.02', 'keep', lacking)
    assert gate.orders == (Order('agreement', 1), Order('crumbs', -1))
    for asked, given, message in [
        (('clip>20', ''), lacking, 'asks for clip, which .* here: evaluate.clip names none'),
        (('', 'iou'), lacking, 'no second map is drawn'),
        (('agreement>0', ''), scores.lacking_of(other, **some), 'only scenes have an oracle'),
        (('void<1', ''), scores.lacking_of(own, **some | {'has_map': False}), 'draws no maps'),
        (('void<', ''), lacking, 'cannot be read'),
    ]:
        with pytest.raises(ValueError, match=message):
            selection.gate_of(*asked, given)
    everything = {'has_map': True, 'has_second_map': True, 'clip': ''}
    assert scores.lacking_of(other, **everything) == {}
