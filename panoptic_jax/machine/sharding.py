"""Where arrays lie: the ('data', 'fsdp') mesh, the rule for parameters, and a table of the result.

Batches are split over both axes, parameters (and all that is shaped like them) over 'fsdp'. Which
processes there are, and what they agree on, is `hosts.py`'s.
"""

import functools
import math
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SMALL = 2**14  # elements; smaller arrays are not worth splitting
_AXES = ('data', 'fsdp')


def make_mesh(data: int = -1, fsdp: int = 1, devices: list | None = None) -> Mesh:
    """A mesh over all devices; one of the sizes may be -1 for "the rest".

    Neighbours on 'fsdp' are neighbours on the interconnect where that is a torus. Of several slices
    (TPU) or fast islands of hosts (GPU), 'data' goes across them first and 'fsdp' stays inside one
    as far as the sizes allow: what crosses the slow network is then one sum of gradients a step.

    Raises:
      ValueError: The sizes do not multiply to the number of devices.
    """
    devices = list(devices or jax.devices())
    sizes = [data, fsdp]
    if sizes.count(-1) == 1:
        known = max(sizes)
        sizes[sizes.index(-1)] = len(devices) // max(1, known)
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ValueError(
            f'mesh.data={data} times mesh.fsdp={fsdp} must be the number of devices, '
            f'{len(devices)}; set one of them to -1 for "the rest".'
        )
    return Mesh(_arranged(sizes, devices), _AXES, axis_types=(AxisType.Auto,) * 2)


def _arranged(sizes: list[int], devices: list) -> np.ndarray:
    slices = len({getattr(device, 'slice_index', 0) for device in devices})
    data_across = math.gcd(sizes[0], slices)
    across = (data_across, slices // data_across)
    if across[1] > 1:
        logging.info(
            'mesh.fsdp=%d lies across slices: parameters pass the slow network at every step. '
            'Inside one it could be %d.', sizes[1], len(devices) // slices,
        )  # fmt: skip
    inside = [size // count for size, count in zip(sizes, across, strict=True)]
    try:
        # Sizes that are no products of the torus's sides need its axes split.
        if slices == 1:
            return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return mesh_utils.create_hybrid_device_mesh(
            inside, across, devices, allow_split_physical_axes=True
        )
    except (AssertionError, NotImplementedError, ValueError) as error:
        # A part of a torus, two cores a chip: any order is right, though some are slower.
        logging.info('Devices stay in the order of their numbers (%s).', error)
        return np.array(devices).reshape(sizes)


def local_mesh(fsdp: int) -> Mesh:
    """A mesh over this process's devices alone, for work that processes share out among them.

    Args:
      fsdp: As of the whole mesh, -1 for all; made smaller where it does not divide those here.
    """
    devices = jax.local_devices()
    return make_mesh(*((1, -1) if fsdp < 1 else (-1, math.gcd(fsdp, len(devices)))), devices)


def of_batch(mesh: Mesh) -> NamedSharding:
    """Leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_tree(tree: Any, mesh: Mesh) -> Any:
    """Shardings of a state: each large array over 'fsdp' on its largest divisible axis."""
    parts = mesh.shape['fsdp']

    def rule(array):
        axes = [i for i, size in enumerate(array.shape) if size % parts == 0]
        if parts == 1 or array.size < SMALL or not axes:
            return replicated(mesh)
        spec = [None] * array.ndim
        spec[max(axes, key=lambda i: array.shape[i])] = 'fsdp'
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(rule, tree)


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Global arrays from each process's share of a batch.

    Of n processes the p-th brings the p-th n-th of the rows. Global row i is row i whatever the
    mesh: on a pod the mesh's order is not that of the processes, and noise goes by the row.
    """
    rows = _by_process(sharding)
    arrays = {
        name: jax.make_array_from_process_local_data(rows, array) for name, array in batch.items()
    }
    return arrays if rows == sharding else jax.device_put(arrays, sharding)


@functools.cache
def _by_process(sharding: NamedSharding) -> NamedSharding:
    """The same split of rows over the same devices, in the order of their processes."""
    devices = [*sharding.mesh.devices.flat]
    ordered = sorted(devices, key=lambda device: device.process_index)
    if ordered == devices:
        return sharding
    return NamedSharding(Mesh(np.array(ordered), ('rows',)), PartitionSpec('rows'))


def place(tree: Any, shardings: Any) -> Any:
    """Arrays laid out as `shardings` says; of host arrays each device gets its part alone.

    Args:
      tree: numpy arrays, the same on every process, or JAX arrays of the same processes.
      shardings: One for all, or a tree of them.
    """

    def put(array, sharding):
        if isinstance(array, jax.Array):
            return jax.device_put(array, sharding)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda array: put(array, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes, types and today's shardings of a state, to restore into."""
    return jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        tree,
        shardings,
    )


def table(state: Any) -> str:
    """Of each part of a state: arrays, how many of them are split, whole size, size on a device."""
    lines = [f'{"":12}{"arrays":>8}{"split":>8}{"MiB":>12}{"MiB/device":>12}']
    sums = np.zeros(4)
    for name, part in vars(state).items():
        arrays = jax.tree.leaves(part)
        split = sum(not array.sharding.is_fully_replicated for array in arrays)
        total = sum(array.nbytes for array in arrays)
        local = sum(
            math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
            for array in arrays
        )
        numbers = np.array([len(arrays), split, total / 2**20, local / 2**20])
        lines.append(_row(name, numbers))
        sums += numbers
    return '\n'.join([*lines, _row('total', sums)])


def _row(name: str, numbers: np.ndarray) -> str:
    arrays, split, total, local = numbers
    return f'{name:12}{arrays:8.0f}{split:8.0f}{total:12.1f}{local:12.1f}'
