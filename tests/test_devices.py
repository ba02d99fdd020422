"""One device against eight: the same losses, and checkpoints that move between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from panoptic_jax import clock, json_lines, sharding, train


@pytest.fixture
def run(monkeypatch, tmp_path, config):
    """A function (name, mesh sizes, steps) -> {step: loss} of a training in a folder `name`."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(clock, 'matmul_peak', lambda devices: 1e11)
    monkeypatch.setattr(sharding, 'SMALL', 64)  # or nothing of a tiny model would be split
    config.log_every = config.checkpoint_every = 1
    config.keep_last = 1

    def train_on(name, sizes, steps):
        devices = jax.devices()[: sizes[0] * sizes[1]]
        monkeypatch.setattr(sharding, 'make_mesh', lambda *_: make_mesh(*sizes, devices))
        config.steps = steps
        assert train.train(config, str(tmp_path / name))
        lines = json_lines.read(tmp_path / name / 'metrics.jsonl')
        return {line['step']: (line['loss'], line['grad_norm']) for line in lines}

    return train_on


def test_eight_devices_train_as_one_and_checkpoints_move_between_them(run):
    """Steps 1-4 on 8 devices; 1-2 on 4 x 2 with split parameters, 3-4 on one from that state."""
    expected = run('data', (8, 1), 4)
    assert sorted(expected) == [1, 2, 3, 4]
    assert sorted(run('moving', (4, 2), 2)) == [1, 2]
    found = run('moving', (1, 1), 4)
    assert sorted(found) == [1, 2, 3, 4]
    for step, numbers in found.items():
        np.testing.assert_allclose(numbers, expected[step], rtol=1e-5)
    assert len({loss for loss, _ in found.values()}) == 4


def test_parameters_are_split_on_their_largest_divisible_axis():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    assert mesh.shape == {'data': 2, 'fsdp': 4}
    tree = {
        'wide': jnp.zeros((128, 512)),
        'tall': jnp.zeros((3, 512, 128)),
        'odd': jnp.zeros((2049, 12)),
        'prime': jnp.zeros((131, 131)),
        'small': jnp.zeros((64, 64)),
        'scalar': jnp.zeros(()),
    }
    found = {name: rule.spec for name, rule in sharding.of_tree(tree, mesh).items()}
    assert found == {
        'wide': PartitionSpec(None, 'fsdp'),
        'tall': PartitionSpec(None, 'fsdp', None),
        'odd': PartitionSpec(None, 'fsdp'),
        'prime': PartitionSpec(),
        'small': PartitionSpec(),
        'scalar': PartitionSpec(),
    }
    whole = sharding.of_tree(tree, sharding.make_mesh())
    assert {rule.spec for rule in whole.values()} == {PartitionSpec()}


def test_batches_lie_over_all_devices():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    batch = {'x': np.arange(16 * 3).reshape(16, 3)}
    found = sharding.put_batch(batch, sharding.of_batch(mesh))['x']
    assert {shard.data.shape for shard in found.addressable_shards} == {(2, 3)}
    assert len({shard.device for shard in found.addressable_shards}) == 8
    np.testing.assert_array_equal(found, batch['x'])


@pytest.mark.parametrize('sizes', [(3, -1), (-1, 16), (2, 2), (0, -1), (-1, -1), (-2, -4)])
def test_impossible_meshes_are_refused(sizes):
    with pytest.raises(ValueError, match='must be the number of devices, 8'):
        sharding.make_mesh(*sizes)


def test_table_tells_what_lies_on_one_device():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    tree = {'kernel': jnp.zeros((1024, 512)), 'bias': jnp.zeros((1024,))}
    tree = jax.device_put(tree, sharding.of_tree(tree, mesh))

    class State:
        pass

    state = State()
    state.params = tree
    state.step = jax.device_put(jnp.zeros(()), sharding.replicated(mesh))
    header, params, step, total = sharding.table(state).splitlines()
    assert header.split() == ['arrays', 'split', 'MiB', 'MiB/device']
    assert params.split() == ['params', '2', '1', '2.0', '0.5']
    assert step.split() == ['step', '1', '0', '0.0', '0.0']
    assert total.split() == ['total', '3', '1', '2.0', '0.5']
