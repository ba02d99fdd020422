"""Held-out scores: means of losses, ratios of sums."""

import jax
import numpy as np
import pytest

from panoptic_jax.data import loader
from panoptic_jax.machine import sharding
from panoptic_jax.scoring import held_out


def test_probes_are_ratios_of_the_sums_over_all_batches(scenes):
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    rng = np.random.default_rng(3)
    losses, sums = rng.random(3), rng.random((3, 2))
    calls = []

    def validate(batch, key):
        number = len(calls)
        calls.append((np.asarray(batch['latents']), np.asarray(jax.random.key_data(key))))
        return {'image': losses[number]}, {'image': sums[number], 'map': np.zeros(2)}

    given = {'batch_size': 4, 'batches': 3, 'seed': 1, 'batch_sharding': sharding.of_batch(mesh)}
    split = loader.Split(scenes, 'validation')
    found = held_out.scores(validate, split, **given)
    right, wrong = sums.sum(axis=0)
    assert found == {
        'validation/loss_image': pytest.approx(losses.mean()),
        'probe/caption_image': pytest.approx(right / wrong),
        'probe/caption_map': None,
    }
    first = [array for call in calls for array in call]
    calls.clear()
    held_out.scores(validate, split, **given)
    again = [array for call in calls for array in call]
    jax.tree.map(np.testing.assert_array_equal, first, again)
