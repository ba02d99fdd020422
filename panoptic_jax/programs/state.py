"""The training state: what a checkpoint holds, how it starts, what an optimiser step does to it.

`programs/train_step.py` computes losses and gradients, `machine/sharding.py` says where the arrays
lie, and `weights/checkpoint.py` writes them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from panoptic_jax.diffusion.schedule import NUM_STEPS

NOISE_BUCKETS = 5  # equal ranges of t that the loss is reported for
_STREAMS = ('image', 'map')
_MAP_COUNT = 'bucket_count_map'  # in totals of models with own times


class TrainState(flax.struct.PyTreeNode):
    """Everything that a resumed run needs besides its position in the data.

    Attributes:
      step: () int32, optimiser steps done.
      params: Trainable parameters.
      frozen: Parameters without gradient, optimiser state, decay or average.
      ema: Exponential moving average of `params`.
      opt_state: The optimiser's state for `params`.
      totals: Sums of the metrics since the last log line, so that a resumed run logs the same.
    """

    step: jax.Array
    params: Any
    frozen: Any
    ema: Any
    opt_state: Any
    totals: dict[str, jax.Array]


def split(params: Mapping, is_frozen: Callable[[str], bool]) -> tuple[dict, dict]:
    """Splits a parameter tree into (trainable, frozen) by the path, such as 'image/norm/scale'."""
    flat = flatten_dict(params, sep='/')
    trainable = {path: value for path, value in flat.items() if not is_frozen(path)}
    frozen = {path: value for path, value in flat.items() if is_frozen(path)}
    return unflatten_dict(trainable, sep='/'), unflatten_dict(frozen, sep='/')


def merge(params: Mapping, frozen: Mapping) -> dict:
    """Rebuilds the whole parameter tree."""
    flat = flatten_dict(params, sep='/') | flatten_dict(frozen, sep='/')
    return unflatten_dict(flat, sep='/')


def learning_rate(
    step: jax.Array, *, peak: float, warmup_steps: int, steps: int, cooldown: float
) -> jax.Array:
    """Rate of the update that follows `step` steps: linear up, constant, linear down to 0.

    Args:
      step: Optimiser steps done.
      peak: The constant rate.
      warmup_steps: Steps of the way up.
      steps: Steps of the whole run.
      cooldown: Share of `steps` that the way down takes; where it meets the way up, both count.
    """
    rate = peak * jnp.minimum(1.0, (step + 1) / max(1, warmup_steps))
    if not cooldown:
        return rate
    return rate * jnp.clip((steps - step) / (cooldown * steps), 0, 1)


def ema_decay(step: jax.Array, decay: float) -> jax.Array:
    """Decay of the average at this step: a young average forgets fast, or it would keep the start.

    Args:
      step: Optimiser steps done.
      decay: The decay of an old average.
    """
    return jnp.minimum(decay, (1 + step) / (10 + step))


def zero_totals(*, own_times: bool = False) -> dict[str, jax.Array]:
    """Empty sums; `non_finite_step` is the first step that was not finite.

    Args:
      own_times: Whether each stream has a time of its own, so that the map's are counted, too.
    """
    scalars = ('steps', 'loss', 'loss_image', 'loss_map', 'grad_norm', 'update_norm')
    buckets = ['bucket_count', 'bucket_image', 'bucket_map']
    if own_times:
        buckets.append(_MAP_COUNT)
    sums = {name: jnp.zeros((), jnp.float32) for name in scalars}
    sums |= {name: jnp.zeros((NOISE_BUCKETS,), jnp.float32) for name in buckets}
    return sums | {'non_finite_step': jnp.zeros((), jnp.int32)}


def create(
    params: dict,
    is_frozen: Callable[[str], bool],
    optimizer: optax.GradientTransformation,
    *,
    own_times: bool = False,
) -> TrainState:
    """A state at step 0; the average starts from the loaded weights.

    Args:
      params: All parameters.
      is_frozen: Whether the parameter of a path is not trained.
      optimizer: From `optimizers.make`.
      own_times: See `zero_totals`.
    """
    trainable, frozen = split(params, is_frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=trainable,
        frozen=frozen,
        # A copy: the step donates both trees, and one buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, trainable),
        opt_state=optimizer.init(trainable),
        totals=zero_totals(own_times=own_times),
    )


def apply_gradients(
    state: TrainState, gradients: Any, optimizer: optax.GradientTransformation, decay: float
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One AdamW step and one step of the average.

    Args:
      state: The state before the step.
      gradients: Gradients of the trainable parameters.
      optimizer: From `optimizers.make`.
      decay: See `ema_decay`.

    Returns:
      The new state, and the norms of gradient and update; that of the update is not finite where
      the average is not.
    """
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    keep = ema_decay(state.step, decay)
    ema = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.ema, params)
    changes = jax.tree.map(_change, params, state.params, ema)
    norms = {
        'grad_norm': optax.tree.norm(gradients),
        'update_norm': optax.tree.norm(changes),
    }
    state = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
    return state, norms


def _change(new, old, average):
    """new - old, and not finite where the average is not."""
    # A TPU's compiler writes the state in one pass only if the norm's sums read all of it: sums of
    # `updates` took another pass, and so did an average that the sums did not read.
    return jnp.where(jnp.isfinite(average), new - old, average)


def add_totals(
    totals: dict,
    *,
    step: jax.Array,
    losses: dict[str, jax.Array],
    t: dict[str, jax.Array],
    norms: dict,
) -> dict[str, jax.Array]:
    """Adds one step to the sums.

    Args:
      totals: From `zero_totals`.
      step: () int32, the step just done.
      losses: (B,) per stream: 'image', and 'map' where maps are predicted.
      t: (B,) int32 per stream, 1..1000; a clean stream has 0 and is in no range of times.
      norms: From `apply_gradients`.
    """
    # A model without map losses has the same sums as the others, with zeros in them.
    no_loss = jnp.zeros_like(losses['image'])
    per_example = {stream: losses.get(stream, no_loss) for stream in _STREAMS}
    means = {stream: value.mean() for stream, value in per_example.items()}
    loss = means['image'] + means['map']
    members = {
        stream: _in_buckets(t[stream]) for stream in per_example if stream in t
    }  # (buckets, B) each
    finite = jnp.isfinite(loss) & jnp.isfinite(norms['grad_norm'] + norms['update_norm'])
    first_bad = jnp.where(totals['non_finite_step'] > 0, totals['non_finite_step'], step)
    added = {
        'steps': 1.0,
        'loss': loss,
        'loss_image': means['image'],
        'loss_map': means['map'],
        **norms,
        'bucket_count': members['image'].sum(1),
        **{
            f'bucket_{stream}': members.get(stream, members['image']) @ value
            for stream, value in per_example.items()
        },
    }
    if _MAP_COUNT in totals:
        added[_MAP_COUNT] = members['map'].sum(1)
    summed = {name: totals[name] + value for name, value in added.items()}
    return summed | {'non_finite_step': jnp.where(finite, totals['non_finite_step'], first_bad)}


def means_of(totals: dict, *, has_map: bool) -> dict[str, float]:
    """The log line of fetched sums: means over the window, per range of t where there are any."""
    # Sums of a long window lose digits in float32 divisions.
    totals = {name: np.asarray(value, np.float64) for name, value in totals.items()}
    streams = _STREAMS if has_map else _STREAMS[:1]
    names = ['loss', *(f'loss_{stream}' for stream in streams), 'grad_norm', 'update_norm']
    means = {name: float(totals[name] / totals['steps']) for name in names}
    width = NUM_STEPS // NOISE_BUCKETS
    one_count = totals['bucket_count']
    counts = {'image': one_count, 'map': totals.get(_MAP_COUNT, one_count)}
    for bucket in range(NOISE_BUCKETS):
        label = f't{bucket * width + 1:04d}-{(bucket + 1) * width:04d}'
        for stream in streams:
            count = counts[stream][bucket]
            if count:
                total = totals[f'bucket_{stream}'][bucket]
                means[f'loss_{stream}/{label}'] = float(total / count)
    return means


def _in_buckets(t):
    """(B,) times -> (buckets, B), 1 where a time is in a range; a clean stream is in none."""
    bucket = (t - 1) * NOISE_BUCKETS // NUM_STEPS
    return jax.nn.one_hot(bucket, NOISE_BUCKETS, axis=0)
