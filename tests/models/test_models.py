"""The networks: sizes, order of values, gradients, and what is special about two streams."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from panoptic_jax.diffusion.bits import NUM_BITS
from panoptic_jax.models import build, two_stream, uvit
from panoptic_jax.programs import optimizers, state

LATENT, TEXT = (8, 8, 3), (5, 12)
CHANNELS = {'join': 'channels', 'separate_times': True}
TINY = {
    'latent_shape': LATENT,
    'text_tokens': 5,
    'map_channels': NUM_BITS,
    'hidden_size': 32,
    'depth': 2,
    'num_heads': 2,
}


@functools.cache
def tiny(name, patch_factor=2, **options):
    """(model, params, inputs): every parameter random, so that none can hide by being zero."""
    separate_times = options.get('separate_times', False)
    model = build.build(name, patch_factor=patch_factor, **TINY, **options)
    abstract = build.example_inputs(
        latent_shape=LATENT,
        patch_factor=patch_factor,
        text_shape=TEXT,
        map_channels=NUM_BITS,
        separate_times=separate_times,
        batch_size=2,
    )
    shapes = build.abstract_parameters(model, abstract)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.2, a.shape), a.dtype), shapes)
    x, m, text, _ = (jnp.asarray(rng.normal(size=a.shape), a.dtype) for a in abstract)
    t = jnp.array([3, 900])
    return model, params, (x, m, text, jnp.stack([t, t[::-1]], 1) if separate_times else t)


@functools.cache
def at_start(name, **options):
    """The same as `tiny`, but with the parameters that training starts from."""
    model, _, inputs = tiny(name, **options)
    first = jax.jit(lambda key: build.first_parameters(model, key, inputs))
    return model, first(jax.random.key(1)), inputs


def apply(model, params, inputs):
    return jax.jit(model.apply)({'params': params}, *inputs)


SIZE_S = {'one_stream': (44_857_612, 44_956_012, 45_349_612)}
SIZE_S['two_stream'] = (92_375_308, 92_473_708, 92_867_308)


@pytest.mark.parametrize(
    ('name', 'size', 'patch_factor', 'expected'),
    [('uvit', 'S', 2, 44_692_644), ('uvit', 'S-deep', 2, 58_345_636)]
    + [(name, 'S', k, n) for name in SIZE_S for k, n in zip((1, 2, 4), SIZE_S[name], strict=True)],
)
def test_published_parameter_counts(name, size, patch_factor, expected):
    assert parameter_count(name, size, patch_factor) == expected


@pytest.mark.parametrize(
    ('name', 'settings', 'more'),
    [
        # Positions of the map's 256 tokens go; a token of the map's time has one position.
        ('one_stream', {'join': 'channels'}, -256 * 512),
        ('one_stream', {'join': 'channels', 'separate_times': True}, -255 * 512),
        ('one_stream', {'separate_times': True}, 512),
        ('two_stream', {'separate_times': True}, 512),
    ],
)
def test_parameters_beyond_the_paper(name, settings, more):
    assert parameter_count(name, 'S', 2, **settings) == SIZE_S[name][1] + more


def parameter_count(name, size, patch_factor, **settings):
    model = build.build(
        name,
        latent_shape=(32, 32, 4),
        text_tokens=77,
        map_channels=NUM_BITS,
        patch_factor=patch_factor,
        **settings,
        **uvit.SIZES[size],
    )
    inputs = build.example_inputs(
        latent_shape=(32, 32, 4),
        patch_factor=patch_factor,
        text_shape=(77, 768),
        map_channels=NUM_BITS,
        separate_times=settings.get('separate_times', False),
    )
    shapes = build.abstract_parameters(model, inputs)
    return sum(math.prod(a.shape) for a in jax.tree.leaves(shapes))


def test_two_streams_start_as_the_pretrained_image_model():
    model, params, inputs = at_start('two_stream')
    image_model, _, _ = tiny('uvit')
    alone = apply(image_model, {'image': params['image']}, inputs)
    together = apply(model, params, inputs)
    np.testing.assert_array_equal(together.image, alone.image)
    assert alone.map is None
    assert np.abs(together.map).max() > 1e-3

    kernel = jax.random.normal(jax.random.key(2), (32, 32))
    for level in range(3):  # in, middle and out: each speaks to the image
        speaking = params['map'] | {f'zero_convs_{level}': {'kernel': kernel}}
        changed = apply(model, params | {'map': speaking}, inputs)
        assert np.abs(changed.image - alone.image).max() > 1e-3


def test_map_blocks_start_as_copies_of_the_image_blocks():
    _, params, _ = at_start('two_stream')
    for level in range(3):
        name = f'blocks_{level}'
        jax.tree.map(np.testing.assert_array_equal, params['map'][name], params['image'][name])
    assert 'skip' not in params['map']['blocks_1']
    assert 'skip' in params['map']['blocks_2']


def test_one_optimiser_step_leaves_frozen_parameters_alone():
    model, params, inputs = at_start('two_stream')
    optimizer = optimizers.make('adamw', lambda step: 1e-2, weight_decay=0.5, betas=(0.9, 0.9))
    is_frozen = build.frozen_rule('two_stream')
    before = jax.jit(lambda params: state.create(params, is_frozen, optimizer))(params)

    @jax.jit
    def step(before):
        def loss(trainable):
            image, map_ = apply(model, state.merge(trainable, before.frozen), inputs)
            image_loss = jnp.mean((image - inputs[0]) ** 2)
            map_loss = jnp.mean((map_ - jnp.sign(inputs[1])) ** 2)
            return image_loss + map_loss

        return state.apply_gradients(before, jax.grad(loss)(before.params), optimizer, 0.9)[0]

    after = step(before)
    jax.tree.map(np.testing.assert_array_equal, after.frozen, before.frozen)
    moved = jax.tree.map(lambda a, b: (np.asarray(a) != b).any(), after.params, before.params)
    # A fresh zero-conv has a gradient (decay does nothing to zeros), so everything trainable moves.
    assert all(jax.tree.leaves(moved))
    frozen = set(flatten_dict(before.frozen, sep='/'))
    assert frozen == {name for name in flatten_dict(params, sep='/') if two_stream.is_frozen(name)}
    assert {name.split('/')[1].split('_')[0] for name in frozen} == {'patch', 'text', 'blocks'}
    trainable = set(flatten_dict(params, sep='/')) - frozen
    for tree in (after.params, after.ema, after.opt_state[0].mu, after.opt_state[0].nu):
        assert set(flatten_dict(tree, sep='/')) == trainable
    assert trainable >= {'image/positions', 'image/norm/scale', 'image/head/kernel'}
    merged = flatten_dict(state.merge(after.params, after.frozen), sep='/')
    assert set(merged) == frozen | trainable


@pytest.mark.parametrize('name', ['one_stream', 'two_stream'])
def test_given_map_guides_the_image_and_is_not_predicted(name):
    model, params, (x, m, text, t) = tiny(name, given_map=True)
    assert not {'head', 'final_conv'} & set(params['map'])
    first = apply(model, params, (x, m, text, t))
    second = apply(model, params, (x, -m, text, t))
    assert first.map is None
    assert np.abs(first.image - second.image).max() > 1e-2


def test_given_map_tokens_reach_the_image_head_even_without_attention():
    """Silent blocks (but for their skips) and zero-convs leave the sum before the image head."""
    model, params, (x, m, text, t) = tiny('two_stream', given_map=True)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, a: a * 0 if re.search('proj|fc2|zero_convs', str(path)) else a, params
    )
    changed = m.at[:, :4, :4].multiply(-1)  # map patch 4 x 4 belongs to image token 0
    difference = apply(model, silent, (x, changed, text, t)).image
    difference -= apply(model, silent, (x, m, text, t)).image
    reached = np.abs(difference).max(axis=(0, 3)) > 1e-6
    assert reached[:3, :3].all()  # token 0 is 2 x 2, and the convolution reaches one further
    assert reached.sum() == 9


@pytest.mark.parametrize('name', ['one_stream', 'two_stream'])
def test_zeroed_map_input_is_not_seen(name):
    model, params, (x, m, text, t) = tiny(name, zero_map_input=True)
    first, second = (apply(model, params, (x, value, text, t)) for value in (m, 3 - m))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.map, second.map)
    seeing, _, _ = tiny(name)
    assert np.abs(apply(seeing, params, (x, m, text, t)).map - first.map).max() > 1e-2


@pytest.mark.parametrize('patch_factor', [1, 2, 4])
def test_map_sizes(patch_factor):
    model, params, inputs = tiny('one_stream', patch_factor=patch_factor)
    side = 8 * patch_factor
    assert inputs[1].shape == (2, side, side, 8)
    prediction = apply(model, params, inputs)
    assert prediction.map.shape == (2, side, side, 8)
    assert prediction.image.shape == (2, *LATENT)
    assert params['map']['positions'].shape == (16, 32)  # as many map tokens as image tokens
    assert np.abs(prediction.map).max() <= 1


def test_patches_are_rows_first_and_row_column_channel_inside():
    image = jnp.arange(1 * 4 * 6 * 3).reshape(1, 4, 6, 3)
    tokens = uvit.patchify(image, 2)
    assert tokens.shape == (1, 6, 12)
    np.testing.assert_array_equal(tokens[0, 1], image[0, :2, 2:4].reshape(-1))
    np.testing.assert_array_equal(tokens[0, 3], image[0, 2:, :2].reshape(-1))
    rng = np.random.default_rng(0)
    square = jnp.asarray(rng.normal(size=(2, 8, 8, 5)))
    np.testing.assert_array_equal(uvit.unpatchify(uvit.patchify(square, 4), 4, 5), square)


def test_time_embedding_is_cosines_then_sines():
    t = np.array([0.0, 1.0, 37.5, 1000.0])
    angles = t[:, None] * 10000.0 ** -(np.arange(6) / 6)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(uvit.time_embedding(jnp.asarray(t), 12), expected, atol=1e-4)


def test_flops_are_those_of_a_hand_count():
    model, params, inputs = tiny('uvit')
    tokens, d, batch = 1 + 5 + 16, 32, 2
    block = 2 * tokens * d * (3 + 1 + 4 + 4) * d + 4 * tokens * tokens * d
    skip = 2 * tokens * 2 * d * d
    ends = 2 * 16 * 12 * d * 2 + 2 * 5 * 12 * d + 2 * 64 * 9 * 3 * 3
    expected = batch * (3 * block + skip + ends)
    assert build.matmul_flops(lambda p, *a: apply(model, p, a), params, *inputs) == expected


def test_flops_of_a_loop_count_each_round():
    matrix = jnp.ones((4, 5))

    def loop(x):
        def body(carry, _):
            return jnp.tanh(carry @ matrix @ matrix.T), None

        return jax.lax.scan(body, x, xs=None, length=7)[0]

    assert build.matmul_flops(loop, jnp.ones((3, 4))) == 7 * 2 * (2 * 3 * 4 * 5)
    assert build.matmul_flops(jax.jit(loop), jnp.ones((3, 4))) == 7 * 2 * (2 * 3 * 4 * 5)


@pytest.mark.parametrize('name', ['uvit', 'one_stream', 'two_stream'])
def test_bfloat16_computes_nearly_the_same(name):
    model, params, inputs = at_start(name)
    half = build.build(name, dtype=jnp.bfloat16, **TINY)
    whole, rough = apply(model, params, inputs), apply(half, params, inputs)
    for exact, found in zip(whole, rough, strict=True):
        if exact is None:
            continue
        assert found.dtype == jnp.float32
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert 1e-5 < error < 0.03


@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('uvit', {}),
        ('one_stream', {}),
        ('two_stream', {}),
        ('one_stream', {'given_map': True}),
        ('two_stream', {'given_map': True}),
        ('one_stream', CHANNELS),
        ('two_stream', {'separate_times': True}),
    ],
)
def test_every_parameter_is_alive(name, settings):
    model, params, inputs = tiny(name, **settings)

    @jax.jit
    @jax.grad
    def gradient(params):
        outputs = [a for a in apply(model, params, inputs) if a is not None]
        return sum(jnp.sum(jnp.sin(a)) for a in outputs)

    gradients = flatten_dict(gradient(params), sep='/')
    dead = [path for path, a in gradients.items() if not np.abs(a).max() > 1e-7]
    assert dead == []


def test_predicted_noise_of_the_map_is_not_bounded():
    model, params, inputs = tiny('one_stream')
    bounded = apply(model, params, inputs).map
    free = apply(tiny('one_stream', map_bounded=False)[0], params, inputs).map
    np.testing.assert_allclose(np.tanh(free), bounded, atol=1e-5)
    assert np.abs(free).max() > 1


@pytest.mark.parametrize('column', [0, 1])
@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('one_stream', {'separate_times': True}),
        ('one_stream', CHANNELS),
        ('two_stream', {'separate_times': True}),
    ],
)
def test_each_output_depends_on_each_time(name, settings, column):
    model, params, (*arrays, t) = tiny(name, **settings)
    first = apply(model, params, (*arrays, t))
    second = apply(model, params, (*arrays, t.at[0, column].add(40)))
    for before, after in zip(first, second, strict=True):
        assert np.abs(before - after)[0].max() > 1e-3
        np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize('settings', [{'join': 'channels'}, CHANNELS])
def test_patches_of_a_place_share_a_token(settings):
    """Without attention, a map patch reaches the image of its own place alone, and its map."""
    model, params, (x, m, text, t) = tiny('one_stream', **settings)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, a: a * 0 if re.search('proj|fc2', str(path)) else a, params
    )
    changed = m.at[:, 4:8, 8:12].multiply(-1)  # the patch of the token in row 1, column 2
    first, second = (apply(model, silent, (x, maps, text, t)) for maps in (m, changed))
    image = np.abs(first.image - second.image).max(axis=(0, 3)) > 1e-6
    map_ = np.abs(first.map - second.map).max(axis=(0, 3)) > 1e-6
    # A token is 2 x 2 latent and 4 x 4 map pixels; the convolution reaches one further.
    assert image[1:5, 3:7].all()
    assert image.sum() == 4 * 4
    assert map_[3:9, 7:13].all()
    assert map_.sum() == 6 * 6


# Of version 0.3.0.
FIRST_SUMS = {'uvit': 930.636055, 'one_stream': 1194.377607, 'two_stream': 2008.111604}


def test_first_values_are_those_of_before():
    """The sum of the sizes of all parameters that one key draws."""
    for name, expected in FIRST_SUMS.items():
        _, params, _ = at_start(name)
        found = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(params))
        assert found == pytest.approx(expected, rel=1e-6), name


def test_zero_convs_have_a_bias_on_request():
    model, params, inputs = tiny('two_stream', zero_conv_bias=True)
    assert params['map']['zero_convs_0']['bias'].shape == (32,)
    moved = jax.tree.map(lambda a: a, params)
    moved['map']['zero_convs_0']['bias'] += 1
    before, after = apply(model, params, inputs).image, apply(model, moved, inputs).image
    assert np.abs(after - before).max() > 1e-3
