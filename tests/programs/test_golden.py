"""The first training step of each model in numbers, to notice a change that nobody intended.

To renew the numbers on purpose, put those that the failing tests print into `GOLDEN`, and say in
the commit why they change.
"""

import jax
import numpy as np
import one_device
import pytest
from conftest import random_parameters, tiny_config

from panoptic_jax import config as settings
from panoptic_jax import recipes
from panoptic_jax.data.facts import AutoencoderFacts, TextFacts
from panoptic_jax.machine import sharding
from panoptic_jax.programs.description import assume
from panoptic_jax.programs.train_step import Recipe
from panoptic_jax.programs.training import make_training

TOKENS, FEATURES, BATCH_SIZE = 24, 16, 4
# Model: loss and gradient norm of its first step.
GOLDEN = {
    'uvit': (1.0273, 0.116843),
    'one_stream': (2.02914, 0.25357),
    'two_stream': (2.58273, 0.28266),
    'joint': (3.56013, 0.419773),
}


def records(rng):
    """A batch of random latents, texts, and maps of 8 x 8 blocks."""
    blocks = {
        'category': rng.integers(0, 134, (BATCH_SIZE, 16, 16), np.uint8),
        'instance': rng.integers(0, 4, (BATCH_SIZE, 16, 16), np.uint8),
    }
    maps = {name: ids.repeat(8, axis=1).repeat(8, axis=2) for name, ids in blocks.items()}
    latents = rng.normal(size=(BATCH_SIZE, 32, 32, 3)).astype(np.float16)
    text = rng.normal(size=(BATCH_SIZE, TOKENS, FEATURES)).astype(np.float16)
    return maps | {'latents': latents, 'text': text}


def first_step(name):
    """(loss, gradient norm) of the first step from random parameters, in float32 on one device."""
    config = tiny_config('none')
    config.batch_size = BATCH_SIZE
    config.model.update(name=name, dtype='float32')
    if name == 'joint':  # with all of its recipe, and codes
        recipes.use_joint(config, size='', instances=True)
    description = assume(
        config.model.to_dict(),
        settings.streams(config),
        AutoencoderFacts('pixels', (32, 32, 3), scale=1.0, has_variance=False),
        TextFacts('words', TOKENS, FEATURES),
    )
    rng = np.random.default_rng(0)
    batch = records(rng)
    mesh = sharding.make_mesh(devices=one_device.devices())
    training = make_training(
        description,
        Recipe(**settings.recipe(config)),
        void_wins=False,
        empty_text=rng.normal(size=(TOKENS, FEATURES)).astype(np.float16),
        mesh=mesh,
        fused_attention=True,
    )
    parameters = random_parameters(description)
    state = jax.jit(training.create, out_shardings=training.shardings)(parameters)
    state = training.step(state, sharding.put_batch(batch, sharding.of_batch(mesh)))
    return float(state.totals['loss']), float(state.totals['grad_norm'])


@pytest.mark.parametrize('name', GOLDEN)
def test_first_step_is_the_golden_one(name):
    found = first_step(name)
    digits = ', '.join(f'{value:.6g}' for value in found)
    assert found == pytest.approx(GOLDEN[name], rel=1e-5), f'now: {name!r}: ({digits})'
