"""A GPU's forms of a block: the values of the plain ones, with tokens in order in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.machine import sharding
from panoptic_jax.models import forms, uvit


def value_and_gradients(own, tokens, gradient):
    """A compiled function and its arguments."""
    block = uvit.Block(4, forms=own)
    params = uvit.Block(4).init(jax.random.key(0), tokens)

    def of(params, tokens):
        found, pull_back = jax.vjp(block.apply, params, tokens)
        return found, pull_back(gradient)

    return jax.jit(of), (params, tokens)


# 12 examples are no multiple of 8 devices.
@pytest.mark.parametrize(
    ('devices', 'fsdp', 'batch'), [(1, 1, 3), (8, 1, 16), (8, 2, 8), (8, 2, 12)]
)
def test_a_block_of_a_gpu_is_the_plain_block(devices, fsdp, batch):
    rng = np.random.default_rng(0)
    tokens, gradient = (jnp.float32(rng.normal(size=(batch, 7, 32))) for _ in range(2))
    mesh = sharding.make_mesh(-1, fsdp, jax.devices()[:devices])
    on_gpu = forms.for_mesh(mesh, fused=False, platform='gpu')
    plain_block, arguments = value_and_gradients(forms.PLAIN, tokens, gradient)
    gpu_block, _ = value_and_gradients(on_gpu, tokens, gradient)
    expected = jax.tree.leaves(plain_block(*arguments))
    found = jax.tree.leaves(gpu_block(*arguments))
    for theirs, ours in zip(expected, found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_gpu_is_told_the_order_of_each_devices_tokens():
    """Told of the whole batch, it would gather the tokens of all devices (seen ahead of time)."""
    tokens = jnp.zeros((16, 7, 32))
    texts = []
    for devices in (1, 8):
        mesh = sharding.make_mesh(-1, 1, jax.devices()[:devices])
        on_gpu = forms.for_mesh(mesh, fused=False, platform='gpu')
        of, arguments = value_and_gradients(on_gpu, tokens, tokens)
        texts.append(of.trace(*arguments).lower(lowering_platforms=('cuda',)).as_text())
    for text, rows in zip(texts, (16, 2), strict=True):
        told = [line for line in text.splitlines() if '@LayoutConstraint' in line]
        # Forwards and backwards.
        assert len(told) == 2
        assert all(f'tensor<{rows}x7x32xf32>' in line for line in told)
    plain, arguments = value_and_gradients(forms.PLAIN, tokens, tokens)
    assert 'LayoutConstraint' not in plain.lower(*arguments).as_text()
