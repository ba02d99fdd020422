"""What places and words bring to attention: turned heads, their closed form, the TPU's kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from panoptic_jax.machine import sharding
from panoptic_jax.models import forms, place_heads, place_heads_kernel


def random_inputs(places, words, size, heads, *, batch=2, dtype=jnp.float32):
    """Places (B, N, 3C), words (B, L, 2C), gain (heads,) and a gradient (B, N + L, 3C)."""
    rng = np.random.default_rng(0)
    shapes = (places, 3 * size), (words, 2 * size), (places + words, 3 * size)
    *arrays, gradient = (jnp.asarray(rng.normal(0, 2, (batch, *shape)), dtype) for shape in shapes)
    gain = jnp.asarray(rng.uniform(0.5, 2, heads), jnp.float32)
    return *arrays, gain, gradient


def values_and_gradients(function, places, words, gain, gradient):
    joined, pull_back = jax.vjp(function, places, words, gain)
    return joined, *pull_back(gradient)


def test_scores_of_turned_arrays_depend_on_relative_places_only():
    side, head_size = 6, 16
    angles = place_heads.rotary_angles(side, head_size)
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, head_size)).astype(np.float32)

    def at_all_places(vector):
        heads = jnp.broadcast_to(vector, (1, side * side, 1, head_size))
        return place_heads.rotate(heads, angles)[0, :, 0]

    scores = at_all_places(query) @ at_all_places(key).T
    scores = scores.reshape(side, side, side, side)  # row and column of a query, then of a key
    np.testing.assert_allclose(scores[1:, 2:, 1:, 2:], scores[:-1, :-2, :-1, :-2], atol=1e-4)
    # Closed form: pairs (i, i + D / 2) are complex numbers, turned by the difference of angles.
    half = head_size // 2
    pairs = (query[:half] + 1j * query[half:]) * np.conj(key[:half] + 1j * key[half:])
    turns = np.exp(1j * (angles[8] - angles[27]))
    expected = (pairs * turns).real.sum()
    np.testing.assert_allclose(scores[1, 2, 4, 3], expected, atol=1e-4)
    assert np.std(scores[0, 0]) > 0.1
    assert np.abs(scores - scores.transpose(1, 0, 3, 2)).max() > 0.1  # rows are not columns


def test_angles_span_the_picture_whatever_its_places():
    few, many = place_heads.rotary_angles(4, 8), place_heads.rotary_angles(16, 8)
    np.testing.assert_allclose(many.reshape(16, 16, 4)[::4, ::4].reshape(16, 4), few, rtol=1e-6)


def test_joined_heads_have_their_closed_form():
    places, words, gain, _ = random_inputs(9, 4, 16, 2)
    found = np.asarray(place_heads.join_heads(places, words, gain)).reshape(2, 13, 3, 2, 8)

    def normed(array):
        return array / np.sqrt((np.asarray(array) ** 2).mean(-1, keepdims=True) + 1e-6)

    own = np.asarray(places).reshape(2, 9, 3, 2, 8)
    turns = np.exp(1j * place_heads.rotary_angles(3, 8))[:, None]  # (9, 1, 4)
    for number, factor in ((0, np.asarray(gain)[:, None]), (1, 1.0)):
        heads = normed(own[:, :, number]) * factor
        pairs = (heads[..., :4] + 1j * heads[..., 4:]) * turns
        expected = np.concatenate([pairs.real, pairs.imag], axis=-1)
        np.testing.assert_allclose(found[:, :9, number], expected, atol=1e-5)
    np.testing.assert_array_equal(found[:, :9, 2], own[:, :, 2])
    of_words = np.asarray(words).reshape(2, 4, 2, 2, 8)
    assert not found[:, 9:, 0].any()
    np.testing.assert_allclose(found[:, 9:, 1], normed(of_words[:, :, 0]), atol=1e-5)
    np.testing.assert_array_equal(found[:, 9:, 2], of_words[:, :, 1])


@pytest.mark.parametrize(
    ('places', 'words', 'size', 'heads'),
    [(16, 5, 128, 2), (64, 7, 256, 4), (16, 3, 128, 1), (16, 77, 1152, 16)],
)
def test_kernel_joins_as_the_plain_form_does(places, words, size, heads):
    kernel = functools.partial(place_heads_kernel.kernel_join_heads, interpret=True)
    for dtype, tolerance in ((jnp.float32, 3e-6), (jnp.bfloat16, 1e-2)):
        inputs = random_inputs(places, words, size, heads, dtype=dtype)
        assert place_heads_kernel.join_takes(*inputs[:2], heads)
        found, expected = (
            jax.jit(functools.partial(values_and_gradients, function))(*inputs)
            for function in (kernel, place_heads.join_heads)
        )
        for name, a, b in zip(('value', 'places', 'words', 'gain'), found, expected, strict=True):
            assert a.dtype == b.dtype
            a, b = (np.asarray(array, np.float32) for array in (a, b))
            np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max(), err_msg=name)


def test_kernel_over_devices_is_the_plain_form():
    """Also the gradient of the gain, which every device has a part of."""
    mesh = sharding.make_mesh(4, 2)
    as_on_tpu = forms.for_mesh(mesh, platform='tpu').join_heads
    *inputs, gradient = random_inputs(16, 5, 128, 2, batch=8)
    rows = sharding.of_batch(mesh)
    apart = jax.jit(functools.partial(values_and_gradients, as_on_tpu))
    placed = [jax.device_put(array, rows) for array in (*inputs[:2], gradient)]
    arguments = *placed[:2], inputs[2], placed[2]
    assert 'pallas' in str(jax.make_jaxpr(apart)(*arguments))
    found = apart(*arguments)
    assert found[0].sharding.spec == PartitionSpec(('data', 'fsdp'))
    assert 'all-gather' not in apart.lower(*arguments).compile().as_text()
    expected = values_and_gradients(place_heads.join_heads, *inputs, gradient)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6 * np.abs(b).max())


@pytest.mark.parametrize(
    ('batch', 'places', 'size', 'heads', 'fused'),
    [
        (3, 16, 128, 2, True),  # that the devices cannot share
        (8, 36, 128, 2, True),  # places that do not fill registers
        (8, 16, 96, 3, True),  # heads that do not
        (8, 4096, 128, 2, True),  # more than fit into the memory
        (8, 16, 128, 2, False),
    ],
)
def test_what_the_kernel_does_not_take_gets_the_plain_form(batch, places, size, heads, fused):
    join = forms.for_mesh(sharding.make_mesh(4, 2), fused, platform='tpu').join_heads
    *inputs, _ = random_inputs(places, 5, size, heads, batch=batch)
    assert 'pallas' not in str(jax.make_jaxpr(join)(*inputs))
    expected = place_heads.join_heads(*inputs)
    np.testing.assert_allclose(join(*inputs), expected, atol=1e-6)


def test_other_platforms_get_the_plain_form():
    *inputs, _ = random_inputs(16, 5, 128, 2, batch=8)
    for platform in ('cpu', 'gpu'):
        join = forms.for_mesh(sharding.make_mesh(4, 2), platform=platform).join_heads
        assert 'pallas' not in str(jax.make_jaxpr(join)(*inputs))
