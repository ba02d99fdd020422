"""The time of a step with its traffic between chips, hidden behind computation or not.

`planning/totals.py` says how many bytes pass, `machine/chips.py` how fast links and network are.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from panoptic_jax.machine.chips import Chip
from panoptic_jax.planning.operations import Operation
from panoptic_jax.planning.totals import link_seconds

_SUMS = ('all-reduce', 'reduce-scatter')  # of gradients, in a training


class Slices(NamedTuple):
    """How the devices lie.

    Attributes:
      count: Slices, with a data centre's network between them.
      copies: Devices of one slice that hold the same part of the parameters, 1 where fsdp takes
        all of a slice.
    """

    count: int
    copies: int


class Traffic(NamedTuple):
    """Seconds of one step on a chip.

    Attributes:
      sums: The sum of the gradients: on the links of a slice and on the network between slices.
      others: What else passes on the links, such as parameters that fsdp gathers.
      network: The part of `sums` that the network between slices takes.
      backward: Computation of the backward pass.
      hidden: The step, where sums hide behind the backward pass and the others behind all of it.
      exposed: The step, where nothing hides.
    """

    sums: float
    others: float
    network: float
    backward: float
    hidden: float
    exposed: float


def traffic_of(
    operations: Sequence[Operation], passed: Mapping[str, int], chip: Chip, slices: Slices
) -> Traffic:
    """What the traffic of a program takes, beside its computation and after it.

    A sum cannot begin before the backward pass does, and nothing is computed behind it but the
    rest of that pass. So sums that take longer than the backward pass show, and so does all traffic
    together where it takes longer than all computation.

    Args:
      operations: The program's operations.
      passed: {kind: bytes}, as `totals.collective_bytes` gives it.
      chip: The kind of the devices.
      slices: How they lie.
    """
    seconds = sum(operation.seconds for operation in operations)
    backward = sum(each.seconds for each in operations if each.is_gradient)
    network = network_seconds(passed, chip, slices)
    sums = {kind: size for kind, size in passed.items() if kind in _SUMS}
    of_sums = link_seconds(sums, chip) + network
    of_others = link_seconds({kind: passed[kind] for kind in passed.keys() - sums}, chip)
    shows = max(0.0, of_sums - backward, of_sums + of_others - seconds)
    return Traffic(
        sums=of_sums,
        others=of_others,
        network=network,
        backward=backward,
        hidden=seconds + shows,
        exposed=seconds + of_sums + of_others,
    )


def network_seconds(passed: Mapping[str, int], chip: Chip, slices: Slices) -> float:
    """Time of the gradients' sum on the network between slices; 0 for one slice.

    The chips of a slice first add up among themselves, until each holds its share of the sum. These
    shares pass the network, once to be added and once to be handed around. What fsdp gathers stays
    within a slice.

    Args:
      passed: {kind: bytes}, as `totals.collective_bytes` gives it.
      chip: The kind of the devices.
      slices: How they lie.
    """
    if slices.count == 1:
        return 0.0
    # The result of a reduce-scatter is a chip's share already, that of an all-reduce is the whole.
    share = passed.get('all-reduce', 0) / slices.copies + passed.get('reduce-scatter', 0)
    return 2 * (slices.count - 1) / slices.count * share / chip.network_bandwidth
