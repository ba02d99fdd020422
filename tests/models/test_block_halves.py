"""Both halves of a block as a TPU's kernels, interpreted: the values of the plain layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panoptic_jax.machine import chips, sharding
from panoptic_jax.models import (
    block_halves,
    form_error,
    forms,
    mlp_kernel,
    product_kernel,
    uvit,
)
from panoptic_jax.models.block_halves import MlpWeights, ProductWeights
from panoptic_jax.models.joint_blocks import PlaceBlock
from panoptic_jax.models.layers import Dense


def random_arrays(dtype, **shapes):
    """Normal numbers that bfloat16 has; those of a layer keep the size of what they multiply."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes.items():
        deviation = shape[0] ** -0.5 if name.startswith('kernel') else 0.5
        array = (name == 'scale') + rng.normal(0, deviation, shape)
        arrays[name] = jnp.asarray(array, jnp.bfloat16).astype(dtype)
    return arrays


def layer(module, **parameters):
    return module.bind({'params': parameters})


def norm_of(weights, dtype):
    norm = nn.LayerNorm(uvit.LAYER_NORM_EPSILON, dtype=dtype)
    return layer(norm, scale=weights.scale, bias=weights.shift)


def mlp_of_layers(tokens, weights, dtype):
    fc1 = Dense(weights.kernel1.shape[1], dtype=dtype)
    fc2 = Dense(weights.kernel2.shape[1], dtype=dtype)
    return block_halves.residual_mlp(
        tokens.astype(dtype),
        norm_of(weights, dtype),
        layer(fc1, kernel=weights.kernel1, bias=weights.bias1),
        layer(fc2, kernel=weights.kernel2, bias=weights.bias2),
    )


def product_of_layers(tokens, weights, dtype):
    dense = Dense(weights.kernel.shape[1], use_bias=False, dtype=dtype)
    dense = layer(dense, kernel=weights.kernel)
    return block_halves.normed_product(tokens.astype(dtype), norm_of(weights, dtype), dense)


def mlp_half(size):
    """(kernel, layers, random weights) of the second half."""
    shapes = {
        'scale': (size,), 'shift': (size,),
        'kernel1': (size, 4 * size), 'bias1': (4 * size,),
        'kernel2': (4 * size, size), 'bias2': (size,),
    }  # fmt: skip
    weights = MlpWeights(**random_arrays(jnp.float32, **shapes))
    return mlp_kernel.kernel_mlp, mlp_of_layers, weights


def product_half(size):
    """(kernel, layers, random weights) of the first half."""
    shapes = {'scale': (size,), 'shift': (size,), 'kernel': (size, 3 * size)}
    weights = ProductWeights(**random_arrays(jnp.float32, **shapes))
    return product_kernel.kernel_normed_product, product_of_layers, weights


def values_and_gradients(function, tokens, weights, gradients):
    """Of the results, the tokens and each of the weights, as float32."""
    results, pull_back = jax.vjp(function, tokens, weights)
    asked = jax.tree.map(lambda a, b: a.astype(b.dtype), gradients, results)
    of_tokens, of_weights = pull_back(asked)
    found = {'results': results, 'tokens': of_tokens, 'weights': of_weights}
    return jax.tree.map(lambda array: array.astype(jnp.float32), found)


# Tokens that fill registers or hang over them, by one and by fifteen; odd numbers of examples.
@pytest.mark.parametrize('half', [mlp_half, product_half])
@pytest.mark.parametrize(
    ('batch', 'tokens', 'size', 'cores'),
    [(2, 32, 128, 1), (3, 33, 256, 1), (4, 47, 384, 2), (1, 18, 512, 1)],
)
def test_kernel_has_the_values_and_gradients_of_the_layers(half, batch, tokens, size, cores):
    """As near to what float32 gives as the layers themselves are in bfloat16."""
    own_kernel, layers, weights = half(size)
    given = random_arrays(jnp.float32, tokens=(batch, tokens, size))['tokens'] * 4 + 1

    def kernel(tokens, weights):
        typed = [a.astype(jnp.bfloat16) if a.ndim == 2 else a for a in weights]
        weights = type(weights)(*typed)
        return own_kernel(tokens.astype(jnp.bfloat16), weights, cores, interpret=True)

    shapes = jax.eval_shape(kernel, given, weights)
    rng = np.random.default_rng(1)
    gradients = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.bfloat16), shapes)
    in_bfloat16 = functools.partial(layers, dtype=jnp.bfloat16)
    in_float32 = functools.partial(layers, dtype=jnp.float32)
    found, rounded, exact = (
        jax.jit(functools.partial(values_and_gradients, form))(given, weights, gradients)
        for form in (kernel, in_bfloat16, in_float32)
    )
    for (place, expected), ours, theirs in zip(
        jax.tree.leaves_with_path(exact),
        jax.tree.leaves(found),
        jax.tree.leaves(rounded),
        strict=True,
    ):
        spread = jnp.std(expected)
        ours, theirs = (jnp.abs(array - expected) for array in (ours, theirs))
        assert ours.max() < 0.05 * spread, place
        assert ours.mean() < 1.1 * theirs.mean() + 1e-3 * spread, place


def test_tokens_that_nobody_reads_have_the_gradient_of_the_product_alone():
    own_kernel, layers, weights = product_half(128)
    tokens = random_arrays(jnp.bfloat16, tokens=(2, 20, 128))['tokens']
    typed = weights._replace(kernel=weights.kernel.astype(jnp.bfloat16))

    def loss(form, tokens):
        product, _ = form(tokens)
        return jnp.sum(product.astype(jnp.float32) ** 2)

    kernel = functools.partial(own_kernel, weights=typed, interpret=True)
    plain = functools.partial(layers, weights=weights, dtype=jnp.float32)
    found = jax.grad(functools.partial(loss, kernel))(tokens).astype(jnp.float32)
    expected = jax.grad(functools.partial(loss, plain))(tokens.astype(jnp.float32))
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


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
    shape = 16, 20, 128
    tokens, gradient = random_arrays(jnp.bfloat16, tokens=shape, gradient=shape).values()
    mesh = sharding.make_mesh(-1, fsdp)
    on_tpu = forms.for_mesh(mesh, platform='tpu')._replace(remat=remat)
    of_plain, arguments = block_gradients(forms.PLAIN, (0, 1), tokens, gradient)
    of_tpu, _ = block_gradients(on_tpu, (0, 1), tokens, gradient)
    text = str(jax.make_jaxpr(of_tpu)(*arguments))
    assert all(f'name={name}_gradient\n' in text for name in ('normed_product', 'mlp'))
    expected, found = of_plain(*arguments), of_tpu(*arguments)
    for theirs, ours in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        theirs, ours = (np.asarray(array, np.float32) for array in (theirs, ours))
        np.testing.assert_allclose(ours, theirs, atol=0.03 * np.abs(theirs).max())
    # Frozen blocks pass gradients on and have none of their own.
    of_tokens, _ = block_gradients(on_tpu, 1, tokens, gradient)
    text = str(jax.make_jaxpr(of_tokens)(*arguments))
    for name in ('normed_product', 'mlp'):
        assert f'name={name}_gradient_of_tokens\n' in text
        assert f'name={name}_gradient\n' not in text
    _, found = of_tokens(*arguments)
    np.testing.assert_array_equal(found, of_tpu(*arguments)[1][1])


def inputs_of(kind, dtype, batch=2):
    """Shapes of what a block takes: tokens, or places, words and condition."""
    tokens = jax.ShapeDtypeStruct((batch, 16, 128), dtype)
    if kind is uvit.Block:
        return [tokens]
    words = tokens.update(shape=(batch, 3, 128))
    return [tokens, words, jax.ShapeDtypeStruct((batch, 128), jnp.float32)]


@pytest.mark.parametrize('kind', [uvit.Block, PlaceBlock])
@pytest.mark.parametrize('devices', [1, 8])
def test_a_half_that_errs_on_these_devices_is_seen(kind, devices):
    """Also over eight devices, each of which has a part of every weight's gradient."""
    mesh = sharding.make_mesh(-1, 1, jax.devices()[:devices])
    right = forms.for_mesh(mesh, platform='tpu')

    def error(own, dtype):
        inputs = inputs_of(kind, dtype, batch=16)
        return form_error.block_error(own, functools.partial(kind, 2, dtype), inputs)

    assert error(right, jnp.float32) < 1e-4
    assert error(right, jnp.bfloat16) < 0.15

    def product(*arguments):
        found, tokens = right.normed_product(*arguments)
        return 1.2 * found, tokens

    wrong = [
        right._replace(mlp=lambda *arguments: 1.2 * right.mlp(*arguments)),
        right._replace(normed_product=product),
    ]
    if kind is PlaceBlock:  # which has other halves
        wrong = [right._replace(join_heads=lambda *arrays: 1.2 * right.join_heads(*arrays))]
    for own in wrong:
        assert error(own, jnp.bfloat16) > 0.2


def test_what_the_kernels_do_not_take_is_computed_by_the_layers():
    mesh = sharding.make_mesh(-1, 1)
    on_tpu = forms.for_mesh(mesh, platform='tpu')

    def uses_kernel(own, batch=8, tokens=20, size=128, dtype=jnp.bfloat16):
        block = uvit.Block(2, dtype, own)
        arguments = jax.ShapeDtypeStruct((batch, tokens, size), dtype)
        params = jax.eval_shape(uvit.Block(2).init, jax.random.key(0), arguments)
        text = str(jax.make_jaxpr(block.apply)(params, arguments))
        used = {f'name={name}\n' in text for name in ('normed_product', 'mlp')}
        assert len(used) == 1  # both or none
        return used.pop()

    assert uses_kernel(on_tpu)
    assert not uses_kernel(on_tpu, batch=12)  # which eight devices cannot share
    assert not uses_kernel(on_tpu, size=96)  # which do not fill a register
    assert not uses_kernel(on_tpu, dtype=jnp.float32)
    assert not uses_kernel(on_tpu, tokens=20_000)
    assert not uses_kernel(forms.for_mesh(mesh, fused=False, platform='tpu'))
    assert not uses_kernel(forms.for_mesh(mesh))


# Size M leaves 69 of the 128 MiB of a TPU v5e to others; sizes L and H would leave 36 and 17.
@pytest.mark.parametrize(
    ('kind', 'largest'), [('TPU v4', 0), ('TPU v5e', 768), ('TPU v5', 512), ('TPU v6', 768)]
)
def test_the_mlp_takes_what_leaves_vector_memory_to_others(kind, largest):
    memory = chips.known_chip(kind).vector_memory
    for size in (512, 768, 1024, 1152):
        tokens = jax.ShapeDtypeStruct((16, 590, size), jnp.bfloat16)
        assert mlp_kernel.mlp_takes(tokens, 4 * size, memory) == (size <= largest)
