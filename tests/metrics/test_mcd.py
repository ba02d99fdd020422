"""MCD against brute force, its yardsticks against a linear program and method.md's real maps."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import optimize

from panoptic_jax.metrics import mcd

SAMPLE = Path(__file__).parents[3] / 'shared' / 'data' / 'coco_sample' / 'annotations'


def _maps(seed, count, size=(8, 12), ids=6):
    """(count, H, W) uint8 random ids below `ids`."""
    return np.random.default_rng(seed).integers(0, ids, (count, *size), dtype=np.uint8)


def test_histograms_are_counts_across_blocks():
    maps = np.random.default_rng(0).integers(0, 256, (1030, 3, 5), dtype=np.uint8)
    shares = mcd.histograms(maps)
    assert shares.dtype == np.float64
    for row in (0, 1023, 1024, 1029):  # both ends of both blocks
        counts = np.bincount(maps[row].ravel(), minlength=256)
        np.testing.assert_array_equal(shares[row], counts / 15)


def test_mcd_is_the_definition():
    generated, truth = _maps(1, 5), _maps(2, 5)
    expected = []
    for one, other in zip(generated, truth, strict=True):
        counts = [(int((one == b).sum()), int((other == b).sum())) for b in range(256)]
        expected.append(sum(abs(mine - true) for mine, true in counts) / 96)
    np.testing.assert_allclose(mcd.mcd(generated, truth), expected, atol=1e-15)


def test_mcd_stays_in_its_range():
    generated, truth = _maps(1, 5), _maps(2, 5)
    np.testing.assert_array_equal(mcd.mcd(truth, truth[:, ::-1]), 0)
    np.testing.assert_array_equal(mcd.mcd(generated, generated + np.uint8(100)), 2)


def test_mcd_compares_shares_and_not_counts():
    truth = _maps(2, 5)
    np.testing.assert_array_equal(mcd.mcd(truth.repeat(2, axis=1), truth), 0)


def test_authors_bins_drop_high_ids():
    generated = np.full((1, 4, 4), 200, np.uint8)
    truth = np.full((1, 4, 4), 201, np.uint8)
    assert mcd.mcd(generated, truth)[0] == 2
    assert mcd.mcd(generated, truth, bins=201)[0] == 1


def test_chance_is_the_mean_over_all_pairs():
    shares = mcd.histograms(_maps(3, 9))
    pairs = [np.abs(a - b).sum() for a, b in itertools.permutations(shares, 2)]
    np.testing.assert_allclose(mcd.chance(shares), np.mean(pairs), rtol=1e-12)


@pytest.mark.parametrize('count', [1, 2, 5, 8])
def test_fixed_map_is_the_optimum_of_a_linear_program(count):
    shares = np.random.default_rng(count).dirichlet(np.full(7, 0.3), count)
    # Variables p (7) and e (count * 7) with e >= |p - h|: the absolute values made linear.
    cost = np.concatenate([np.zeros(7), np.ones(count * 7)])
    spread = np.tile(np.eye(7), (count, 1))
    slack = -np.eye(count * 7)
    solution = optimize.linprog(
        cost,
        A_ub=np.block([[spread, slack], [-spread, slack]]),
        b_ub=np.concatenate([shares.ravel(), -shares.ravel()]),
        A_eq=np.concatenate([np.ones(7), np.zeros(count * 7)])[None],
        b_eq=[1.0],
    )
    best = mcd.fixed_map(shares)
    assert best.min() >= 0
    np.testing.assert_allclose(best.sum(), 1, atol=1e-12)
    np.testing.assert_allclose(np.abs(shares - best).sum(), solution.fun, atol=1e-9)


def test_best_fixed_map_never_sees_the_images_that_it_is_scored_on():
    shares = np.zeros((6, 256))
    shares[::2, 3] = 1  # each half constant, the halves without a category in common
    shares[1::2, 4] = 1
    assert mcd.best_fixed_map(shares) == pytest.approx(2)
    assert mcd.best_fixed_map(np.repeat(shares[:1], 6, 0)) == pytest.approx(0)


def test_best_fixed_map_takes_both_ways():
    shares = np.random.default_rng(6).dirichlet(np.full(9, 0.3), 7)
    even, odd = shares[::2], shares[1::2]
    on_odd = np.abs(odd - mcd.fixed_map(even)).sum()
    on_even = np.abs(even - mcd.fixed_map(odd)).sum()
    assert mcd.best_fixed_map(shares) == pytest.approx((on_odd + on_even) / 7)


@pytest.mark.parametrize('count', [1, 2, 3, 6, 9])
def test_a_fixed_map_may_leave_area_to_ids_that_are_not_counted(count):
    """Rows that sum to less than 1, as 201 bins give for ids from 201 on."""
    counted = np.random.default_rng(count).dirichlet(np.full(9, 0.4), count)[:, :6]
    spread = np.tile(np.eye(6), (count, 1))
    slack = -np.eye(count * 6)
    below_one = np.concatenate([np.ones(6), np.zeros(count * 6)])[None]
    solution = optimize.linprog(
        np.concatenate([np.zeros(6), np.ones(count * 6)]),
        A_ub=np.concatenate([np.block([[spread, slack], [-spread, slack]]), below_one]),
        b_ub=np.concatenate([counted.ravel(), -counted.ravel(), [1.0]]),
    )
    best = mcd.fixed_map(counted)
    assert best.min() >= 0
    assert best.sum() <= 1 + 1e-12
    np.testing.assert_allclose(np.abs(counted - best).sum(), solution.fun, atol=1e-9)


def _distance(shares, i, j):
    return np.abs(shares[i] - shares[j]).sum()


def test_same_caption_floor_needs_a_shared_caption():
    shares = mcd.histograms(_maps(4, 4))
    assert mcd.same_caption_floor(shares, ['a', 'b', 'c', 'd']) is None
    # A caption that one image has twice is not shared.
    assert mcd.same_caption_floor(shares, [['a', 'a'], ['b'], ['c'], ['d', 'd']]) is None


def test_same_caption_floor_takes_pairs_of_different_images():
    shares = mcd.histograms(_maps(4, 4))
    floor = mcd.same_caption_floor(shares, [['a', 'b'], ['b'], ['a', 'b'], 'cab'])
    # 'b' is shared by 0, 1, 2 and 'a' by 0, 2.
    distances = [_distance(shares, *pair) for pair in ((0, 1), (1, 2), (0, 2), (0, 2))]
    assert floor == pytest.approx(sum(distances) / 4)


def test_same_caption_floor_takes_one_caption_an_image():
    shares = mcd.histograms(_maps(4, 4))
    floor = mcd.same_caption_floor(shares, ['x', 'y', 'x', 'z'])
    assert floor == pytest.approx(_distance(shares, 0, 2))


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda maps: mcd.mcd(maps[:2], maps), '2 generated maps but 3 true'),
        (lambda maps: mcd.histograms(maps.astype(np.int64)), 'int64'),
        (lambda maps: mcd.histograms(maps, 257), 'count 257 category ids; it must be 1 to 256'),
        (lambda maps: mcd.histograms(maps, 0), 'count 0 category ids; it must be 1 to 256'),
        (lambda maps: mcd.chance(mcd.histograms(maps[:1])), 'at least 2'),
        (lambda maps: mcd.best_fixed_map(mcd.histograms(maps[:1])), 'at least 2'),
        (lambda maps: mcd.same_caption_floor(mcd.histograms(maps), ['a']), 'captions of 1 images'),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(_maps(5, 3))


def _read_pooled(annotation):
    """64x64 ids as method.md prepares them: crop, nearest 256, min-pool in which void loses."""
    with Image.open(SAMPLE / 'panoptic_val2017' / annotation['file_name']) as picture:
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        picture = picture.convert('RGB').crop((left, top, left + short, top + short))
        picture = picture.resize((256, 256), Image.Resampling.NEAREST)
    colours = np.asarray(picture).astype(np.int64) @ [1, 256, 65536]
    ids = np.full((256, 256), 255, np.uint8)
    for segment in annotation['segments_info']:
        ids[colours == segment['id']] = segment['category_id']
    pooled = ids.reshape(64, 4, 64, 4).min(axis=(1, 3))
    return np.where(pooled == 255, 0, pooled).astype(np.uint8)


@pytest.fixture(name='real_maps', scope='module')
def _real_maps():
    """The 103 maps of COCO val2017 that method.md measured, (103, 64, 64) uint8."""
    if not SAMPLE.exists():
        pytest.skip(f'no COCO sample at {SAMPLE}')
    content = json.loads((SAMPLE / 'panoptic_val2017.json').read_text())
    maps = [_read_pooled(annotation) for annotation in content['annotations']]
    assert len(maps) == 103
    return np.stack(maps)


def test_yardsticks_of_method_md_on_real_maps(real_maps):
    shares = mcd.histograms(real_maps)
    assert mcd.chance(shares) == pytest.approx(1.805, abs=0.001)
    assert mcd.best_fixed_map(shares) == pytest.approx(1.51, abs=0.03)


@pytest.mark.parametrize(('category', 'expected'), [(0, 1.859), (1, 1.715)], ids=['void', 'person'])
def test_mcd_of_maps_of_one_category_on_real_maps(real_maps, category, expected):
    constant = np.full_like(real_maps, category)
    assert mcd.mcd(constant, real_maps).mean() == pytest.approx(expected, abs=0.001)


def test_right_categories_with_equal_areas_on_real_maps(real_maps):
    shares = mcd.histograms(real_maps)
    present = shares > 0
    equal = present / present.sum(axis=1, keepdims=True)
    assert np.abs(shares - equal).sum(axis=1).mean() == pytest.approx(0.886, abs=0.001)
