"""The coefficients of DPM-Solver++ for one stream: Eq. 5 and Appendix A, corrected.

They depend on the stream's times alone, and are computed once, on the host in float64.
`diffusion/plan.py` gives each stream its times, and `diffusion/solver.py` applies the coefficients.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from panoptic_jax.diffusion import schedule


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """A stream's coefficients, one row for each network evaluation.

    An evaluation gives the stream a data prediction D. The stream then moves to
    `keep * start + first * D_0 + change * (D - E)`. `start` is the stream at the beginning of the
    step, and D_0 is the step's first data prediction. E is D_0 too; in a multistep plan E is the
    data prediction of the evaluation before. A stream that stands has keep 1, first 0, change 0.

    Attributes:
      time: (N,) float64, where the stream is when the network is asked, in [0, 1]; 0 is clean.
      alpha: (N,) float64, factor of the data at `time` (Eq. 2).
      sigma: (N,) float64, factor of the noise at `time` (Eq. 2).
      keep: (N,) float64, weight of `start`.
      first: (N,) float64, weight of D_0.
      change: (N,) float64, weight of D - E.
    """

    time: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    keep: np.ndarray
    first: np.ndarray
    change: np.ndarray


def time_grid(evaluations: int, grid: str, start: float = schedule.LAST_TIME) -> np.ndarray:
    """The times of a trajectory.

    Args:
      evaluations: N, network evaluations.
      grid: 'time' for times uniform in t, 'lambda' for times uniform in log-SNR.
      start: The first time, in (0.001, 1].

    Returns:
      (N + 1,) float64, falling from `start` to 1/1000.

    Raises:
      ValueError: `grid` is neither.
    """
    if grid == 'time':
        return np.linspace(start, schedule.FIRST_TIME, evaluations + 1)
    if grid == 'lambda':
        ends = schedule.log_snr(np.array([start, schedule.FIRST_TIME]))
        times = schedule.time_of_log_snr(np.linspace(*ends, evaluations + 1))
        # The way to lambda and back is not exact, and the ends should be.
        times[[0, -1]] = start, schedule.FIRST_TIME
        return times
    raise ValueError(f"grid is {grid!r}; it must be 'time' or 'lambda'.")


def fast_orders(evaluations: int) -> list[int]:
    """Orders that spend exactly `evaluations` network calls, three where possible (DPM-Solver)."""
    threes, rest = divmod(evaluations, 3)
    if rest:
        return [3] * threes + [rest]
    return [3] * (threes - 1) + [2, 1]


def of_steps(times: np.ndarray, orders: Sequence[int]) -> Trajectory:
    """The rows of single steps of these orders, in turn; times within a step are of the grid too.

    Args:
      times: (N + 1,) float64, falling.
      orders: Orders of the steps, 1 to 3, whose sum is N.
    """
    steps, start = [], 0
    for order in orders:
        # A step ends where the next one begins, so their times overlap by one.
        steps.append(_singlestep(times[start : start + order + 1]))
        start += order
    return joined(steps)


def of_multistep(times: np.ndarray) -> Trajectory:
    """The rows of 2M; the first step and, for accuracy, the last are of order 1.

    Args:
      times: (N + 1,) float64, falling.
    """
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
    )


def standing(evaluations: int, time: float) -> Trajectory:
    """The rows of a stream that stays as it is at a time; 0 for a clean stream."""
    rows = np.full(evaluations, time, np.float64)
    alpha, sigma = schedule.alpha_sigma(rows)
    none = np.zeros(evaluations)
    return Trajectory(time=rows, alpha=alpha, sigma=sigma, keep=none + 1, first=none, change=none)


def joined(parts: Sequence[Trajectory]) -> Trajectory:
    """The rows of all parts, in turn."""
    names = [field.name for field in dataclasses.fields(Trajectory)]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Trajectory(**columns)


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
    )
