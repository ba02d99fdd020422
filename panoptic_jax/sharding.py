"""Where arrays lie: the ('data', 'fsdp') mesh, the rule for parameters, and a table of the result.

Batches are split over both axes, parameters (and all that is shaped like them) over 'fsdp'.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SMALL = 2**14  # elements; smaller arrays are not worth splitting


def make_mesh(data: int = -1, fsdp: int = 1, devices: list | None = None) -> Mesh:
    """A mesh over all devices; one of the sizes may be -1 for "the rest".

    Raises:
      ValueError: The sizes do not multiply to the number of devices.
    """
    devices = devices or jax.devices()
    sizes = [data, fsdp]
    if sizes.count(-1) == 1:
        known = max(sizes)
        sizes[sizes.index(-1)] = len(devices) // max(1, known)
    if min(sizes) < 1 or np.prod(sizes) != len(devices):
        raise ValueError(
            f'mesh.data={data} times mesh.fsdp={fsdp} must be the number of devices, '
            f'{len(devices)}; set one of them to -1 for "the rest".'
        )
    return jax.make_mesh(sizes, ('data', 'fsdp'), (AxisType.Auto,) * 2, devices=devices)


def of_batch(mesh: Mesh) -> NamedSharding:
    """Leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


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
    """Global arrays from each process's share of a batch."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def table(state: Any) -> str:
    """One line per part of a state: arrays, total size, size on one device."""
    lines = [f'{"":12}{"arrays":>8}{"MiB":>12}{"MiB/device":>12}']
    for name, part in vars(state).items():
        arrays = jax.tree.leaves(part)
        total = sum(array.nbytes for array in arrays)
        local = sum(
            int(np.prod(array.sharding.shard_shape(array.shape))) * array.dtype.itemsize
            for array in arrays
        )
        lines.append(f'{name:12}{len(arrays):8}{total / 2**20:12.1f}{local / 2**20:12.1f}')
    return '\n'.join(lines)
