"""A frozen network as a plain function over any number of rows, on all devices of this process.

The encoders' doorway: arrays of the host go in and come out. Networks are the other modules'.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def on_devices(
    function: Callable[[Any, jax.Array], jax.Array], params: Any, rows_per_device: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Applies a network to rows in blocks of one size, whatever their number.

    Each device always works on `rows_per_device` rows, the last block being filled up with zeros:
    one compilation serves all calls, and a row's result does not depend on how many devices there
    are or which rows come with it.

    Args:
      function: (params, (b, ...)) -> (b, ...), pure; rows do not mix.
      params: Its parameters; copied to the devices on the first call.
      rows_per_device: Rows that one device works on at a time.

    Returns:
      A function from (n, ...) to (n, ...), any n of at least 1.
    """
    started = []  # the jitted function with its parameters in place, on first use

    def start():
        mesh = Mesh(np.array(local_devices()), ('rows',))
        whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ('rows',)))
        # Features are stored and compared: accelerators' shorter products would show.
        exact = jax.default_matmul_precision('highest')(function)
        jitted = jax.jit(exact, in_shardings=(whole, split), out_shardings=split)
        placed = jax.device_put(params, whole)
        return (lambda rows: jitted(placed, jax.device_put(rows, split))), mesh.size

    def apply(rows: np.ndarray) -> np.ndarray:
        if not started:
            started.append(start())
        run, devices = started[0]
        size = rows_per_device * devices
        results = []
        for first in range(0, len(rows), size):
            block = np.zeros((size, *rows.shape[1:]), rows.dtype)
            count = len(rows[first : first + size])
            block[:count] = rows[first : first + size]
            results.append(np.asarray(run(block))[:count])
        return results[0] if len(results) == 1 else np.concatenate(results)

    return apply


def local_devices() -> list[jax.Device]:
    """The devices that rows are spread over."""
    return jax.local_devices()
