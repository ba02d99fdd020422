"""DPM-Solver++ over the (image, map) pair: Algorithm 2, Eq. 5 and Appendix A, corrected.

All coefficients depend on the time grid alone: `make_plan` computes them once, on the host in
float64; `solve` runs the whole trajectory inside one jit. Noise and guidance are the caller's.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.diffusion import schedule


class Group(NamedTuple):
    """A run of like steps, scanned over. Stage j of a step of n stages asks the network at
    `time` for a data prediction D_j and moves to `keep * start + first * D_0 + change * (D_j - E)`,
    where E is D_0, or in a multistep group the previous step's prediction.

    Attributes:
      multistep: Whether the steps have one stage and remember the previous prediction (2M).
      coefficients: (steps, stages, 6) float64: time, alpha, sigma, keep, first, change.
    """

    multistep: bool
    coefficients: np.ndarray


def time_grid(evaluations: int, grid: str) -> np.ndarray:
    """`evaluations` + 1 falling times from 1 to 1/1000, uniform in 'time' or 'lambda'. Float64."""
    if grid == 'time':
        return np.linspace(schedule.LAST_TIME, schedule.FIRST_TIME, evaluations + 1)
    if grid == 'lambda':
        ends = schedule.log_snr(np.array([schedule.LAST_TIME, schedule.FIRST_TIME]))
        times = schedule.time_of_log_snr(np.linspace(*ends, evaluations + 1))
        times[[0, -1]] = schedule.LAST_TIME, schedule.FIRST_TIME
        return times
    raise ValueError(f"grid is {grid!r}; it must be 'time' or 'lambda'.")


def fast_orders(evaluations: int) -> list[int]:
    """Orders that spend exactly `evaluations` network calls, three where possible (DPM-Solver)."""
    threes, rest = divmod(evaluations, 3)
    return [3] * threes + [rest] if rest else [3] * (threes - 1) + [2, 1]


def make_plan(evaluations: int, solver: str = 'fast', grid: str = 'time') -> list[Group]:
    """Coefficients of a whole trajectory.

    Args:
      evaluations: Network evaluations to spend.
      solver: 'fast' for order 3 with the rest in the last steps; '1', '2', '3' for one order
        throughout, whose number must divide `evaluations`; '2M' for the multistep method.
      grid: 'time' for times uniform in t, as U-ViT samples; 'lambda' for uniform log-SNR, which
        is far more accurate at equal cost. Intermediate times of a step come from the same grid.

    Returns:
      Consecutive groups of steps.
    """
    times = time_grid(evaluations, grid)
    if solver == '2M':
        return [Group(True, _multistep(times)[:, None])]
    if solver == 'fast':
        orders = fast_orders(evaluations)
    elif solver in ('1', '2', '3'):
        if evaluations % int(solver):
            raise ValueError(f'{evaluations} evaluations cannot be steps of order {solver}.')
        orders = [int(solver)] * (evaluations // int(solver))
    else:
        raise ValueError(f"solver is {solver!r}; it must be 'fast', '1', '2', '3' or '2M'.")
    groups, start = [], 0
    while orders:
        order, count = orders[0], len(orders) - len(_drop_leading(orders))
        steps = [times[start + order * i :][: order + 1] for i in range(count)]
        groups.append(Group(False, np.stack([_singlestep(step) for step in steps])))
        start, orders = start + order * count, orders[count:]
    return groups


def _drop_leading(orders: list[int]) -> list[int]:
    """`orders` without its leading run of equal values."""
    return orders[next((i for i, order in enumerate(orders) if order != orders[0]), len(orders)) :]


def _singlestep(times: np.ndarray) -> np.ndarray:
    """(order, 6) coefficients of one step from times[0] to times[-1] through those between."""
    alpha, sigma = schedule.alpha_sigma(times)
    lam = schedule.log_snr(times)
    order, h = len(times) - 1, lam[-1] - lam[0]
    r = (lam[1:] - lam[0]) / h  # r1, r2, 1
    keep = sigma[1:] / sigma[0]
    first = -alpha[1:] * np.expm1(-r * h)
    change = np.zeros(order)
    if order == 2:
        change[1] = -alpha[2] * np.expm1(-h) / (2 * r[0])
    if order == 3:
        change[1] = r[1] / r[0] * alpha[2] * (np.expm1(-r[1] * h) / (r[1] * h) + 1)
        change[2] = 1 / r[1] * alpha[3] * (np.expm1(-h) / h + 1)
    return np.stack([times[:-1], alpha[:-1], sigma[:-1], keep, first, change], axis=-1)


def _multistep(times: np.ndarray) -> np.ndarray:
    """(steps, 6) coefficients of 2M; the first step and, for accuracy, the last are of order 1."""
    alpha, sigma = schedule.alpha_sigma(times)
    h = np.diff(schedule.log_snr(times))
    first = -alpha[1:] * np.expm1(-h)
    change = np.zeros(len(h))
    change[1:-1] = first[1:-1] * h[1:-1] / (2 * h[:-2])
    return np.stack([times[:-1], alpha[:-1], sigma[:-1], sigma[1:] / sigma[:-1], first, change], -1)


def solve(
    predict: Callable,
    x: jax.Array,
    m: jax.Array | None,
    plan: list[Group],
    given_map: bool = False,
    clip_map: bool = True,
    map_noise_std: float | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Denoises a batch of pairs from t = 1 to t = 1/1000.

    Args:
      predict: Guided network (x, m, t) -> (noise, map_bits), t (B,) float in (0, 1000].
      x: (B, h, w, c) standard normal.
      m: (B, kh, kw, 8) normal of the map's starting std; clean bits where `given_map`; None for a
        model without maps.
      plan: From `make_plan`.
      given_map: The map is an input that stays as it is.
      clip_map: Clip the map's data prediction to [-1, 1] inside the solver.
      map_noise_std: s of a network that predicts the map's noise; None: it predicts the map.

    Returns:
      x at t = 1/1000, and the map's last guided data prediction, unclipped, which is what to
      decode: the last step is long and would amplify errors in m. None where no map is generated.
    """
    state = {'image': x} if m is None or given_map else {'image': x, 'map': m}

    def data_prediction(state, time, alpha, sigma):
        t = jnp.full(x.shape[0], schedule.NUM_STEPS * time, x.dtype)
        noise, map_bits = predict(state['image'], state.get('map', m), t)
        data = {'image': (state['image'] - sigma * noise) / alpha}
        if 'map' in state:
            if map_noise_std is not None:
                map_bits = (state['map'] - sigma * map_noise_std * map_bits) / alpha
            data['map'] = jnp.clip(map_bits, -1, 1) if clip_map else map_bits
        return data, map_bits

    # One scan over evaluations, not steps: the network is compiled once whatever the orders.
    def evaluate(carry, row):
        current, start, initial, previous, _ = carry
        time, alpha, sigma, *coefficients, begins = row

        def renewed(new, old):
            return jax.tree.map(lambda a, b: jnp.where(begins > 0, a, b), new, old)

        data, map_values = data_prediction(current, time, alpha, sigma)
        start, initial = renewed(current, start), renewed(data, initial)
        reference = previous if multistep else initial
        current = _combine(coefficients, start, initial, data, reference)
        return (current, start, initial, data, map_values if 'map' in state else None), None

    multistep = any(group.multistep for group in plan)
    rows = jnp.asarray(np.concatenate([_rows(group) for group in plan]), x.dtype)
    zeros = jax.tree.map(jnp.zeros_like, state)
    carry = (state, zeros, zeros, zeros, zeros.get('map'))
    (state, *_, map_values), _ = jax.lax.scan(evaluate, carry, rows)
    return state['image'], map_values


def _rows(group: Group) -> np.ndarray:
    """(evaluations, 7): the coefficients, and whether the evaluation begins a step."""
    steps, order, _ = group.coefficients.shape
    begins = np.broadcast_to(np.arange(order) == 0, (steps, order))[..., None]
    return np.concatenate([group.coefficients, begins], axis=-1).reshape(steps * order, -1)


def _combine(weights, start, initial, data, reference):
    """keep * start + first * initial + change * (data - reference), for image and map alike."""
    keep, first, change = weights
    return jax.tree.map(
        lambda s, i, d, r: keep * s + first * i + change * (d - r), start, initial, data, reference
    )
