"""The prediction for one program, compiled ahead of time for TPUs: memory, time, floors, traffic.

`plan.py` decides which program, `planning/operations.py` reads the compiler's text, and
`planning/totals.py` adds the operations up.
"""

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from panoptic_jax.machine.chips import Chip
from panoptic_jax.planning import bundles, totals
from panoptic_jax.planning.operations import operations_of
from panoptic_jax.planning.traffic import Slices, traffic_of


class DoesNotFit(ValueError):
    """A program needs more memory than a chip has; the message is for the user."""


class Program(NamedTuple):
    """What is to be compiled.

    Attributes:
      name: Name for messages.
      lower: Traces the program for its devices.
      flops: Floating-point operations of all devices together, counted in the plain model.
      resident: {kind: abstract arrays} that stay in memory.
      parameters: Number of parameters, frozen ones included.
      weight_reads: How often the program needs every weight.
    """

    name: str
    lower: Callable
    flops: int
    resident: dict[str, Any]
    parameters: int
    weight_reads: int


def predict(
    program: Program,
    chip: Chip,
    *,
    devices: int,
    batch_per_device: int,
    bundles_folder: Path,
    slices: Slices,
) -> dict[str, Any]:
    """Compiles a program and reads off what the compiler says.

    Args:
      program: The program.
      chip: The kind of its devices.
      devices: Number of its devices.
      batch_per_device: Images of a batch on each device.
      bundles_folder: Where the compiler writes its bundles, from `bundles.written`.
      slices: How the devices lie.

    Returns:
      The numbers of a prediction, JSON-able. Their names end in their units: bytes are those of one
      device, seconds those of one step or one batch of samples.

    Raises:
      DoesNotFit: the program does not fit into the chip's memory; the message says what would fit.
    """
    resident = {kind: _device_bytes(tree) for kind, tree in program.resident.items()}
    held = sum(resident.values())
    started = time.monotonic()
    compiled = _compile(program, held, batch_per_device)
    compile_seconds = time.monotonic() - started
    # Its sizes are those of one device.
    memory = compiled.memory_analysis()
    passed = memory.argument_size_in_bytes + memory.output_size_in_bytes
    # Donated arguments lie where the results lie, so they count once.
    total = passed - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    fits = batch_that_fits(
        held=held, total=total, limit=chip.memory_bytes, batch_per_device=batch_per_device
    )
    schedules = bundles.schedules(bundles_folder)
    operations = operations_of(compiled.as_text(), chip, schedules)
    seconds = sum(operation.seconds for operation in operations)
    kernels = totals.kernels_of(operations)
    passed_on = totals.collective_bytes(operations)
    traffic = traffic_of(operations, passed_on, chip, slices)
    # --- Floors: no step can be faster than its arithmetic, or than reading and writing once what
    # it is given and gives. Arguments hold the weights, so the first read is in them already.
    arithmetic = program.flops / devices / chip.peak_flops
    moved = resident['parameters'] * (program.weight_reads - 1) + passed
    per_second = batch_per_device / seconds
    return {
        'parameters': program.parameters,
        'bytes_per_device': resident | {'activations': total - held, 'total': total},
        'memory_bytes': chip.memory_bytes,
        'batch_that_fits': fits,
        'model_flops_per_step': program.flops,
        'collective_bytes': passed_on,
        'link_seconds': totals.link_seconds(passed_on, chip),
        'network_seconds': traffic.network,
        'network_bytes_per_second': chip.network_bandwidth,
        'backward_seconds': traffic.backward,
        'predicted_step_seconds': seconds,
        'hidden_traffic_step_seconds': traffic.hidden,
        'exposed_traffic_step_seconds': traffic.exposed,
        'kernels': [kernel._asdict() for kernel in kernels],
        'assumed_kernel_seconds': sum(each.seconds for each in kernels if each.assumed),
        'counted_to_estimated': totals.counted_to_estimated(operations),
        'arithmetic_floor_seconds': arithmetic,
        'memory_floor_seconds': moved / chip.memory_bandwidth,
        'predicted_mfu': arithmetic / seconds,
        'images_per_second_per_chip': per_second,
        'images_per_second': per_second * devices,
        'compile_seconds': compile_seconds,
        'costliest': [_cost_json(cost) for cost in totals.costliest(operations)],
    }


def _compile(program: Program, held: int, batch_per_device: int) -> jax.stages.Compiled:
    """Compiles a program; raises DoesNotFit where it does not fit into the chip's memory."""
    try:
        return program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        # Only the text of the error says how much memory is needed and how much there is.
        amounts = re.findall(r'([\d.]+)([GM])', str(error))
        # A kernel that needs too much vector memory is no question of the batch.
        of_kernel = 'memory space vmem' in str(error)
        if 'RESOURCE_EXHAUSTED' not in str(error) or of_kernel or len(amounts) < 2:
            raise
        units = {'G': 2**30, 'M': 2**20}
        needed, limit = (float(amount) * units[unit] for amount, unit in amounts[:2])
        message = _too_large(
            program, held=held, needed=needed, limit=limit, batch_per_device=batch_per_device
        )
        raise DoesNotFit(message) from error


def _cost_json(cost: totals.Cost) -> dict[str, Any]:
    """An entry of 'costliest' in `plan.json`."""
    return {
        'source': cost.source,
        'operation': cost.name,
        'seconds': cost.seconds,
        'assumed': cost.assumed,
        'unit': cost.unit,
        'share': cost.share,
    }


def _too_large(
    program: Program, *, held: int, needed: float, limit: float, batch_per_device: int
) -> str:
    """The message for a program that does not fit; sizes in bytes of one device."""
    gib = 2**30
    # What stays is split over chips; what a step computes is made less of.
    if held > 0.9 * limit:
        cure = 'a larger mesh.fsdp splits what stays'
    elif program.name == 'train step':
        cure = 'a larger microbatches works the batch off in parts, model.remat=True keeps less'
    else:
        cure = 'a smaller batch is all that helps'
    fits = batch_that_fits(held=held, total=needed, limit=limit, batch_per_device=batch_per_device)
    advice = f'plan.batch_per_device={fits} should fit' if fits else 'no batch fits beside these'
    return (
        f'The {program.name} with {batch_per_device} images a chip needs {needed / gib:.1f} GiB of '
        f"a chip's {limit / gib:.1f} GiB, {held / gib:.1f} of them for what stays there; {advice}; "
        f'{cure}.'
    )


def batch_that_fits(*, held: float, total: float, limit: float, batch_per_device: int) -> int:
    """The largest batch that fills nine tenths of a chip's memory, if what grows grows linearly.

    Args:
      held: Bytes of what stays in memory.
      total: Bytes in use with a batch of `batch_per_device`.
      limit: Bytes of the chip's memory.
      batch_per_device: Images of that batch on the chip.

    Returns:
      Images on one chip, from 8 on in whole eights.
    """
    per_image = (total - held) / batch_per_device
    # The last tenth is for what the growth does not tell, such as padding.
    count = int(max(0, 0.9 * limit - held) / per_image)
    # Whole eights suit the chips, whose vector registers have 8 rows.
    return count // 8 * 8 if count >= 8 else count


def _device_bytes(tree: Any) -> int:
    """Bytes of a tree of abstract arrays on one device."""
    total = 0
    for array in jax.tree.leaves(tree):
        shape = array.sharding.shard_shape(array.shape)
        total += math.prod(shape) * array.dtype.itemsize
    return total
