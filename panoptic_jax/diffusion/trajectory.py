"""The coefficients of DPM-Solver++: Eq. 5 and Appendix A, corrected.

They depend on the time grid alone: `make_trajectory` computes them once, on the host in float64.
`diffusion/solver.py` applies them.
"""

import dataclasses

import numpy as np

from panoptic_jax.diffusion import schedule


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """The solver's coefficients, one row for each network evaluation.

    An evaluation gives each stream a data prediction D. The stream then moves to
    `keep * start + first * D_0 + change * (D - E)`. `start` is the stream at the beginning of the
    step, and D_0 is the step's first data prediction. E is D_0 too; in a multistep trajectory E is
    the data prediction of the evaluation before.

    Attributes:
      time: (N,) float64, when the network is asked: falling, in (0.001, 1].
      alpha: (N,) float64, factor of the data at `time` (Eq. 2).
      sigma: (N,) float64, factor of the noise at `time` (Eq. 2).
      keep: (N,) float64, weight of `start`.
      first: (N,) float64, weight of D_0.
      change: (N,) float64, weight of D - E.
      begins: (N,) bool, whether the evaluation begins a step.
      multistep: Whether all steps have one evaluation and remember the one before (2M).
    """

    time: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    keep: np.ndarray
    first: np.ndarray
    change: np.ndarray
    begins: np.ndarray
    multistep: bool


def time_grid(evaluations: int, grid: str) -> np.ndarray:
    """The times of a trajectory.

    Args:
      evaluations: N, network evaluations.
      grid: 'time' for times uniform in t, 'lambda' for times uniform in log-SNR.

    Returns:
      (N + 1,) float64, falling from 1 to 1/1000.

    Raises:
      ValueError: `grid` is neither.
    """
    if grid == 'time':
        return np.linspace(schedule.LAST_TIME, schedule.FIRST_TIME, evaluations + 1)
    if grid == 'lambda':
        ends = schedule.log_snr(np.array([schedule.LAST_TIME, schedule.FIRST_TIME]))
        times = schedule.time_of_log_snr(np.linspace(*ends, evaluations + 1))
        # The way to lambda and back is not exact, and the ends should be.
        times[[0, -1]] = schedule.LAST_TIME, schedule.FIRST_TIME
        return times
    raise ValueError(f"grid is {grid!r}; it must be 'time' or 'lambda'.")


def fast_orders(evaluations: int) -> list[int]:
    """Orders that spend exactly `evaluations` network calls, three where possible (DPM-Solver)."""
    threes, rest = divmod(evaluations, 3)
    if rest:
        return [3] * threes + [rest]
    return [3] * (threes - 1) + [2, 1]


def make_trajectory(evaluations: int, solver: str = 'fast', grid: str = 'time') -> Trajectory:
    """The coefficients of a whole trajectory.

    Args:
      evaluations: Network evaluations to spend.
      solver: 'fast' for order 3 with the rest in the last steps; '1', '2', '3' for one order
        throughout, whose number must divide `evaluations`; '2M' for the multistep method.
      grid: 'time' for times uniform in t, as U-ViT samples; 'lambda' for uniform log-SNR, which
        is far more accurate at equal cost. Intermediate times of a step come from the same grid.

    Returns:
      A trajectory of `evaluations` rows.

    Raises:
      ValueError: there is no such solver or grid, or the steps do not fit the evaluations.
    """
    times = time_grid(evaluations, grid)
    if solver == '2M':
        return _multistep(times)
    steps, start = [], 0
    for order in _orders(evaluations, solver):
        # A step ends where the next one begins, so their times overlap by one.
        steps.append(_singlestep(times[start : start + order + 1]))
        start += order
    return _joined(steps)


def _orders(evaluations: int, solver: str) -> list[int]:
    """The orders of all steps, in turn."""
    if solver == 'fast':
        return fast_orders(evaluations)
    if solver in ('1', '2', '3'):
        order = int(solver)
        if evaluations % order:
            raise ValueError(f'{evaluations} evaluations cannot be steps of order {solver}.')
        return [order] * (evaluations // order)
    raise ValueError(f"solver is {solver!r}; it must be 'fast', '1', '2', '3' or '2M'.")


def _singlestep(times: np.ndarray) -> Trajectory:
    """The rows of one step from times[0] to times[-1] through those between; one row per order."""
    alpha, sigma = schedule.alpha_sigma(times)
    lam = schedule.log_snr(times)
    order = len(times) - 1
    h = lam[-1] - lam[0]
    r = (lam[1:] - lam[0]) / h  # r1, r2, 1
    change = np.zeros(order)
    if order == 2:
        # DPM-Solver++ order 2: half the slope of D over r1, across the whole step.
        change[1] = -alpha[2] * np.expm1(-h) / (2 * r[0])
    if order == 3:
        # Appendix A, the second inner stage, with alpha_s2 for the alpha_s1 that it prints.
        change[1] = r[1] / r[0] * alpha[2] * (np.expm1(-r[1] * h) / (r[1] * h) + 1)
        # Appendix A, the end of the step: the phi_2 term, which is right as printed.
        change[2] = 1 / r[1] * alpha[3] * (np.expm1(-h) / h + 1)
    return Trajectory(
        time=times[:-1],
        alpha=alpha[:-1],
        sigma=sigma[:-1],
        # Eq. 5, with h > 0 and alpha of the target time: each stage is a first-order step from
        # the beginning, and what `change` adds.
        keep=sigma[1:] / sigma[0],
        first=-alpha[1:] * np.expm1(-r * h),
        change=change,
        begins=np.arange(order) == 0,
        multistep=False,
    )


def _joined(steps: list[Trajectory]) -> Trajectory:
    """The rows of all single steps, in turn."""
    names = [field.name for field in dataclasses.fields(Trajectory) if field.name != 'multistep']
    columns = {name: np.concatenate([getattr(step, name) for step in steps]) for name in names}
    return Trajectory(**columns, multistep=False)


def _multistep(times: np.ndarray) -> Trajectory:
    """The rows of 2M; the first step and, for accuracy, the last are of order 1."""
    alpha, sigma = schedule.alpha_sigma(times)
    h = np.diff(schedule.log_snr(times))
    first = -alpha[1:] * np.expm1(-h)  # Eq. 5, corrected
    change = np.zeros(len(h))
    # DPM-Solver++ 2M: the slope of D over the step before, whose length is h_prev = r0 h.
    change[1:-1] = first[1:-1] * h[1:-1] / (2 * h[:-2])
    return Trajectory(
        time=times[:-1],
        alpha=alpha[:-1],
        sigma=sigma[:-1],
        keep=sigma[1:] / sigma[:-1],
        first=first,
        change=change,
        begins=np.ones(len(h), bool),
        multistep=True,
    )
