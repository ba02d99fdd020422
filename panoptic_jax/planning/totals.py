"""What the operations of a compiled program add up to: traffic between chips and costly lines.

`planning/operations.py` reads the operations from the compiler's text.
"""

import re
from collections import Counter
from typing import NamedTuple

from panoptic_jax.machine.chips import Chip
from panoptic_jax.planning.operations import Operation

_COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')


class Cost(NamedTuple):
    """The time of all operations that share a source line and the last part of their name.

    Attributes:
      source: 'file:line' of the model's code; '' if the compiler invented the operations.
      name: The last part of JAX's name, 'gradient of ' before it in a backward pass.
      seconds: Time of all of them together.
      assumed: Whether a part of the time is our assumption.
      unit: The unit of the chip whose slots their bundles use most; 'memory' where the bundles
        take less than half of the time; '' where no bundles are known.
      share: The share of these slots that is used, or of the time that waits for memory; 0..1.
    """

    source: str
    name: str
    seconds: float
    assumed: bool
    unit: str
    share: float


class Kernel(NamedTuple):
    """All calls of one kernel of ours.

    Attributes:
      name: Its name.
      calls: How often it runs.
      seconds: Time that counts, of all calls together.
      assumed: Whether a part of this time is our assumption.
      bundle_seconds: Time of its bundles; 0 where they are not known.
      unit: See `Cost`.
      share: See `Cost`.
      spills: Share of its stores that only make room in the registers.
    """

    name: str
    calls: int
    seconds: float
    assumed: bool
    bundle_seconds: float
    unit: str
    share: float
    spills: float


def collective_bytes(operations: list[Operation]) -> dict[str, int]:
    """{kind: bytes of the results on one device} of what passes between chips."""
    total = Counter()
    for operation in operations:
        # A collective that runs beside others is two instructions, and '-done' gives no new array.
        kind = operation.kind.removesuffix('-start')
        if kind in _COLLECTIVES:
            total[kind] += operation.result_bytes
    return dict(total)


def link_seconds(traffic: dict[str, int], chip: Chip) -> float:
    """Time that the traffic takes on a chip's links if no computation hides it.

    Args:
      traffic: {kind: bytes}, as `collective_bytes` gives it.
      chip: The chip.
    """
    passed = 0
    for kind, size in traffic.items():
        # An all-reduce gathers the parts of a sum and then hands the sum around.
        passed += 2 * size if kind == 'all-reduce' else size
    return passed / chip.link_bandwidth


def costliest(operations: list[Operation], count: int = 10) -> list[Cost]:
    """The source lines that take longest, the longest first."""
    groups = {}
    for operation in operations:
        backward = 'gradient of ' if operation.is_gradient else ''
        last_part = operation.name.rsplit('/', 1)[-1]
        groups.setdefault((operation.source, backward + last_part), []).append(operation)
    costs = []
    for (source, name), members in groups.items():
        unit, share = what_binds(members)
        cost = Cost(
            source=source,
            name=name,
            seconds=sum(member.seconds for member in members),
            assumed=any(member.assumed for member in members),
            unit=unit,
            share=share,
        )
        costs.append(cost)
    return sorted(costs, key=lambda cost: -cost.seconds)[:count]


def what_binds(operations: list[Operation]) -> tuple[str, float]:
    """`unit` and `share` of `Cost`, for operations together."""
    known = [operation for operation in operations if operation.schedule]
    if not known:
        return '', 0.0
    counted = sum(operation.counted_seconds for operation in known)
    seconds = sum(operation.seconds for operation in known)
    if counted < seconds / 2:
        return 'memory', 1 - counted / seconds
    busy = Counter()
    for operation in known:
        for unit, own in operation.schedule.busy.items():
            busy[unit] += operation.repeats * own
    unit, most = busy.most_common(1)[0]
    return unit, most / sum(operation.repeats * operation.schedule.cycles for operation in known)


def kernels_of(operations: list[Operation]) -> list[Kernel]:
    """What is known of each kernel."""
    groups = {}
    for operation in operations:
        if operation.kernel:
            # 'jit(step)/jvp(attention)/pallas_call' is the kernel 'attention'.
            words = re.findall(r'\w+', operation.name.removesuffix('/pallas_call'))
            groups.setdefault(words[-1] if words else 'kernel', []).append(operation)
    kernels = []
    for name, members in groups.items():
        unit, share = what_binds(members)
        spills = [member.schedule.spills for member in members if member.schedule]
        kernel = Kernel(
            name=name,
            calls=sum(member.repeats for member in members),
            seconds=sum(member.seconds for member in members),
            assumed=any(member.assumed for member in members),
            bundle_seconds=sum(member.counted_seconds for member in members),
            unit=unit,
            share=share,
            spills=max(spills, default=0.0),
        )
        kernels.append(kernel)
    return kernels


def counted_to_estimated(operations: list[Operation]) -> float | None:
    """Bundles over the compiler's estimates, for matrix products; None where none are known.

    These alone keep their unit busy all the time: the estimates of others wait for memory.
    """
    products = [
        operation
        for operation in operations
        if operation.seconds and not operation.kernel and what_binds([operation])[0] == 'MXU'
    ]
    if not products:
        return None
    counted = sum(operation.counted_seconds for operation in products)
    return counted / sum(operation.seconds for operation in products)
