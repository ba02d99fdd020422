"""The second half of a block as a TPU's kernel, interpreted: the values of the plain layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.machine import chips, sharding
from panoptic_jax.models import forms, mlp, mlp_kernel, uvit
from panoptic_jax.models.layers import Dense
from panoptic_jax.models.mlp_layout import Weights


def random_weights(size, hidden):
    """Weights of a trained network's size, float32."""
    rng = np.random.default_rng(1)

    def normal(mean, deviation, *shape):
        return jnp.asarray(rng.normal(mean, deviation, shape), jnp.float32)

    return Weights(
        scale=normal(1, 0.3, size),
        shift=normal(0, 0.3, size),
        kernel1=normal(0, size**-0.5, size, hidden),
        bias1=normal(0, 0.3, hidden),
        kernel2=normal(0, hidden**-0.5, hidden, size),
        bias2=normal(0, 0.3, size),
    )


def random_tokens(*shape):
    """Tokens and a gradient, (B, T, C) float32 that bfloat16 has."""
    rng = np.random.default_rng(0)
    arrays = rng.normal(0.5, 2, shape), rng.normal(0, 1, shape)
    return [jnp.asarray(array, jnp.bfloat16).astype(jnp.float32) for array in arrays]


def plain(tokens, weights, dtype):
    """The layers of a `Block` in a type, with these weights."""
    layers = {
        'norm': {'scale': weights.scale, 'bias': weights.shift},
        'fc1': {'kernel': weights.kernel1, 'bias': weights.bias1},
        'fc2': {'kernel': weights.kernel2, 'bias': weights.bias2},
    }
    modules = {
        'norm': uvit.nn.LayerNorm(uvit.LAYER_NORM_EPSILON, dtype=dtype),
        'fc1': Dense(weights.kernel1.shape[1], dtype=dtype),
        'fc2': Dense(weights.kernel2.shape[1], dtype=dtype),
    }
    bound = {name: modules[name].bind({'params': layers[name]}) for name in layers}
    return mlp.residual_mlp(tokens.astype(dtype), **bound)


def values_and_gradients(function, tokens, weights, gradient):
    """Of the result, the tokens and each of the weights, as float32."""
    result, pull_back = jax.vjp(function, tokens, weights)
    of_tokens, of_weights = pull_back(gradient.astype(result.dtype))
    found = {'result': result, 'tokens': of_tokens} | of_weights._asdict()
    return {name: array.astype(jnp.float32) for name, array in found.items()}


# Tokens that fill registers or hang over them, by one and by fifteen; odd numbers of examples.
@pytest.mark.parametrize(
    ('batch', 'tokens', 'size', 'cores'),
    [(2, 32, 128, 1), (3, 33, 256, 1), (4, 47, 384, 2), (3, 150, 512, 2), (1, 590, 128, 1)],
)
def test_kernel_has_the_values_and_gradients_of_the_layers(batch, tokens, size, cores):
    """As near to what float32 gives as the layers themselves are in bfloat16."""
    tokens, gradient = random_tokens(batch, tokens, size)
    weights = random_weights(size, 4 * size)

    def kernel(tokens, weights):
        typed = [array.astype(jnp.bfloat16) for array in (weights.kernel1, weights.kernel2)]
        weights = weights._replace(kernel1=typed[0], kernel2=typed[1])
        return mlp_kernel.kernel_mlp(tokens.astype(jnp.bfloat16), weights, cores, interpret=True)

    in_bfloat16 = functools.partial(plain, dtype=jnp.bfloat16)
    in_float32 = functools.partial(plain, dtype=jnp.float32)
    found, layers, exact = (
        jax.jit(functools.partial(values_and_gradients, form))(tokens, weights, gradient)
        for form in (kernel, in_bfloat16, in_float32)
    )
    for name, expected in exact.items():
        spread = jnp.std(expected)
        ours, theirs = (jnp.abs(form[name] - expected) for form in (found, layers))
        assert ours.max() < 0.05 * spread, name
        assert ours.mean() < 1.1 * theirs.mean() + 1e-3 * spread, name


def block_gradients(own, arguments, tokens, gradient):
    """Value and gradients of a block by `arguments` of (parameters, tokens), jitted."""
    block = uvit.Block(2, jnp.bfloat16, own)
    params = uvit.Block(2).init(jax.random.key(0), tokens)

    def of(params, tokens):
        loss = lambda *both: (block.apply(*both) * gradient).sum()  # noqa: E731
        return jax.value_and_grad(loss, arguments)(params, tokens)

    return jax.jit(of), (params, tokens)


@pytest.mark.parametrize('remat', [False, True])
@pytest.mark.parametrize('fsdp', [1, 2])
def test_a_block_of_a_tpu_is_the_plain_block(fsdp, remat):
    """Over eight devices, each of which has a part of every weight's gradient."""
    tokens, gradient = (array.astype(jnp.bfloat16) for array in random_tokens(16, 20, 128))
    mesh = sharding.make_mesh(-1, fsdp)
    on_tpu = forms.for_mesh(mesh, platform='tpu')._replace(remat=remat)
    of_plain, arguments = block_gradients(forms.PLAIN, (0, 1), tokens, gradient)
    of_tpu, _ = block_gradients(on_tpu, (0, 1), tokens, gradient)
    assert 'name=mlp_gradient\n' in str(jax.make_jaxpr(of_tpu)(*arguments))
    expected, found = of_plain(*arguments), of_tpu(*arguments)
    for theirs, ours in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        theirs, ours = (np.asarray(array, np.float32) for array in (theirs, ours))
        np.testing.assert_allclose(ours, theirs, atol=0.03 * np.abs(theirs).max())
    # Frozen blocks pass gradients on and have none of their own.
    of_tokens, _ = block_gradients(on_tpu, 1, tokens, gradient)
    text = str(jax.make_jaxpr(of_tokens)(*arguments))
    assert 'name=mlp_gradient_of_tokens\n' in text
    assert 'name=mlp_gradient\n' not in text
    _, found = of_tokens(*arguments)
    np.testing.assert_array_equal(found, of_tpu(*arguments)[1][1])


def test_what_the_kernel_does_not_take_is_computed_by_the_layers():
    mesh = sharding.make_mesh(-1, 1)
    on_tpu = forms.for_mesh(mesh, platform='tpu')

    def uses_kernel(own, batch=8, tokens=20, size=128, dtype=jnp.bfloat16):
        block = uvit.Block(2, dtype, own)
        arguments = jax.ShapeDtypeStruct((batch, tokens, size), dtype)
        params = jax.eval_shape(uvit.Block(2).init, jax.random.key(0), arguments)
        return 'name=mlp\n' in str(jax.make_jaxpr(block.apply)(params, arguments))

    assert uses_kernel(on_tpu)
    assert not uses_kernel(on_tpu, batch=12)  # which eight devices cannot share
    assert not uses_kernel(on_tpu, size=96)  # which do not fill a register
    assert not uses_kernel(on_tpu, dtype=jnp.float32)
    assert not uses_kernel(on_tpu, tokens=20_000)
    assert not uses_kernel(forms.for_mesh(mesh, fused=False, platform='tpu'))
    assert not uses_kernel(forms.for_mesh(mesh))


# Ahead of time the compiler took each of these with as much memory as it has, and no other one.
@pytest.mark.parametrize(
    ('kind', 'largest'), [('TPU v4', 0), ('TPU v5e', 1152), ('TPU v5', 768), ('TPU v6', 1152)]
)
def test_the_kernel_takes_what_the_vector_memory_holds(kind, largest):
    memory = chips.known_chip(kind).vector_memory
    for size in (512, 768, 1024, 1152):
        tokens = jax.ShapeDtypeStruct((16, 590, size), jnp.bfloat16)
        assert mlp_kernel.mlp_takes(tokens, 4 * size, memory) == (size <= largest)
