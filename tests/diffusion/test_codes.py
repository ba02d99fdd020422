"""Codes of instances: drawn without repeats, and read in spite of wrong bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.diffusion import bits, codes

read = jax.jit(codes.read, static_argnums=2)


@pytest.fixture(scope='module')
def numbers():
    """(6, 24, 24) uint8 instance numbers: touching squares, none, and all 255."""
    rng = np.random.default_rng(0)
    made = rng.integers(0, 7, (6, 4, 4)).repeat(6, axis=1).repeat(6, axis=2)
    made[5] = np.arange(24 * 24).reshape(24, 24) % 256
    return made.astype(np.uint8)


def test_each_thing_has_one_code_of_its_own(numbers):
    drawn = np.asarray(codes.draw(jnp.asarray(numbers), jax.random.key(1)))
    assert drawn.dtype == np.uint8
    for row, own in zip(numbers, drawn, strict=True):
        pairs = np.unique(np.stack([row.ravel(), own.ravel()]), axis=1)
        assert len(pairs[0]) == len(np.unique(row)) == len(np.unique(own))
        assert np.array_equal(own == 0, row == 0)


def test_codes_depend_on_key_and_place_alone(numbers):
    same = jnp.asarray(np.stack([numbers[0]] * 6))
    draw = jax.jit(codes.draw)
    first, other = (np.asarray(draw(same, jax.random.key(seed))) for seed in (1, 2))
    again = np.asarray(codes.draw(jnp.asarray(numbers), jax.random.key(1)))
    np.testing.assert_array_equal(first[0], again[0])
    assert (first != other).mean() > 0.5
    assert (first[0] != first[1]).mean() > 0.5


def test_every_code_is_as_likely():
    drawn = codes.draw(jnp.ones((4096, 1, 1), jnp.uint8), jax.random.key(0))
    counts = np.bincount(np.ravel(drawn), minlength=256)
    assert counts[0] == 0
    # 16 of each are expected, with a deviation of 4.
    assert 1 < counts[1:].min() < counts.max() < 40


def discs(rng, side=48):
    """Instance numbers of up to five discs that touch or overlap, and codes for them."""
    y, x = np.mgrid[:side, :side]
    made = np.zeros((8, side, side), np.uint8)
    for row in made:
        centre = rng.uniform(10, side - 10, 2)
        for number in range(1, rng.integers(3, 6)):
            row[np.hypot(y - centre[0], x - centre[1]) < rng.uniform(5, 8)] = number
            centre = np.clip(centre + rng.uniform(-12, 12, 2), 6, side - 6)
    return made


@pytest.mark.parametrize('rate', [0.01, 0.03])
def test_flipped_bits_do_not_make_things(rate):
    rng = np.random.default_rng(0)
    made = discs(rng)
    truth = np.asarray(codes.draw(jnp.asarray(made), jax.random.key(0)))
    flips = rng.random((*truth.shape, 8)) < rate
    clean = np.asarray(bits.ids_to_bits(jnp.asarray(truth)))
    values = jnp.asarray(np.where(flips, -0.5, 1.0) * clean, jnp.float32)
    is_thing = jnp.asarray(made > 0)
    found = np.asarray(read(values, is_thing, 8))
    raw = np.asarray(bits.bits_to_ids(values, np.arange(256), 'threshold'))
    wrong, wrong_raw = (np.mean((each != truth)[made > 0]) for each in (found, raw))
    assert wrong_raw > 5 * rate
    assert wrong < 0.15 * wrong_raw
    assert not found[made == 0].any()
    # A thing of less than 8 pixels may go; none is invented.
    for row, true_row in zip(found, truth, strict=True):
        assert {*np.unique(row)} <= {*np.unique(true_row)}


def test_clean_codes_are_read_as_they_are():
    rng = np.random.default_rng(1)
    made = discs(rng)
    # Things of a few pixels may be cut by others to specks.
    areas = [np.bincount(row.ravel(), minlength=256) for row in made]
    made = np.where(np.stack([a[row] >= 30 for a, row in zip(areas, made, strict=True)]), made, 0)
    truth = codes.draw(jnp.asarray(made), jax.random.key(0))
    found = read(bits.ids_to_bits(truth), jnp.asarray(made > 0), 8)
    np.testing.assert_array_equal(found, truth)
    # Crowds have no code, and keep none.
    crowds = read(bits.ids_to_bits(truth), jnp.ones(made.shape, bool), 8)
    np.testing.assert_array_equal(crowds, truth)


def test_codes_in_specks_alone_say_nothing():
    noise = np.random.default_rng(2).integers(0, 256, (8, 48, 48)).astype(np.uint8)
    values = bits.ids_to_bits(jnp.asarray(noise))
    assert not np.any(read(values, jnp.ones(noise.shape, bool), 8))


def test_a_code_whose_pixels_are_unsure_says_nothing():
    rng = np.random.default_rng(3)
    numbers = np.zeros((2, 32, 32), np.uint8)
    numbers[:, 2:12, 2:12], numbers[:, 15:30, 10:30] = 1, 2
    truth = codes.draw(jnp.asarray(numbers), jax.random.key(0))
    # The first thing's bits have their signs, and sizes like those of weights without training.
    sizes = np.where(numbers == 1, rng.uniform(0, 0.6, numbers.shape), 1)[..., None]
    values = bits.ids_to_bits(truth) * sizes
    found = np.asarray(read(values, jnp.asarray(numbers > 0), 8))
    np.testing.assert_array_equal(found, np.where(numbers == 2, truth, 0))
    surer = np.asarray(read(values * 2, jnp.asarray(numbers > 0), 8))
    np.testing.assert_array_equal(surer, truth)
