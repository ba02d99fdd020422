"""A frozen network as a plain function over any number of rows, on all devices of this process.

This is the encoders' doorway: arrays of the host go in and come out. The networks themselves are in
the other modules of `encoders/`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def on_devices(
    function: Callable[[Any, jax.Array], Any],
    params: Any,
    rows_per_device: int,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[[np.ndarray], Any]:
    """Applies a network to rows in blocks of one size, whatever their number.

    Each device always works on `rows_per_device` rows; the last block is filled up with zeros. So
    one compilation serves all calls, and a row's result depends neither on the number of devices
    nor on the rows that come with it.

    Args:
      function: (params, (b, ...)) -> (b, ...), or a tuple of such arrays; pure; rows do not mix.
      params: Parameters of the network; copied to the devices on the first call.
      rows_per_device: Rows that one device works on at a time.
      devices: What the rows are spread over; None for all devices of this process.

    Returns:
      A function from (n, ...) to (n, ...), or to a tuple of such arrays; any n of at least 1.
    """

    # On the first call and not before, since not every network that is loaded is also used.
    @functools.cache
    def start():
        """The network on its devices, and the number of rows in a block."""
        mesh = Mesh(np.array(devices or jax.local_devices()), ('rows',))
        whole = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec('rows'))
        # Features are stored and compared, and accelerators' shorter products would show in them.
        exact = jax.default_matmul_precision('highest')(function)
        jitted = jax.jit(exact, in_shardings=(whole, split), out_shardings=split)
        placed = jax.device_put(params, whole)

        def run(block):
            return jitted(placed, jax.device_put(block, split))

        return run, rows_per_device * mesh.size

    def apply(rows: np.ndarray) -> np.ndarray:
        run, size = start()
        results = []
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            # Always whole blocks: another number of rows would compile the network again.
            block = np.zeros((size, *rows.shape[1:]), rows.dtype)
            block[: len(part)] = part
            trimmed = functools.partial(_first_rows, count=len(part))
            results.append(jax.tree.map(trimmed, run(block)))
        return results[0] if len(results) == 1 else jax.tree.map(_joined, *results)

    return apply


def _first_rows(array: jax.Array, count: int) -> np.ndarray:
    return np.asarray(array)[:count]


def _joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)
