"""One program, compiled ahead of time for TPUs: memory, time, floors and traffic of it.

Which program is `plan.py`'s; how the compiler's text is read, `schedule.py`'s.
"""

import math
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from panoptic_jax.machine.chips import Chip
from panoptic_jax.planning import schedule


class Program(NamedTuple):
    """What is to be compiled.

    Attributes:
      name: For messages.
      lower: Traces it for its devices.
      flops: Of all devices, counted in the plain model.
      resident: {kind: abstract arrays} that stay in memory.
      parameters: How many, frozen ones included.
      weight_reads: How often it needs every weight.
    """

    name: str
    lower: Callable
    flops: int
    resident: dict[str, Any]
    parameters: int
    weight_reads: int


def predict(program: Program, chip: Chip, devices: int, batch_per_device: int) -> dict:
    """Compiles a program and reads off what the compiler says.

    Raises:
      ValueError: it does not fit into the chip's memory; says what would.
    """
    resident = {kind: _device_bytes(tree) for kind, tree in program.resident.items()}
    held = sum(resident.values())
    started = time.monotonic()
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        amounts = re.findall(r'([\d.]+)([GM])', str(error))
        if 'RESOURCE_EXHAUSTED' not in str(error) or len(amounts) < 2:
            raise
        needed, limit = (float(x) * {'G': 2**30, 'M': 2**20}[unit] for x, unit in amounts[:2])
        raise ValueError(_over_full(program, held, needed, limit, batch_per_device)) from error
    compile_seconds = time.monotonic() - started
    memory = compiled.memory_analysis()
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    operations = schedule.operations(compiled.as_text(), chip)
    seconds = sum(operation.seconds for operation in operations)
    moved = resident['parameters'] * (program.weight_reads - 1) + (
        memory.argument_size_in_bytes + memory.output_size_in_bytes
    )
    arithmetic = program.flops / devices / chip.peak_flops
    traffic = schedule.collective_bytes(operations)
    per_second = batch_per_device / seconds
    return {
        'parameters': program.parameters,
        'bytes_per_device': resident | {'activations': total - held, 'total': total},
        'memory_bytes': chip.memory_bytes,
        'batch_that_fits': _batch_that_fits(held, total, chip.memory_bytes, batch_per_device),
        'model_flops_per_step': program.flops,
        'collective_bytes': traffic,
        'link_seconds': schedule.link_seconds(traffic, chip),
        'predicted_step_seconds': seconds,
        'assumed_kernel_seconds': sum(x.seconds for x in operations if x.assumed),
        'arithmetic_floor_seconds': arithmetic,
        'memory_floor_seconds': moved / chip.memory_bandwidth,
        'predicted_mfu': arithmetic / seconds,
        'images_per_second_per_chip': per_second,
        'images_per_second': per_second * devices,
        'compile_seconds': compile_seconds,
        'costliest': [
            {'source': source, 'operation': name, 'seconds': value, 'assumed': assumed}
            for source, name, value, assumed in schedule.costliest(operations)
        ],
    }


def _over_full(program, held, needed, limit, batch_per_device):
    gib = 2**30
    fits = _batch_that_fits(held, needed, limit, batch_per_device)
    advice = f'plan.batch_per_device={fits} should fit' if fits else 'no batch fits beside these'
    return (
        f'The {program.name} with {batch_per_device} images a chip needs {needed / gib:.1f} GiB of '
        f"a chip's {limit / gib:.1f} GiB, {held / gib:.1f} of them for what stays there; {advice}; "
        'a larger mesh.fsdp splits what stays, a larger microbatches the rest.'
    )


def _batch_that_fits(held, total, limit, batch_per_device):
    """The largest batch a chip whose memory is nine tenths full, if what grows is linear in it."""
    per_image = (total - held) / batch_per_device
    count = int(max(0, 0.9 * limit - held) / per_image)
    return count // 8 * 8 if count >= 8 else count


def _device_bytes(tree):
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
