"""The solver's plan: for every evaluation and stream where the stream is and how it moves.

Streams move together, one ahead of the other, or one of them stands. The coefficients of one
stream are in `diffusion/trajectory.py`, and `diffusion/solver.py` carries a plan out. What
`--mode=plan` predicts is something else.
"""

import dataclasses
from collections.abc import Mapping
from itertools import chain

import numpy as np

from panoptic_jax.diffusion import trajectory
from panoptic_jax.diffusion.trajectory import Trajectory

_CLEAN = 0.0  # time


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What happens in N evaluations.

    Attributes:
      streams: The coefficients of each stream. Outside its evaluations a stream stands: before
        them where it starts, and after them clean, at time 0.
      spans: {stream: (first, end)} its evaluations; (0, 0) for a stream that stands all the time.
      begins: (N,) bool, whether the evaluation begins a step, of all streams alike.
      multistep: Whether all steps have one evaluation and remember the one before (2M).
    """

    streams: Mapping[str, Trajectory]
    spans: Mapping[str, tuple[int, int]]
    begins: np.ndarray
    multistep: bool

    @property
    def evaluations(self) -> int:
        """N, the number of network evaluations."""
        return len(self.begins)

    @property
    def moving(self) -> list[str]:
        """Names of the streams that move at some time."""
        return [name for name, (first, end) in self.spans.items() if end > first]


def make_plan(
    starts: Mapping[str, float],
    *,
    evaluations: int,
    solver: str = 'fast',
    grid: str = 'time',
    offset: float = 0.0,
) -> Plan:
    """Plans the evaluations of all streams.

    A stream ahead ends before the other one does and then stands clean, at time 0, since training
    with own times shows clean streams at 0 far more often than streams at 1/1000.

    Args:
      starts: {stream: the time that it starts from, in (0.001, 1]}; 0 for one that stands clean.
      evaluations: Network evaluations to spend.
      solver: 'fast' for order 3 with the rest in the last steps; '1', '2', '3' for one order
        throughout, whose number must divide `evaluations`; '2M' for the multistep method.
      grid: 'time' for times uniform in t, as U-ViT samples; 'lambda' for uniform log-SNR, which
        is far more accurate at equal cost. Intermediate times of a step come from the same grid.
      offset: Share of the evaluations by which the map is ahead of the image, -0.5 to 0.5. The
        first `offset` of the evaluations move the map alone, the last ones the image alone. It
        means nothing where only one stream moves.

    Raises:
      ValueError: there is no such solver or grid, the steps do not fit the evaluations, or there
        are too few of them for an offset.
    """
    step = int(solver) if solver in ('1', '2', '3') else 1
    if evaluations % step:
        raise ValueError(f'{evaluations} evaluations cannot be steps of order {solver}.')
    moving = [name for name, start in starts.items() if start]
    lengths = [evaluations]
    spans = dict.fromkeys(starts, (0, 0)) | dict.fromkeys(moving, (0, evaluations))
    if offset and len(moving) == 2:
        lengths = _stretches(evaluations, abs(offset), step)
        ahead, behind = ('map', 'image') if offset > 0 else ('image', 'map')
        spans |= {ahead: (0, evaluations - lengths[2]), behind: (lengths[0], evaluations)}
    # Each stretch has orders of its own, so that both streams begin and end between two steps.
    orders = [_orders(length, solver) for length in lengths if length]
    streams = {
        name: _within(spans[name], starts[name], orders, grid=grid, solver=solver)
        for name in starts
    }
    begins = np.concatenate([np.arange(order) == 0 for order in chain(*orders)])
    return Plan(streams, spans, begins, multistep=solver == '2M')


def _stretches(evaluations: int, offset: float, step: int) -> list[int]:
    """Evaluations of the stream ahead alone, of both, of the one behind alone; whole steps each."""
    together = step * round(evaluations * (1 - 2 * offset) / step)
    alone = evaluations - together
    before = step * -(-alone // (2 * step))
    lengths = [before, together, alone - before]
    if not together and not lengths[2]:
        raise ValueError(
            f'sample.evaluations is {evaluations}, which is one step; with an offset between map '
            'and image take two steps at least.'
        )
    return lengths


def _orders(evaluations: int, solver: str) -> list[int]:
    """The orders of all steps, in turn; an evaluation each for 2M."""
    if solver == 'fast':
        return trajectory.fast_orders(evaluations)
    if solver == '2M':
        return [1] * evaluations
    if solver in ('1', '2', '3'):
        order = int(solver)
        return [order] * (evaluations // order)
    raise ValueError(f"solver is {solver!r}; it must be 'fast', '1', '2', '3' or '2M'.")


def _within(
    span: tuple[int, int], start: float, orders: list[list[int]], *, grid: str, solver: str
) -> Trajectory:
    """A stream's rows: its own grid over its evaluations; it stands before and after them."""
    total = sum(map(sum, orders))
    first, end = span
    if end == first:
        return trajectory.standing(total, _CLEAN)
    times = trajectory.time_grid(end - first, grid, start)
    if solver == '2M':
        moves = trajectory.of_multistep(times)
    else:
        ends = np.cumsum([sum(stretch) for stretch in orders])
        own = [
            stretch
            for stretch, stretch_end in zip(orders, ends, strict=True)
            if first < stretch_end <= end
        ]
        moves = trajectory.of_steps(times, [*chain(*own)])
    before = trajectory.standing(first, start)
    after = trajectory.standing(total - end, _CLEAN)
    return trajectory.joined([before, moves, after])
