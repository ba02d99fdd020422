"""The joint network: rotary positions, its start, what its outputs depend on, forms and sizes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from panoptic_jax.machine import sharding
from panoptic_jax.models import build, forms, joint_blocks, place_heads, uvit

LATENT, TEXT, MAP_CHANNELS = (8, 8, 3), (5, 12), 8
SIZES = {'hidden_size': 32, 'depth': 1, 'num_heads': 2}


def model_of(batch_size=2, latent=LATENT, text=TEXT, **options):
    """(model, abstract inputs) with a time for each stream."""
    options = {'separate_times': True, 'map_channels': MAP_CHANNELS} | SIZES | options
    model = build.build('joint', latent_shape=latent, text_tokens=text[0], **options)
    abstract = build.example_inputs(
        latent_shape=latent,
        patch_factor=options.get('patch_factor', 2),
        text_shape=text,
        map_channels=options['map_channels'],
        separate_times=options['separate_times'],
        batch_size=batch_size,
    )
    return model, abstract


def random_arrays(shapes, seed=0, std=0.2):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, std, a.shape), jnp.float32), shapes)


@functools.cache
def tiny(**options):
    """(model, random parameters, inputs)."""
    model, abstract = model_of(**options)
    params = random_arrays(build.abstract_parameters(model, abstract))
    *arrays, t = random_arrays(abstract, seed=1, std=1.0)
    times = np.random.default_rng(2).uniform(0, 1000, t.shape)
    return model, params, (*arrays, jnp.asarray(times, jnp.float32))


def apply(model, params, inputs):
    return jax.jit(model.apply)({'params': params}, *inputs)


def test_blocks_are_the_identity_at_the_start():
    places, words = random_arrays([jnp.zeros((2, 16, 32)), jnp.zeros((2, 5, 32))], std=1.0)
    condition = random_arrays(jnp.zeros((2, 32)), seed=1, std=1.0)
    block = joint_blocks.PlaceBlock(num_heads=2)
    key = jax.random.key(0)
    found, _ = jax.jit(block.init_with_output)(key, places, words, condition)
    np.testing.assert_array_equal(found, places)
    grid = places.reshape(2, 4, 4, 32)
    found, _ = jax.jit(joint_blocks.ConvBlock().init_with_output)(key, grid, condition)
    np.testing.assert_array_equal(found, grid)


def test_every_parameter_moves_within_three_steps_of_the_start():
    """The heads move first, then the gates, then what is behind the gates."""
    model, _, inputs = tiny()
    first = jax.jit(lambda key: build.first_parameters(model, key, inputs))(jax.random.key(1))
    prediction = apply(model, first, inputs)
    assert not np.any(prediction.image)
    assert not np.any(prediction.map)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            image, map_ = model.apply({'params': params}, *inputs)
            return jnp.mean((image - inputs[0]) ** 2) + jnp.mean((map_ - inputs[1]) ** 2)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = first, optimizer.init(first)
    still = []
    for _ in range(3):
        params, opt_state = step(params, opt_state)
        before, after = flatten_dict(first, sep='/'), flatten_dict(params, sep='/')
        still.append({name for name in before if np.array_equal(before[name], after[name])})
    assert 'image_head/kernel' not in still[0]
    assert 'blocks_0/qkv/kernel' in still[1]
    assert still[2] == set()


@pytest.mark.parametrize('column', [0, 1])
def test_each_output_depends_on_each_time(column):
    model, params, (*arrays, t) = tiny()
    first = apply(model, params, (*arrays, t))
    second = apply(model, params, (*arrays, t.at[0, column].add(300.0)))
    for before, after in zip(first, second, strict=True):
        assert np.abs(before - after)[0].max() > 1e-3
        np.testing.assert_array_equal(before[1], after[1])


def test_one_time_is_the_same_as_two_equal_ones():
    model, params, (*arrays, t) = tiny()
    one_time, _ = model_of(separate_times=False)
    expected = apply(model, params, (*arrays, t[:, [0, 0]]))
    found = apply(one_time, params, (*arrays, t[:, 0]))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('stream', [0, 1])
def test_each_output_depends_on_each_input_of_its_own_example(stream):
    model, params, inputs = tiny()
    first = apply(model, params, inputs)
    changed = list(inputs)
    changed[stream] = inputs[stream].at[0, 3, 4].multiply(-1)
    second = apply(model, params, changed)
    for before, after in zip(first, second, strict=True):
        assert np.abs(before - after)[0].max() > 1e-3
        np.testing.assert_array_equal(before[1], after[1])


def with_vectors(params, name, vectors):
    """Parameters whose modulation of this name gives these vectors, whatever the condition is."""
    dense = params[name]['dense']
    bias = jnp.zeros_like(dense['bias']) + jnp.asarray(vectors, jnp.float32)
    return params | {name: {'dense': {'kernel': jnp.zeros_like(dense['kernel']), 'bias': bias}}}


@pytest.mark.parametrize('stream', [0, 1])
def test_a_stream_s_gain_turns_all_of_it_down(stream):
    model, params, inputs = tiny()
    gains = np.zeros((3, params['stem_map']['kernel'].shape[-1]))
    gains[stream] = -1
    open_ = with_vectors(params, 'map_evidence', 0)
    closed = with_vectors(open_, 'modulation_in', gains.ravel())
    changed = list(inputs)
    changed[stream] = -inputs[stream]
    for weights, is_seen in ((open_, True), (closed, False)):
        first, second = (apply(model, weights, each) for each in (inputs, changed))
        for before, after in zip(first, second, strict=True):
            assert (np.abs(before - after).max() > 1e-3) == is_seen


def test_what_noisy_bits_say_of_themselves_is_added_to_what_the_network_expects():
    model, params, inputs = tiny()
    assert 'thing_means' not in params
    gain = np.random.default_rng(4).normal(size=MAP_CHANNELS)
    silent, loud = (with_vectors(params, 'map_evidence', vector) for vector in (0, gain))
    expected, found = (apply(model, weights, inputs) for weights in (silent, loud))
    np.testing.assert_array_equal(found.image, expected.image)
    logits = jnp.arctanh(expected.map) + gain * inputs[1]
    np.testing.assert_allclose(found.map, jnp.tanh(logits), rtol=1e-3, atol=1e-4)


def codes_of(params, features, codes):
    """`ThingMeans` in NumPy, one query at a time."""
    batch, side, _, size = features.shape
    found = np.zeros((batch, side, side, codes.shape[-1]))
    cells = side // 2
    pooled, values = (
        array.reshape(batch, cells, 2, cells, 2, -1).mean((2, 4)) for array in (features, codes)
    )

    def turned(name, vector, place, places):
        vector = vector @ params[name]['kernel'] + params[name]['bias']
        vector /= np.sqrt(np.mean(vector**2) + 1e-6)
        half = len(vector) // 2
        angles = place_heads.rotary_angles(places, len(vector))[place]
        return (vector[:half] + 1j * vector[half:]) * np.exp(1j * angles)

    for b, row, column in np.ndindex(batch, side, side):
        query = turned('query', features[b, row, column], row * side + column, side)
        keys = [
            turned('key', pooled[b].reshape(-1, size)[m], m, cells) for m in range(cells * cells)
        ]
        scores = np.array([(query * np.conj(key)).real.sum() for key in keys])
        weights = np.exp(params['gain'] * scores / np.sqrt(len(query) * 2))
        found[b, row, column] = weights @ values[b].reshape(cells * cells, -1) / weights.sum()
    return found


def test_a_thing_s_mean_is_weighted_by_what_looks_alike():
    rng = np.random.default_rng(5)
    features, codes = rng.normal(size=(2, 8, 8, 6)), rng.normal(size=(2, 8, 8, 5))
    means = joint_blocks.ThingMeans(8)
    shapes = jax.eval_shape(means.init, jax.random.key(0), features, codes)['params']
    params = jax.tree.map(np.asarray, random_arrays(shapes, std=1.0)) | {'gain': 3.0}
    found = jax.jit(means.apply)({'params': params}, features, codes)
    expected = codes_of(params, features, codes)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert expected.std(axis=(1, 2)).min() > 0.02


def test_noisy_codes_are_read_in_the_whole_map_and_noisy_categories_where_they_are():
    options = {'map_channels': 16}
    model, params, inputs = tiny(**options)
    quiet = with_vectors(params, 'modulation_in', np.repeat([0, -1, 0], 16))  # the stem sees no map
    for channel in range(16):
        changed = list(inputs)
        changed[1] = inputs[1].at[0, 3, 4, channel].add(5.0)
        first, second = (apply(model, quiet, each) for each in (inputs, changed))
        np.testing.assert_array_equal(first.image, second.image)
        differs = np.abs(jnp.arctanh(first.map) - jnp.arctanh(second.map))[0] > 1e-5
        assert not np.delete(differs, channel, axis=-1).any()
        is_code = channel >= 8
        assert differs[..., channel].sum() > 200 if is_code else differs[..., channel].sum() == 1


def test_codes_are_averaged_over_latent_pixels_and_shown_in_all_of_their_pixels():
    model, params, (image, map_, *rest) = tiny(map_channels=16, map_bounded=False)
    quiet = with_vectors(params, 'modulation_in', np.repeat([0, -1, 0], 16))
    silent, loud = (with_vectors(quiet, 'map_evidence', gain) for gain in (0, 1))
    blocks = map_.reshape(2, 8, 2, 8, 2, 16)
    codes_turned = jnp.concatenate([blocks[..., :8], blocks[:, :, ::-1, :, ::-1, 8:]], axis=-1)
    expected, of_turned, without = (
        apply(model, weights, (image, noisy, *rest)).map
        for weights, noisy in (
            (loud, map_),
            (loud, codes_turned.reshape(map_.shape)),
            (silent, map_),
        )
    )
    np.testing.assert_allclose(of_turned, expected, atol=1e-4)
    evidence = np.asarray(expected - without)[..., 8:].reshape(2, 8, 2, 8, 2, 8)
    first = evidence[:, :, :1, :, :1]
    np.testing.assert_allclose(evidence, np.broadcast_to(first, evidence.shape), atol=1e-4)
    assert first.std(axis=(1, 3)).min() > 1e-3


def test_the_order_of_words_counts():
    model, params, (x, m, text, t) = tiny()
    first = apply(model, params, (x, m, text, t))
    second = apply(model, params, (x, m, text[:, [0, 3, 2, 1, 4]], t))
    assert np.abs(first.map - second.map).max() > 1e-3


def test_words_queries_change_nothing_that_places_get():
    """Words are only read: attention over places and words, but for the words' rows."""

    def queries_keys_values(params, *inputs):
        seen = []

        def attention(qkv, num_heads, queries):
            assert queries == 16
            seen.append(qkv)
            return forms.PLAIN.attention(qkv, num_heads, queries)

        spying = model.clone(forms=forms.PLAIN._replace(attention=attention))
        spying.apply({'params': params}, *inputs)
        return seen

    model, params, inputs = tiny()
    (qkv,) = jax.jit(queries_keys_values)(params, *inputs)
    assert qkv.shape == (2, 16 + 5, 3 * 32)
    query, key, _ = np.split(np.asarray(qkv), 3, axis=-1)
    assert not query[:, 16:].any()
    keys_size = (key.reshape(2, 21, 2, 16) ** 2).mean(-1)
    np.testing.assert_allclose(keys_size, 1, rtol=1e-3)  # places' and words', turned or not
    gain = np.asarray(params['blocks_0']['gain'])[:, 0]
    queries_size = (query[:, :16].reshape(2, 16, 2, 16) ** 2).mean(-1)
    np.testing.assert_allclose(queries_size, np.broadcast_to(gain**2, (2, 16, 2)), rtol=1e-3)


def test_eight_devices_and_the_kernel_compute_what_one_does():
    """Also where a TPU's kernel mixes, which is interpreted here."""
    mesh = sharding.make_mesh(data=2, fsdp=4)
    options = {'batch_size': 8, 'hidden_size': 128, 'map_channels': 16}
    model, params, inputs = tiny(**options)
    with_kernel, _ = model_of(**options, forms=forms.for_mesh(mesh, platform='tpu'))
    placed = sharding.put_batch(
        dict(enumerate(np.asarray(array) for array in inputs)), sharding.of_batch(mesh)
    )
    found = apply(with_kernel, params, placed.values())
    expected = apply(model, params, inputs)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'options',
    [
        {'patch_size': 4, 'patch_factor': 2},
        {'patch_size': 2, 'patch_factor': 1, 'map_channels': 16, 'map_bounded': False},
    ],
)
def test_shapes_bounds_and_bfloat16(options):
    model, params, inputs = tiny(**options)
    exact = apply(model, params, inputs)
    side = 8 * options['patch_factor']
    assert exact.image.shape == (2, *LATENT)
    assert exact.map.shape == (2, side, side, options.get('map_channels', MAP_CHANNELS))
    assert (np.abs(exact.map).max() <= 1) == options.get('map_bounded', True)
    rough = apply(model_of(**options, dtype=jnp.bfloat16)[0], params, inputs)
    for found, expected in zip(rough, exact, strict=True):
        assert found.dtype == jnp.float32
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert 1e-5 < error < 0.05


def test_space_to_depth_keeps_the_order_of_patches():
    image = random_arrays(jnp.zeros((2, 8, 8, 3)), std=1.0)
    places = uvit.space_to_depth(image, 4)
    np.testing.assert_array_equal(places.reshape(2, 4, 48), uvit.patchify(image, 4))
    np.testing.assert_array_equal(uvit.depth_to_space(places, 4), image)


@pytest.mark.parametrize(('size', 'expected'), [('S', 71_156_876), ('H', 783_141_612)])
def test_parameter_counts_of_sizes(size, expected):
    model, abstract = model_of(latent=(32, 32, 4), text=(77, 768), **uvit.SIZES[size])
    shapes = build.abstract_parameters(model, abstract)
    assert sum(math.prod(a.shape) for a in jax.tree.leaves(shapes)) == expected
    side = uvit.SIZES[size]['hidden_size']
    assert forms.kernel_takes(16 * 16 + 77, side, uvit.SIZES[size]['num_heads'])
