"""What the operations of a compiled program add up to: traffic between chips and costly lines.

`planning/operations.py` reads the operations from the compiler's text.
"""

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
    """

    source: str
    name: str
    seconds: float
    assumed: bool


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
    total = Counter()
    assumed = set()
    for operation in operations:
        # 'transpose(...)' is how JAX marks what a gradient computes.
        backward = 'gradient of ' if 'transpose(' in operation.name else ''
        last_part = operation.name.rsplit('/', 1)[-1]
        key = operation.source, backward + last_part
        total[key] += operation.seconds
        if operation.assumed:
            assumed.add(key)
    return [
        Cost(source=key[0], name=key[1], seconds=seconds, assumed=key in assumed)
        for key, seconds in total.most_common(count)
    ]
