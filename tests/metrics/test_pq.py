"""Panoptic quality against its definition, written down a second time in plain loops."""

import numpy as np
import pytest
from scipy import ndimage

from panoptic_jax.metrics import pq

THINGS = frozenset({1, 2, 3})
IDS = np.array([0, 1, 2, 3, 92, 93, 100])


def panopticapi(pairs):
    """What COCO's panopticapi computes (evaluation.py), segment by segment from pixel sets.

    Takes [((category, instance), (category, instance))] and gives {'all': (pq, sq, rq), ...}.
    """
    stats = {}  # {category: [sum of IoUs, TP, FP, FN]}

    def sets(category, instance):
        found = {}
        for place in np.ndindex(category.shape):
            number = int(category[place])
            one = int(instance[place]) if number in THINGS else 0
            found.setdefault((number, one), set()).add(place)
        return found

    def stat(number):
        return stats.setdefault(number, [0.0, 0, 0, 0])

    for truth, prediction in pairs:
        true_sets, found_sets = sets(*truth), sets(*prediction)
        void = true_sets.pop((0, 0), set()) | {
            p for k, v in true_sets.items() if not k[0] for p in v
        }
        crowds = {
            key[0]: true_sets.pop(key) for key in list(true_sets) if key[0] in THINGS and not key[1]
        }
        found_sets = {key: pixels for key, pixels in found_sets.items() if key[0]}
        hit, used = set(), set()
        for key, pixels in true_sets.items():
            for other, guess in found_sets.items():
                if key[0] != other[0]:
                    continue
                union = len(pixels) + len(guess) - len(pixels & guess) - len(guess & void)
                iou = len(pixels & guess) / union
                if iou > 0.5:
                    stat(key[0])[0] += iou
                    stat(key[0])[1] += 1
                    hit.add(key)
                    used.add(other)
        for key in true_sets.keys() - hit:
            stat(key[0])[3] += 1
        for key in found_sets.keys() - used:
            guess = found_sets[key]
            ignored = len(guess & void) + len(guess & crowds.get(key[0], set()))
            if ignored / len(guess) <= 0.5:
                stat(key[0])[2] += 1
    each = {}
    for number, (overlap, tp, fp, fn) in stats.items():
        whole = tp + 0.5 * fp + 0.5 * fn
        each[number] = (overlap / whole, overlap / tp if tp else 0.0, tp / whole)
    groups = {
        'all': list(each.values()),
        'things': [value for number, value in each.items() if number in THINGS],
        'stuff': [value for number, value in each.items() if number not in THINGS],
    }
    return {name: np.mean(values, axis=0) for name, values in groups.items()}, each


def random_map(rng, side=32):
    """Areas of random categories; things have numbers, and some of them are crowds."""
    areas = ndimage.zoom(rng.integers(0, 9, (4, 4)), side // 4, order=0)
    category = IDS[rng.integers(0, len(IDS), 9)][areas].astype(np.uint8)
    numbers = rng.permutation(9)  # one thing of the map, if it is one, is a crowd
    instance = np.where(np.isin(category, list(THINGS)), numbers[areas], 0).astype(np.uint8)
    return category, instance


def perturbed(rng, truth):
    """The map with shifted areas, other numbers, and patches of another map."""
    category, instance = np.roll(truth, rng.integers(-1, 2, 2), (1, 2))
    other_category, other_instance = random_map(rng)
    take = ndimage.zoom(rng.random((8, 8)) < 0.2, 4, order=0)
    instance = (7 * instance.astype(int) % 251).astype(np.uint8)  # 0 stays 0
    category = np.where(take, other_category, category)
    return category, np.where(take, other_instance, instance)


@pytest.fixture(scope='module')
def pairs():
    rng = np.random.default_rng(0)
    truths = [random_map(rng) for _ in range(60)]
    return [(truth, perturbed(rng, truth)) for truth in truths]


def counted(pairs):
    counts = pq.none()
    for truth, prediction in pairs:
        counts = pq.added(counts, pq.count(truth, prediction, THINGS))
    return counts


def test_equals_panopticapis_definition(pairs):
    counts = counted(pairs)
    expected, of_each = panopticapi(pairs)
    for name, quality in pq.qualities(counts, THINGS).items():
        assert 0.1 < quality.pq < 0.9
        np.testing.assert_allclose(quality[:3], expected[name], atol=1e-12)
    found = {number: quality[:3] for number, quality in pq.by_category(counts).items()}
    assert found.keys() == of_each.keys()
    for number, values in found.items():
        np.testing.assert_allclose(values, of_each[number], atol=1e-12)


def test_the_perturbed_maps_have_every_case(pairs):
    """Crowds and void of the truth excuse some predictions, or the test above would be weaker."""
    without = [((np.where(t[0] == 0, 254, t[0]), t[1]), p) for t, p in pairs]
    assert counted(without).invented.sum() > counted(pairs).invented.sum()
    numbered = [((t[0], np.where(t[1] == 0, 99, t[1])), p) for t, p in pairs]
    assert counted(numbered).missed.sum() > counted(pairs).missed.sum()
    assert min(field[[1, 2, 3, 92]].min() for field in counted(pairs)) > 0


def test_perfect_maps_have_quality_one_whatever_their_numbers(pairs):
    rng = np.random.default_rng(1)
    table = np.append(0, rng.permutation(np.arange(1, 256)))
    counts = counted([(truth, (truth[0], table[truth[1]])) for truth, _ in pairs])
    assert all(quality[:3] == (1.0, 1.0, 1.0) for quality in pq.qualities(counts, THINGS).values())


def test_what_neither_has_is_no_part_of_a_mean(pairs):
    stuff = np.full((4, 4), 92, np.uint8), np.zeros((4, 4), np.uint8)
    found = pq.qualities(pq.count(stuff, stuff, THINGS), THINGS)
    assert found['all'] == found['stuff'] == pq.Quality(1.0, 1.0, 1.0, 1)
    assert found['things'] == pq.Quality(0.0, 0.0, 0.0, 0)
    with pytest.raises(ValueError, match=r'\(4, 4\), \(32, 32\)'):
        pq.count(stuff, pairs[0][0], THINGS)
