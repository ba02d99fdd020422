"""DPM-Solver++ over the (image, map) pair: Algorithm 2, the whole trajectory inside one jit.

The coefficients are in `diffusion/trajectory.py` and guidance is in `diffusion/guidance.py`. The
starting noise is drawn in `programs/sampler.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.diffusion import schedule
from panoptic_jax.diffusion.trajectory import Trajectory


class _Progress(NamedTuple):
    """Where a trajectory stands between two evaluations; dictionaries have a key per stream.

    Attributes:
      current: x_t, and m_t where the map is generated.
      start: The same at the beginning of the step.
      initial: D_0, the step's first data prediction.
      previous: D, the data prediction of the last evaluation.
      map_values: The map's D before it was clipped.
    """

    current: dict[str, jax.Array]
    start: dict[str, jax.Array]
    initial: dict[str, jax.Array]
    previous: dict[str, jax.Array]
    map_values: jax.Array | None


class _Row(NamedTuple):
    """The coefficients of one evaluation, see `Trajectory`; `begins` is 1 or 0."""

    time: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    keep: jax.Array
    first: jax.Array
    change: jax.Array
    begins: jax.Array


def solve(
    predict: Callable,
    x: jax.Array,
    m: jax.Array | None,
    trajectory: Trajectory,
    *,
    given_map: bool = False,
    clip_map: bool = True,
    map_noise_std: float | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Algorithm 2: denoises a batch of pairs from t = 1 to t = 1/1000.

    Args:
      predict: The guided network (x_t, m_t, t) -> (image, map), t (B,) float in (0, 1000].
      x: (B, h, w, c) standard normal.
      m: (B, kh, kw, NUM_BITS) normal of the map's starting std; clean bits where `given_map`; None
        for a model without maps.
      trajectory: The coefficients.
      given_map: The map is an input that stays as it is.
      clip_map: Clip the map's data prediction to [-1, 1] inside the solver.
      map_noise_std: s of a network that predicts the map's noise; None: it predicts the map.

    Returns:
      x at t = 1/1000, and the map's last guided data prediction, unclipped, which is what to
      decode: the last step is long and would amplify errors in m. None where no map is generated.
    """
    streams = {'image': x}
    if m is not None and not given_map:
        streams['map'] = m
    noise_stds = {'image': 1.0, 'map': map_noise_std}

    def evaluate(progress, numbers):
        row = _Row(*numbers)
        t = jnp.full(x.shape[0], schedule.NUM_STEPS * row.time, x.dtype)  # (B,)
        image, map_ = predict(progress.current['image'], progress.current.get('map', m), t)
        predictions = {'image': image, 'map': map_}  # (B, h, w, c), (B, kh, kw, NUM_BITS)
        data = {
            name: _data_prediction(predictions[name], stream, row, noise_std=noise_stds[name])
            for name, stream in progress.current.items()
        }
        map_values = data.get('map')
        if 'map' in data and clip_map:
            # Guided predictions reach +-3, but clean bits are -1 or +1.
            data['map'] = jnp.clip(data['map'], -1, 1)
        progress = _advance(progress, row, data, multistep=trajectory.multistep)
        return progress._replace(map_values=map_values), None

    # One scan over evaluations, not steps: the network is compiled once whatever the orders.
    zeros = jax.tree.map(jnp.zeros_like, streams)
    progress = _Progress(
        current=streams,
        start=zeros,
        initial=zeros,
        previous=zeros,
        map_values=zeros.get('map'),
    )
    progress, _ = jax.lax.scan(evaluate, progress, jnp.asarray(_rows(trajectory), x.dtype))
    return progress.current['image'], progress.map_values


def _rows(trajectory):
    """(N, 7) float64: the columns of `_Row`."""
    # One array: columns of their own, where constant, the compiler folds into the loop, and the
    # last bits of a sample would depend on that.
    columns = [getattr(trajectory, name) for name in _Row._fields]
    return np.stack(columns, axis=-1)


def _data_prediction(prediction, stream, row, *, noise_std):
    """Eq. 4 for a stream of noise times `noise_std`; with None the prediction is the data."""
    if noise_std is None:
        return prediction
    return (stream - row.sigma * noise_std * prediction) / row.alpha


def _advance(progress, row, data, *, multistep):
    """Eq. 5 and the stages of Appendix A, corrected, for every stream alike."""

    def renewed(new, old):
        return jax.tree.map(lambda a, b: jnp.where(row.begins > 0, a, b), new, old)

    def moved(start, initial, data, reference):
        return row.keep * start + row.first * initial + row.change * (data - reference)

    start = renewed(progress.current, progress.start)
    initial = renewed(data, progress.initial)
    reference = progress.previous if multistep else initial
    current = jax.tree.map(moved, start, initial, data, reference)
    return progress._replace(current=current, start=start, initial=initial, previous=data)
