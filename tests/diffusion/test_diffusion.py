"""Schedule and codec against golden values and closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.diffusion import bits, schedule

CODES = np.array([0, 1, 2, 5, 90, 92, 193, 200], np.uint8)


def test_schedule_golden_values():
    alpha = np.exp(schedule.log_alphas())
    lam = schedule.log_snr(np.array([0.001, 1.0]))
    assert alpha[-1] ** 2 == pytest.approx(0.004660099, rel=1e-6)
    assert alpha[0] ** 2 == pytest.approx(0.99915, abs=5e-6)
    np.testing.assert_allclose(lam, [3.53471, -2.68202], atol=5e-6)
    np.testing.assert_allclose(
        schedule.time_of_log_snr(np.linspace(*lam, 77)),
        np.interp(np.linspace(*lam, 77), schedule.log_snr(np.linspace(1, 0.001, 200001)),
                  np.linspace(1, 0.001, 200001)),
        atol=1e-6,
    )  # fmt: skip


def test_bits_round_trip_every_code():
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    values = bits.ids_to_bits(jnp.asarray(ids))
    np.testing.assert_array_equal(values[0, 6], [-1, 1, 1, -1, -1, -1, -1, -1])  # 6, low bit first
    np.testing.assert_array_equal(bits.bits_to_ids(values, np.arange(256, dtype=np.uint8)), ids)


def test_invalid_codes_decode_to_the_nearest_valid_or_void():
    values = np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32)
    nearest = np.asarray(bits.bits_to_ids(values, CODES))
    threshold = np.asarray(bits.bits_to_ids(values, CODES, 'threshold'))
    plain = ((values > 0) * (1 << np.arange(8))).sum(-1)
    code_bits = 2.0 * ((CODES[:, None] >> np.arange(8)) & 1) - 1
    expected = CODES[np.argmax((values[:, None] * code_bits).sum(-1), axis=1)]
    valid = np.isin(plain, CODES)
    assert 0 < valid.sum() < len(plain)
    np.testing.assert_array_equal(nearest, expected)
    np.testing.assert_array_equal(nearest[valid], plain[valid])
    np.testing.assert_array_equal(threshold, np.where(valid, plain, 0))
    no_void = np.asarray(bits.bits_to_ids(values, CODES, 'no_void'))
    np.testing.assert_array_equal(no_void, bits.bits_to_ids(values, CODES[CODES > 0]))
    assert (no_void != nearest).any()
    np.testing.assert_array_equal(no_void[nearest > 0], nearest[nearest > 0])
    with pytest.raises(ValueError, match='decode'):
        bits.bits_to_ids(values, CODES, 'best')


@pytest.mark.parametrize('void_wins', [False, True])
def test_min_pool_against_a_loop(void_wins):
    rng = np.random.default_rng(1)
    category = rng.choice(CODES, (2, 24, 24), p=[0.65] + [0.05] * 7)
    instance = rng.integers(0, 256, (2, 24, 24)).astype(np.uint8)
    pooled = bits.min_pool(category, instance, 4, void_wins)
    for n, i, j in np.ndindex(2, 6, 6):
        window = (n, slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
        pairs = list(zip(category[window].ravel(), instance[window].ravel(), strict=True))
        rank = lambda pair: ((pair[0] or (0 if void_wins else 256)), pair[1] or 256)  # noqa: E731
        assert (pooled[0][n, i, j], pooled[1][n, i, j]) == min(pairs, key=rank)
    twice = bits.min_pool(*bits.min_pool(category, instance, 2, void_wins), 2, void_wins)
    np.testing.assert_array_equal(pooled, twice)
    np.testing.assert_array_equal(
        pooled, bits.min_pool(jnp.asarray(category), jnp.asarray(instance), 4, void_wins)
    )
    with pytest.raises(ValueError, match='pooled by 5'):
        bits.min_pool(category, instance, 5)
