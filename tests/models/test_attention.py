"""Attention in every form, and what each platform gets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from panoptic_jax.machine import sharding
from panoptic_jax.models import (
    attention,
    attention_in_parts,
    attention_kernel,
    form_error,
    forms,
)


def packed(batch, tokens, size, seed=0):
    """Random (B, T, 3C) with scores of a few units, and a gradient (B, T, C)."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1.5, (batch, tokens, 3 * size)), rng.normal(size=(batch, tokens, size))


def test_plain_attention_is_a_softmax_over_keys():
    qkv, _ = packed(2, 7, 48)
    query, key, value = qkv.reshape(2, 7, 3, 3, 16).transpose(2, 0, 3, 1, 4)
    scores = np.einsum('bhqd,bhkd->bhqk', query, key) / 4
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = (weights @ value).swapaxes(1, 2).reshape(2, 7, 48)
    found = attention.einsum_attention(jnp.float32(qkv), 3)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    half = attention.einsum_attention(jnp.bfloat16(qkv), 3)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, atol=0.1)


@pytest.mark.parametrize(
    ('tokens', 'queries', 'size', 'heads'),
    [
        (128, None, 128, 1),
        (70, None, 256, 4),
        (150, None, 128, 4),
        (590, None, 128, 2),
        (40, None, 1152, 16),
        (333, 256, 128, 2),
        (150, 20, 256, 8),
        (290, 130, 128, 1),
        (40, 16, 1152, 16),
    ],
)
def test_kernel_is_the_plain_attention(tokens, queries, size, heads):
    """Values and gradients; interpreted, what lies beyond the tokens is NaN, as bad as on a TPU."""
    qkv, gradient = packed(2, tokens, size)
    gradient = gradient[:, :queries]

    def both(function, dtype):
        value, pull_back = jax.vjp(lambda x: function(x, heads, queries), jnp.asarray(qkv, dtype))
        (back,) = pull_back(jnp.asarray(gradient, dtype))
        return np.asarray(value, np.float32), np.asarray(back, np.float32)

    kernel = functools.partial(attention_kernel.kernel_attention, interpret=True)
    for dtype, tolerance in ((jnp.float32, 3e-6), (jnp.bfloat16, 2e-2)):
        found, expected = both(kernel, dtype), both(attention.einsum_attention, dtype)
        for name, a, b in zip(('value', 'gradient'), found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max(), err_msg=name)


@pytest.mark.parametrize(('queries', 'count'), [(None, 50), (30, 30)])
@pytest.mark.parametrize('at_once', [200, 2, 0])  # whole, in twos of six, one by one
def test_attention_in_parts_is_the_plain_one(at_once, queries, count):
    limit = at_once * count * 50 or 1
    qkv, gradient = (jnp.float32(array) for array in packed(2, 50, 24))
    gradient = gradient[:, :queries]
    on_cpu = forms.for_mesh(sharding.make_mesh(1, 1, jax.devices()[:1])).attention
    in_parts = functools.partial(attention_in_parts.attention_in_parts, scores_in_cache=limit)
    text = str(jax.make_jaxpr(lambda x: in_parts(x, 3, queries))(qkv))
    assert ('scan' in text) == (at_once < 6)

    for function in (on_cpu, in_parts):
        found, pull_back = jax.vjp(lambda x, f=function: f(x, 3, queries), qkv)
        expected, expected_back = jax.vjp(lambda x: attention.einsum_attention(x, 3, queries), qkv)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(pull_back(gradient)[0], expected_back(gradient)[0], atol=1e-5)


@pytest.mark.parametrize('queries', [None, 20])
def test_saved_attention_is_the_plain_one(queries):
    qkv, gradient = packed(2, 33, 96)
    gradient = gradient[:, :queries]

    def both(function, dtype):
        value, pull_back = jax.vjp(lambda x: function(x, 3, queries), jnp.asarray(qkv, dtype))
        (back,) = pull_back(jnp.asarray(gradient, dtype))
        assert value.dtype == back.dtype == dtype
        return np.asarray(value, np.float32), np.asarray(back, np.float32)

    for dtype, tolerance in ((jnp.float32, 3e-6), (jnp.bfloat16, 2e-2)):
        found, expected = (
            both(function, dtype)
            for function in (attention.saved_attention, attention.einsum_attention)
        )
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_kernel_over_devices_is_the_kernel_on_one():
    mesh = sharding.make_mesh(4, 2)
    # A TPU's forms, with devices that can compute: the kernel is interpreted.
    as_on_tpu = forms.for_mesh(mesh, platform='tpu').attention
    qkv = jnp.float32(packed(8, 40, 128)[0])
    form = forms.attention_form(qkv, 2, platform='tpu', num_devices=mesh.size)
    assert form is attention_kernel.kernel_attention
    apart = jax.jit(functools.partial(as_on_tpu, num_heads=2))
    rows = sharding.of_batch(mesh)
    found = apart(jax.device_put(qkv, rows))
    assert found.sharding.spec == PartitionSpec(('data', 'fsdp'))
    assert 'all-gather' not in apart.lower(jax.device_put(qkv, rows)).compile().as_text()
    alone = attention_kernel.kernel_attention(qkv, 2, interpret=True)
    np.testing.assert_allclose(found, alone, atol=1e-6)
    # A batch that the devices cannot share, and heads that do not fill a register's lanes.
    for batch, heads in ((3, 2), (8, 8 // 3 + 1)):
        assert attention_kernel.kernel_takes(40, 128, heads) == (heads == 2)
        few = jnp.float32(packed(batch, 40, 128 if heads == 2 else 96)[0])
        found = as_on_tpu(few, heads)
        np.testing.assert_allclose(found, attention.einsum_attention(few, heads), atol=2e-5)


@pytest.mark.parametrize('words', [0, 10])
def test_a_kernel_that_errs_on_these_devices_is_seen(words):
    right = forms.for_mesh(sharding.make_mesh(1, 1, jax.devices()[:1]))

    def error(form, dtype):
        qkv = jax.ShapeDtypeStruct((1, 46, 72), dtype)
        return form_error.attention_error(form, qkv, 3, words)

    assert error(right, jnp.float32) < 1e-4
    assert error(right, jnp.bfloat16) < 0.1
    wrong = [right._replace(attention=lambda *arguments: 1.2 * right.attention(*arguments))]
    if words:
        wrong.append(right._replace(join_heads=lambda *arrays: 1.2 * right.join_heads(*arrays)))
    for form in wrong:
        assert error(form, jnp.float32) > 0.2


def test_each_platform_gets_its_form():
    qkv = jnp.bfloat16(packed(2, 16, 128)[0])
    mesh = sharding.make_mesh(3, 1, jax.devices()[:3])

    def chosen(platform, num_devices=mesh.size):
        return forms.attention_form(qkv, 2, platform=platform, num_devices=num_devices)

    assert chosen('gpu') is attention.cudnn_attention
    assert chosen('cpu', num_devices=1) is attention_in_parts.attention_in_parts
    plain = attention.einsum_attention(qkv, 2)
    for platform, array, fused in (
        ('cpu', qkv, True),
        ('gpu', qkv, False),
        ('gpu', jnp.float32(qkv), True),
        ('tpu', qkv, False),
    ):
        found = forms.for_mesh(mesh, fused, platform).attention(array, 2)
        np.testing.assert_allclose(jnp.float32(found), jnp.float32(plain), atol=2e-2)


@pytest.fixture
def cudnn(monkeypatch):
    """Lets JAX lower for a GPU that is not there."""
    fused = 'jax._src.cudnn.fused_attention_stablehlo'
    monkeypatch.setattr(f'{fused}.check_cudnn_version', lambda: 91000)
    monkeypatch.setattr(f'{fused}.check_compute_capability', lambda capability: False)  # an A100


# Odd numbers of tokens, too: a caption of any length, an image of any size.
@pytest.mark.parametrize(
    ('tokens', 'queries', 'heads'),
    [(590, 590, 8), (335, 335, 8), (89, 89, 4), (153, 153, 32), (333, 256, 8), (88, 63, 8)],
)
@pytest.mark.usefixtures('cudnn')
def test_cudnn_attention_lowers_to_its_kernels(tokens, queries, heads):
    """Where there is no GPU, the program for one names cuDNN's kernels, forwards and backwards."""

    def value_and_gradient(qkv):
        mixed, pull_back = jax.vjp(lambda x: attention.cudnn_attention(x, heads, queries), qkv)
        return mixed, pull_back(mixed)

    shape = jax.ShapeDtypeStruct((4, tokens, 1536), jnp.bfloat16)
    assert attention.cudnn_takes(shape.dtype, 512 // heads)
    lowered = jax.jit(value_and_gradient).trace(shape).lower(lowering_platforms=('cuda',))
    mixed, (back,) = lowered.out_info
    assert mixed.shape == (4, queries, 512)
    assert back.shape == shape.shape
    text = lowered.as_text()
    assert '__cudnn$fmhaSoftmax' in text
    assert '__cudnn$fmhaSoftmaxBackward' in text


@pytest.mark.parametrize('size', [36, 288])
@pytest.mark.usefixtures('cudnn')
def test_heads_that_cudnn_does_not_take_get_the_plain_form(size):
    """JAX refuses heads of 36 channels, and of 288; a network may have them all the same."""
    qkv = jnp.bfloat16(packed(2, 10, 2 * size)[0])
    with pytest.raises(NotImplementedError, match='head dim'):
        jax.jit(functools.partial(attention.cudnn_attention, num_heads=2)).trace(qkv)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    on_gpu = forms.for_mesh(mesh, platform='gpu').attention
    found, plain = on_gpu(qkv, 2), attention.einsum_attention(qkv, 2)
    np.testing.assert_array_equal(jnp.float32(found), jnp.float32(plain))


@pytest.mark.parametrize(('count', 'queries'), [(8, 8), (9, 9), (9, 6), (8, 5)])
def test_a_token_beyond_the_end_changes_nothing(count, queries, monkeypatch):
    """What cuDNN gets, computed by JAX's own form of the same function: values and gradients."""
    qkv, gradient = (jnp.float32(array) for array in packed(2, count, 24))
    gradient = gradient[:, :queries]
    attend = jax.nn.dot_product_attention

    def by_xla(*arrays, implementation, **lengths):
        assert all(array.shape[1] % 2 == 0 for array in arrays)
        return attend(*arrays, implementation='xla', **lengths)

    monkeypatch.setattr(jax.nn, 'dot_product_attention', by_xla)
    found, pull_back = jax.vjp(lambda x: attention.cudnn_attention(x, 3, queries), qkv)
    expected, expected_back = jax.vjp(lambda x: attention.einsum_attention(x, 3, queries), qkv)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(pull_back(gradient)[0], expected_back(gradient)[0], atol=1e-5)
