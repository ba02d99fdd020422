"""Summaries: sums against brute force, in parts and as a whole, and the figures made of them."""

import json

import numpy as np
import pytest

from panoptic_jax.data.example import Category
from panoptic_jax.quality import areas, comparison
from panoptic_jax.quality.summary import Summary

CATEGORIES = (
    Category(1, 'dog', is_thing=True),
    Category(2, 'cat', is_thing=True),
    Category(96, 'grass', is_thing=False),
    Category(97, 'grass', is_thing=False),
)
THINGS = frozenset({1, 2})


def random_set(seed, count=30):
    """Maps, instances, scores and features of random pairs."""
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        values = generator.choice(np.uint8([0, 1, 2, 96, 97]), 5)
        category = generator.choice(values, (8, 8)).repeat(2, axis=0).repeat(2, axis=1)
        instance = np.where(np.isin(category, [1, 2]), category, 0)
        scores = {'void': float(np.mean(category == 0)), 'agreement': float(generator.random())}
        if generator.random() < 0.3:
            scores['agreement'] = None
        pairs.append((category, instance, scores, generator.normal(size=7).astype(np.float32)))
    return pairs


def summed(pairs):
    summary = Summary(THINGS)
    for category, instance, scores, look in pairs:
        summary.add(category, instance, (64, 96), scores=scores, look=look)
    return summary


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('parts', [1, 2, 7])
def test_parts_add_up_to_the_whole(seed, parts):
    pairs = random_set(seed)
    whole, joined = summed(pairs), Summary(THINGS)
    for first in range(parts):
        # Through JSON, as processes hand it to each other.
        content = json.loads(json.dumps(summed(pairs[first::parts]).to_json()))
        joined.merge(Summary.from_json(content))
    one, other = (comparison.figures(each, CATEGORIES) for each in (whole, joined))
    assert json.dumps(one['scores']) == json.dumps(other['scores'])
    for name in ('categories', 'objects_per_image', 'sizes'):
        np.testing.assert_allclose(*(flat(each[name]) for each in (one, other)), rtol=1e-12)
    assert one['diversity'] == pytest.approx(other['diversity'])
    assert one['pairs'] == other['pairs'] == 30


def flat(content):
    """The numbers of nested dicts in the order of their names."""
    if not isinstance(content, dict):
        return [content]
    return [value for name in sorted(content) for value in flat(content[name])]


@pytest.mark.parametrize('seed', range(5))
def test_figures_are_those_of_brute_force(seed):
    pairs = random_set(seed)
    content = comparison.figures(summed(pairs), CATEGORIES)
    maps = np.stack([pair[0] for pair in pairs])
    for name, number in (('void', 0), ('dog', 1), ('cat', 2), ('grass', 96), ('grass (97)', 97)):
        own = content['categories'][name]
        assert own['pixels'] == pytest.approx(np.mean(maps == number))
        assert own['images'] == pytest.approx(np.mean((maps == number).any(axis=(1, 2))))
    shares = [own['pixels'] for own in content['categories'].values()]
    assert shares == sorted(shares, reverse=True)
    things = [len(areas.of_things(category, instance, THINGS)) for category, instance, *_ in pairs]
    assert content['objects_per_image']['mean'] == pytest.approx(np.mean(things))
    assert content['objects_per_image']['shares'] == {
        str(n): pytest.approx(np.mean(np.array(things) == n)) for n in sorted({*things})
    }
    # A map's pixel is 64 x 96 / 256 = 24 of the image's.
    sizes = 24 * np.concatenate([areas.of_things(c, i, THINGS) for c, i, *_ in pairs])
    expected = [sizes < 1024, (sizes >= 1024) & (sizes < 9216), sizes >= 9216]
    assert list(content['sizes'].values()) == pytest.approx([np.mean(each) for each in expected])
    values = [pair[2]['agreement'] for pair in pairs]
    measured = np.sort([value for value in values if value is not None])
    own = content['scores']['agreement']
    assert (own['measured'], own['missing']) == (len(measured), 30 - len(measured))
    assert own['mean'] == pytest.approx(np.mean(measured), abs=1e-4)
    for q, value in own['quantiles'].items():
        expected = np.quantile(measured, float(q), method='inverted_cdf')
        assert value == pytest.approx(expected, abs=0.5e-4)


@pytest.mark.parametrize('count', [2, 3, 40])
def test_diversity_is_the_root_of_the_mean_squared_distance(count):
    pairs = random_set(count, count)
    looks = np.stack([pair[3] for pair in pairs]).astype(np.float64)
    squared = np.sum((looks[:, None] - looks[None]) ** 2, axis=-1)
    others = ~np.eye(count, dtype=bool)
    assert summed(pairs).diversity() == pytest.approx(np.sqrt(squared[others].mean()))
    same = Summary(THINGS)
    for _ in range(count):
        same.add(*pairs[0][:2], (64, 64), look=pairs[0][3])
    assert same.diversity() == pytest.approx(0, abs=1e-6)
    assert summed(pairs[:1]).diversity() is None
    assert Summary(THINGS).diversity() is None


def test_distances_from_a_reference():
    pairs = random_set(0)
    own = summed(pairs)
    content = comparison.figures(own, CATEGORIES, summed(pairs))
    zero = {'pixels': 0, 'objects_per_image': 0, 'sizes': 0}
    assert content['distances'] == pytest.approx(zero, abs=1e-12)
    assert content['reference']['pairs'] == 30
    # Void alone beside one thing alone differs in everything.
    void, one = Summary(THINGS), Summary(THINGS)
    void.add(np.zeros((8, 8), np.uint8), None, (64, 64))
    one.add(np.ones((8, 8), np.uint8), None, (64, 64))
    apart = comparison.distances(void, one)
    assert apart == {'pixels': 1, 'objects_per_image': 1, 'sizes': 1}
    assert comparison.distances(one, void) == apart
    other = summed(random_set(1))
    own_shares, other_shares = (each.shares / each.pairs for each in (own, other))
    expected = 0.5 * np.abs(own_shares - other_shares).sum()
    assert comparison.distances(own, other)['pixels'] == pytest.approx(expected)
    assert comparison.distances(void, void)['sizes'] == 0


def test_an_empty_set_has_figures():
    content = comparison.figures(Summary(THINGS), CATEGORIES, summed(random_set(0)))
    assert content['pairs'] == 0
    assert 'reference' not in content
    json.dumps(content, allow_nan=False)


def test_features_of_two_kinds_do_not_add_up():
    one, other = summed(random_set(0)), Summary(THINGS)
    other.add(np.ones((8, 8), np.uint8), None, (64, 64), look=np.ones(3))
    with pytest.raises(ValueError, match='Features of 3 and of 7 numbers do not add up'):
        one.merge(other)
