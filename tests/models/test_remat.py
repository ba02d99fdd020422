"""`model.remat`: the same values and gradients, less kept, and nothing that weights know of.

What is kept for the backward pass is counted in the trace: XLA for CPUs computes it again so early
that it saves no memory there.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import described, tiny_config

from panoptic_jax import config as settings
from panoptic_jax.diffusion.bits import NUM_BITS
from panoptic_jax.machine import sharding
from panoptic_jax.models import build, names
from panoptic_jax.models.forms import PLAIN
from panoptic_jax.programs.train_step import Recipe
from panoptic_jax.programs.training import abstract_batch, make_training


def network(name, *, remat):
    """(model, its abstract inputs) of 64 places."""
    shape = {'latent_shape': (16, 16, 3), 'map_channels': NUM_BITS, 'patch_factor': 2}
    model = build.build(
        name,
        text_tokens=5,
        hidden_size=32,
        depth=2,
        num_heads=2,
        forms=PLAIN._replace(remat=remat),
        **shape,
    )
    return model, build.example_inputs(text_shape=(5, 12), batch_size=4, **shape)


def gradient_of(model):
    """(params, inputs) -> (loss, gradients), jitted."""

    def loss(params, inputs):
        said = model.apply({'params': params}, *inputs)
        return sum((stream**2).mean() for stream in said if stream is not None)

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize('name', names.NAMES)
def test_values_gradients_and_names_are_the_same(name):
    kept, inputs = network(name, remat=False)
    again, _ = network(name, remat=True)
    shapes = build.abstract_parameters(kept, inputs)
    assert build.abstract_parameters(again, inputs) == shapes
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.1, a.shape), a.dtype), shapes)
    *arrays, time = inputs
    drawn = [jnp.asarray(rng.normal(size=a.shape), a.dtype) for a in arrays]
    drawn.append(jnp.arange(4, dtype=time.dtype) * 300)

    compiled = [gradient_of(model).lower(params, drawn).compile() for model in (kept, again)]
    (value, gradients), (value_again, gradients_again) = (one(params, drawn) for one in compiled)
    assert float(value_again) == pytest.approx(float(value), rel=1e-6)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * scale),
        gradients,
        gradients_again,
    )
    computed = [one.as_text().count(' dot(') for one in compiled]
    assert computed[1] > computed[0]


@pytest.mark.parametrize('name', names.NAMES)
def test_the_backward_pass_is_handed_less_than_half(name):
    def kept_bytes(remat):
        model, inputs = network(name, remat=remat)
        params = build.abstract_parameters(model, inputs)

        def backward(params, inputs):
            return jax.vjp(lambda params: model.apply({'params': params}, *inputs), params)[1]

        # The function that pulls back is a tree of all arrays that it needs.
        kept = jax.tree.leaves(jax.eval_shape(backward, params, inputs))
        held = sum(a.size for a in jax.tree.leaves(params))
        return 4 * (sum(array.size for array in kept) - held)

    assert kept_bytes(remat=True) < 0.5 * kept_bytes(remat=False)


def planned_step(data_dir, *, remat):
    """(description, abstract state, FLOPs, how often it is computed again) of a config's step."""
    config = tiny_config(data_dir)
    config.model.remat = remat
    description = described(config)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    training = make_training(
        description,
        Recipe(**settings.recipe(config)),
        void_wins=False,
        empty_text=description.blank_text(),
        mesh=mesh,
        fused_attention=False,
    )
    batch = abstract_batch(description, stored_map_side=128, batch_size=8, mesh=mesh)
    traced = str(jax.make_jaxpr(training.step)(training.abstract_state, batch))
    again = len(re.findall(r'\bprevent_cse=', traced))
    return description, training.abstract_state, training.step_flops(batch), again


def test_the_setting_changes_the_training_alone(scenes):
    """Weights, samples and MFU are those of the same model, so no file may tell the difference."""
    description, state, flops, none = planned_step(scenes, remat=False)
    same_description, same_state, same_flops, blocks = planned_step(scenes, remat=True)
    assert same_description.to_json() == description.to_json()
    assert same_state == state
    assert same_flops == flops
    assert not none
    assert blocks >= 3
