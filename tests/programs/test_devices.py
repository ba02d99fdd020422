"""How arrays lie on meshes, also on those of TPUs; `tests/test_pods.py` trains on them."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from jax.sharding import PartitionSpec

from panoptic_jax.machine import sharding


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


def test_parameters_stay_whole_where_no_devices_share_them():
    tree = {'wide': jnp.zeros((128, 512)), 'scalar': jnp.zeros(())}
    whole = sharding.of_tree(tree, sharding.make_mesh())
    assert {rule.spec for rule in whole.values()} == {PartitionSpec()}


def test_the_size_that_is_worth_splitting_can_be_said():
    mesh, tree = sharding.make_mesh(data=2, fsdp=4), {'small': jnp.zeros((64, 64))}
    found = sharding.of_tree(tree, mesh, small=64 * 64)
    assert found['small'].spec == PartitionSpec('fsdp', None)


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


def test_host_arrays_are_placed_in_parts():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    tree = {
        'kernel': np.arange(1024 * 512, dtype=np.float32).reshape(1024, 512),
        'bias': np.ones(3),
    }
    shardings = sharding.of_tree(tree, mesh)
    placed = sharding.place(tree, shardings)
    assert {shard.data.shape for shard in placed['kernel'].addressable_shards} == {(256, 512)}
    jax.tree.map(np.testing.assert_array_equal, placed, tree)


def test_placed_arrays_are_joined_again():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    tree = {'kernel': np.arange(1024 * 512, dtype=np.float32).reshape(1024, 512)}
    placed = sharding.place(tree, sharding.of_tree(tree, mesh))
    whole = sharding.place(placed, sharding.replicated(mesh))
    jax.tree.map(np.testing.assert_array_equal, whole, tree)
    assert whole['kernel'].sharding.is_fully_replicated


def test_what_is_no_array_is_not_placed():
    rows = sharding.of_batch(sharding.make_mesh())
    assert sharding.place((np.ones(8), None), rows)[1] is None


def test_local_meshes_split_as_far_as_devices_go():
    found = [tuple(sharding.local_mesh(fsdp).shape.values()) for fsdp in (1, 2, 8, 16, 12, -1)]
    assert found == [(8, 1), (4, 2), (1, 8), (1, 8), (2, 4), (1, 8)]


TOPOLOGIES = (
    ('v5e:16x16', 1, [(256, 1), (128, 2), (8, 32), (32, 8), (1, 256)]),
    ('v5p:4x4x4', 1, [(64, 1), (32, 2), (2, 32)]),
    ('v6e:16x16', 1, [(8, 32)]),
    ('v4:2x2x2', 1, [(8, 2)]),  # two devices a chip, which no torus order knows
    ('v5e:4x4', 2, [(32, 1), (8, 4), (2, 16), (1, 32)]),
)
# A process of its own makes the meshes, since libtpu is loaded for good.
MESHES = """
import json, sys
from jax.experimental import topologies
from panoptic_jax.machine import sharding
for name, slices, sizes in json.loads(sys.argv[1]):
    several = {'num_slices': slices} if slices > 1 else {}
    devices = topologies.get_topology_desc(
        platform='tpu', topology_name=name, **several
    ).devices
    for data, fsdp in sizes:
        mesh = sharding.make_mesh(data, -1 if fsdp > 1 else 1, devices)
        place = lambda d: [getattr(d, 'slice_index', 0) or 0, *d.coords, d.core_on_chip]
        print(json.dumps([str(mesh.axis_types), [[place(d) for d in row] for row in mesh.devices]]))
"""


@pytest.fixture(scope='session')
def meshes():
    """{(topology, sizes): for each device of the mesh its slice and place}."""
    if importlib.util.find_spec('libtpu') is None:
        pytest.skip('libtpu is not installed: pip install -r tests/requirements.txt')
    environment = os.environ | {
        'PYTHONPATH': str(ROOT), 'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_ACCELERATOR_TYPE': 'v5litepod-4', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, '-c', MESHES, json.dumps(TOPOLOGIES)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    asked = [(name, size) for name, _, sizes in TOPOLOGIES for size in sizes]
    return dict(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))


MADE = [(name, slices, size) for name, slices, sizes in TOPOLOGIES for size in sizes]
SEVERAL_SLICES = [(name, size) for name, slices, size in MADE if slices > 1 and size[0] > 1]


@pytest.mark.parametrize(('name', 'slices', 'size'), MADE, ids=str)
def test_any_sizes_make_a_mesh_of_tpus(meshes, name, slices, size):
    grid = np.array(meshes[name, size][1])
    assert grid.shape[:2] == size
    assert len(np.unique(grid.reshape(-1, grid.shape[-1]), axis=0)) == size[0] * size[1]


@pytest.mark.parametrize(('name', 'slices', 'size'), MADE, ids=str)
def test_axes_of_meshes_are_automatic(meshes, name, slices, size):
    types, _ = meshes[name, size]
    assert 'Auto' in types
    assert 'Explicit' not in types


@pytest.mark.parametrize(('name', 'slices', 'size'), MADE, ids=str)
def test_parameters_are_shared_inside_a_slice_where_sizes_allow(meshes, name, slices, size):
    for row in np.array(meshes[name, size][1]):
        spans = len(np.unique(row[:, 0]))
        assert spans == (2 if slices == 2 and size[0] == 1 else 1)


@pytest.mark.parametrize(('name', 'size'), SEVERAL_SLICES, ids=str)
def test_slices_share_batches_out_in_halves(meshes, name, size):
    grid = np.array(meshes[name, size][1])
    assert np.unique(grid[: size[0] // 2, :, 0]).tolist() == [0]
    assert np.unique(grid[size[0] // 2 :, :, 0]).tolist() == [1]


def test_those_who_share_parameters_are_neighbours(meshes):
    """8 x 32 on 16 x 16 chips: each 32 are two neighbouring rows or columns."""
    for row in np.array(meshes['v5e:16x16', (8, 32)][1]):
        x, y = row[:, 1], row[:, 2]
        assert sorted((len(np.unique(x)), len(np.unique(y)))) == [2, 16]
        assert min(np.ptp(x), np.ptp(y)) == 1


def test_table_tells_what_lies_on_one_device():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    tree = {'kernel': jnp.zeros((1024, 512)), 'bias': jnp.zeros((1024,))}
    tree = jax.device_put(tree, sharding.of_tree(tree, mesh))

    class State:
        pass

    state = State()
    state.params = tree
    state.step = jax.device_put(jnp.zeros(()), sharding.replicated(mesh))
    header, params, step, total = sharding.layout_table(state).splitlines()
    assert header.split() == ['arrays', 'split', 'MiB', 'MiB/device']
    assert params.split() == ['params', '2', '1', '2.0', '0.5']
    assert step.split() == ['step', '1', '0', '0.0', '0.0']
    assert total.split() == ['total', '3', '1', '2.0', '0.5']
