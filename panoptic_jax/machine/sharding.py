"""Where arrays lie: the ('data', 'fsdp') mesh, the rule for parameters, and a table of the result.

Batches are split over both axes. Parameters, and all that is shaped like them, are split over
'fsdp'. `machine/hosts.py` knows the processes and what they agree on.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SMALL = 2**14  # elements; smaller arrays are not worth splitting
_AXES = ('data', 'fsdp')


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices; one of the sizes may be -1 for "the rest".

    Neighbours on 'fsdp' are neighbours on the interconnect where that is a torus. Where there are
    several slices (TPU) or fast islands of hosts (GPU), 'data' goes across them first, and 'fsdp'
    stays inside one of them as far as the sizes allow.

    Args:
      data: Size of the axis that only batches are split over.
      fsdp: Size of the axis that parameters are split over, too.
      devices: What the mesh consists of; None for all devices of the job.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
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
    # jax.make_mesh would make the axes Explicit, with shardings as a part of every array's type.
    return Mesh(_arranged(sizes, devices), _AXES, axis_types=(AxisType.Auto,) * 2)


def _arranged(sizes: list[int], devices: list) -> np.ndarray:
    """The devices in a grid of the two sizes."""
    slices = len({getattr(device, 'slice_index', 0) for device in devices})
    # With 'data' across slices only the sum of the gradients passes the slow network, once a step.
    data_across = math.gcd(sizes[0], slices)
    fsdp_across = slices // data_across
    if fsdp_across > 1:
        logging.info(
            'mesh.fsdp=%d lies across slices: parameters pass the slow network at every step. '
            'Inside one it could be %d.', sizes[1], len(devices) // slices,
        )  # fmt: skip
    across = (data_across, fsdp_across)
    inside = [size // count for size, count in zip(sizes, across, strict=True)]
    try:
        # Sizes that are no products of the torus's sides need its axes split.
        if slices == 1:
            return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return mesh_utils.create_hybrid_device_mesh(
            inside, across, devices, allow_split_physical_axes=True
        )
    except (AssertionError, NotImplementedError, ValueError) as error:
        # A part of a torus, or chips of two cores each. Any order is right, though some are slower.
        logging.info('Devices stay in the order of their numbers (%s).', error)
        return np.array(devices).reshape(sizes)


def local_mesh(fsdp: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over this process's devices alone, for work that processes share out among them.

    Args:
      fsdp: Devices that share the parameters, -1 for all; made smaller where the number does not
        divide that of the devices here.
      devices: Devices of this process; None for all of them.
    """
    devices = devices or jax.local_devices()
    if fsdp < 1:
        return make_mesh(1, -1, devices)
    return make_mesh(-1, math.gcd(fsdp, len(devices)), devices)


def of_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device has a full copy."""
    return NamedSharding(mesh, PartitionSpec())


def of_tree(tree: Any, mesh: Mesh, *, small: int | None = None) -> Any:
    """Shardings of a state: each large array over 'fsdp' on its largest axis that divides evenly.

    Args:
      tree: Arrays, or their shapes.
      mesh: From `make_mesh`.
      small: Arrays of fewer elements stay whole; None for `SMALL`.
    """
    parts = mesh.shape['fsdp']
    smallest = SMALL if small is None else small

    def rule(array):
        axes = [i for i, size in enumerate(array.shape) if size % parts == 0]
        if parts == 1 or array.size < smallest or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda i: array.shape[i])
        spec = [None] * array.ndim
        spec[largest] = 'fsdp'
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(rule, tree)


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Joins every process's share of a batch of B rows to global arrays.

    With n processes, process p brings rows p * B/n .. (p + 1) * B/n - 1.

    Args:
      batch: This process's (B/n, ...) arrays by name.
      sharding: From `of_batch`.
    """
    # On a pod the mesh's order is not that of the processes, and noise goes by the row. So rows
    # are placed by process first: global row i is then row i whatever the mesh.
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
    """Lays arrays out as `shardings` says.

    Args:
      tree: NumPy arrays, the same on every process, or JAX arrays of the same processes.
      shardings: One for all arrays, or a tree of them.
    """

    def put(array, sharding):
        if isinstance(array, jax.Array):
            return jax.device_put(array, sharding)
        # Each device gets its own part, and never the whole array.
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda array: put(array, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes, types and shardings in the place of arrays, to compile for or to restore into.

    Args:
      tree: Arrays, or their shapes and types.
      shardings: Tree of the same structure, or one sharding where `tree` is one array.
    """

    def describe(array, sharding):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(describe, tree, shardings)


def layout_table(state: Any) -> str:
    """Lines for the log: each part of a state, its arrays, how many are split, and its memory."""
    lines = [f'{"":12}{"arrays":>8}{"split":>8}{"MiB":>12}{"MiB/device":>12}']
    sums = np.zeros(4)
    for name, part in vars(state).items():
        arrays = jax.tree.leaves(part)
        split = sum(not array.sharding.is_fully_replicated for array in arrays)
        total = sum(array.nbytes for array in arrays)
        local = sum(map(_bytes_per_device, arrays))
        numbers = np.array([len(arrays), split, total / 2**20, local / 2**20])
        lines.append(_row(name, numbers))
        sums += numbers
    return '\n'.join([*lines, _row('total', sums)])


def _bytes_per_device(array: jax.Array) -> int:
    shape = array.sharding.shard_shape(array.shape)
    return math.prod(shape) * array.dtype.itemsize


def _row(name: str, numbers: np.ndarray) -> str:
    arrays, split, total, local = numbers
    return f'{name:12}{arrays:8.0f}{split:8.0f}{total:12.1f}{local:12.1f}'
