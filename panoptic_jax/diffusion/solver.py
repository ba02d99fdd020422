"""DPM-Solver++ over the (image, map) pair: Algorithm 2, the whole trajectory inside one jit.

What happens in an evaluation says `diffusion/plan.py`, and guidance is in `diffusion/guidance.py`.
The starting noise is drawn in `programs/sampler.py`.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.diffusion import schedule
from panoptic_jax.diffusion.plan import Plan
from panoptic_jax.diffusion.streams import NAMES, Stream, data_of, network_input


class Known(NamedTuple):
    """The part of a stream that is known beforehand.

    Attributes:
      mask: (B, h, w, 1) bool, where it is known.
      clean: (B, h, w, c) the truth; what lies outside the mask does not matter.
      noise: (B, h, w, c) standard normal, which noises the truth to a stream's time.
    """

    mask: jax.Array
    clean: jax.Array
    noise: jax.Array


class _Progress(NamedTuple):
    """Where a stream stands between two evaluations; all have the stream's shape.

    Attributes:
      current: The stream.
      start: The same at the beginning of the step.
      initial: D_0, the step's first data prediction.
      previous: D, the data prediction of the last evaluation.
      values: The last D before it was clipped; None where nothing is clipped.
    """

    current: jax.Array
    start: jax.Array
    initial: jax.Array
    previous: jax.Array
    values: jax.Array | None


class _Row(NamedTuple):
    """A stream's coefficients in one evaluation, see `Trajectory`; the others are 1 or 0.

    Attributes:
      begins: Whether a step begins.
      moves: Whether the stream moves.
      finishes: Whether the stream becomes clean now and stands from now on.
      next_alpha: alpha after the evaluation.
      next_sigma: sigma after the evaluation; 0 at the end.
    """

    time: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    keep: jax.Array
    first: jax.Array
    change: jax.Array
    begins: jax.Array
    moves: jax.Array
    finishes: jax.Array
    next_alpha: jax.Array
    next_sigma: jax.Array


def solve(
    predict: Callable,
    states: Mapping[str, jax.Array],
    plan: Plan,
    streams: Mapping[str, Stream],
    *,
    own_times: bool = False,
    clip: Collection[str] = (),
    known: Mapping[str, Known] | None = None,
    finish: Mapping[str, Callable[[jax.Array], jax.Array]] | None = None,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Algorithm 2: denoises a batch of pairs as a plan says.

    Args:
      predict: The guided network (x_t, m_t, t) -> (image, map), t (B,) float in (0, 1000], or
        (B, 2) in [0, 1000] for a network with own times.
      states: Each stream where it starts, (B, h, w, c); without 'map' for a model without maps.
      plan: The coefficients of these streams.
      streams: What the network says of each.
      own_times: Whether the network takes a time for each stream.
      clip: Streams whose data prediction is clipped to [-1, 1] inside the solver. Guided
        predictions of bits reach +-3, but clean bits are -1 or +1.
      known: Parts that are overwritten after every evaluation, and are exact in the end.
      finish: What a stream becomes where it stands clean while the other goes on: a function of
        its last data prediction, unclipped; without one it becomes that prediction, clipped.

    Returns:
      Each moving stream in the end, at t = 1/1000 or clean where it was ahead; and its last guided
      data prediction, unclipped. That is what to decode of a map: the last step is long and would
      amplify errors.

    Raises:
      ValueError: the network has one time, and the plan has two.
    """
    known, finish = known or {}, finish or {}
    if not own_times:
        _check_one_time(plan)
    size, dtype = states['image'].shape[0], states['image'].dtype
    names = [name for name in NAMES if name in states]
    different, places = _different([_rows(plan, name) for name in names], names)

    # A stream that always stands is no business of a network with one time.
    asked = names if own_times else plan.moving[:1]

    def network_time(rows):
        times = [jnp.full(size, schedule.NUM_STEPS * rows[name].time, dtype) for name in asked]
        return jnp.stack(times, axis=-1) if own_times else times[0]  # (B, 2) or (B,)

    def evaluate(progress, numbers):
        each_row = [_Row(*row) for row in numbers]
        rows = {name: each_row[place] for name, place in places.items()}
        now = states | {name: each.current for name, each in progress.items()}
        seen = _network_inputs(now, streams, rows)
        image, map_ = predict(seen['image'], seen.get('map'), network_time(rows))
        predictions = {'image': image, 'map': map_}  # (B, h, w, c), (B, kh, kw, channels)
        moved = {}
        for name, old in progress.items():
            row = rows[name]
            values = data_of(
                streams[name], predictions[name], now[name], alpha=row.alpha, sigma=row.sigma
            )
            data = jnp.clip(values, -1, 1) if name in clip else values
            new = _advance(old, row, data, multistep=plan.multistep)
            new = new._replace(values=values if name in clip else None)
            if plan.spans[name] != (0, plan.evaluations):
                settled = finish[name](values) if name in finish else data
                new = _within_span(old, new, row, settled)
            if name in known:
                new = _with_known(new, row, known[name], streams[name])
            moved[name] = new
        return moved, None

    # One scan over evaluations, not steps: the network is compiled once whatever the orders.
    progress = {name: _beginning(states[name], is_clipped=name in clip) for name in plan.moving}
    numbers = np.stack(different, axis=1)  # (N, different streams, 11)
    progress, _ = jax.lax.scan(evaluate, progress, jnp.asarray(numbers, dtype))
    values = {n: each.values if n in clip else each.previous for n, each in progress.items()}
    for name, part in known.items():
        values[name] = jnp.where(part.mask, part.clean, values[name])
    return {name: each.current for name, each in progress.items()}, values


def overwritten(
    state: jax.Array, known: Known, stream: Stream, *, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
    """A stream whose known part is the truth, noised to the stream's time (Eq. 2)."""
    truth = alpha * known.clean + sigma * stream.noise_std * known.noise
    return jnp.where(known.mask, truth, state)


def _beginning(state, *, is_clipped):
    zeros = jnp.zeros_like(state)
    return _Progress(state, zeros, zeros, zeros, values=zeros if is_clipped else None)


def _network_inputs(now, streams, rows):
    return {
        name: network_input(streams[name], value, alpha=rows[name].alpha, sigma=rows[name].sigma)
        for name, value in now.items()
    }


def _check_one_time(plan):
    times = [plan.streams[name].time for name in plan.moving]
    if any(not np.array_equal(times[0], other) for other in times[1:]):
        raise ValueError(
            'A network with one time needs equal times of image and map in every evaluation; '
            'weights of model.separate_times=True take different ones.'
        )


def _rows(plan, name):
    """(N, 11) float64: the columns of `_Row` of a stream."""
    # One array: columns of their own, where constant, the compiler folds into the loop, and the
    # last bits of a sample would depend on that.
    coefficients = plan.streams[name]
    first, end = plan.spans[name]
    places = np.arange(plan.evaluations)
    columns = dataclasses.asdict(coefficients) | {
        'begins': plan.begins,
        'moves': (places >= first) & (places < end),
        'finishes': (places == end - 1) & (end < plan.evaluations),
        # Clean in the end, so that what is known comes out exactly.
        'next_alpha': np.append(coefficients.alpha[1:], 1.0),
        'next_sigma': np.append(coefficients.sigma[1:], 0.0),
    }
    return np.stack([columns[field] for field in _Row._fields], axis=-1).astype(np.float64)


def _different(rows, names):
    """The different ones of the streams' rows, and {stream: the place of its rows among them}."""
    # Streams that move alike share their rows, so that the compiler sees one number for both.
    different, places = [], {}
    for name, own in zip(names, rows, strict=True):
        same = [place for place, other in enumerate(different) if np.array_equal(own, other)]
        places[name] = same[0] if same else len(different)
        if not same:
            different.append(own)
    return different, places


def _advance(progress, row, data, *, multistep):
    """Eq. 5 and the stages of Appendix A, corrected, for one stream."""
    start = jnp.where(row.begins > 0, progress.current, progress.start)
    initial = jnp.where(row.begins > 0, data, progress.initial)
    reference = progress.previous if multistep else initial
    current = row.keep * start + row.first * initial + row.change * (data - reference)
    return progress._replace(current=current, start=start, initial=initial, previous=data)


def _with_known(progress, row, known, stream):
    """The known part overwritten at the time after the evaluation."""
    alpha, sigma = row.next_alpha, row.next_sigma
    current = overwritten(progress.current, known, stream, alpha=alpha, sigma=sigma)
    return progress._replace(current=current)


def _within_span(old, new, row, settled):
    """`new` where the stream moves, `old` where it stands; clean after its last evaluation."""
    # Rows of 1, 0 and 0 would do in exact numbers; this holds for zeros' signs and NaN as well.
    new = jax.tree.map(lambda a, b: jnp.where(row.moves > 0, a, b), new, old)
    return new._replace(current=jnp.where(row.finishes > 0, settled, new.current))
