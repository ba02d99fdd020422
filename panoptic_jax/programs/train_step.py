"""The training step: Algorithm 1 and one step of its optimiser, a pure function of its inputs.

`programs/training.py` compiles the step for the devices at hand; `programs/state.py` holds the
arithmetic of the optimiser step.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from panoptic_jax.diffusion import loss, times
from panoptic_jax.programs import state


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained: the fields of the config of the same names, which explains them.

    `loss_weights` has a factor for each stream, and `shares` is asked by models with own times.
    """

    seed: int
    steps: int
    batch_size: int
    microbatches: int
    optimizer: str
    learning_rate: float
    warmup_steps: int
    cooldown: float
    weight_decay: float
    betas: tuple[float, float]
    ema_decay: float
    text_dropout: float
    loss_weights: Mapping[str, float]
    shares: times.Shares
    remat: bool = False


def train_step(
    train_state: state.TrainState,
    batch: dict[str, jax.Array],
    *,
    losses: Callable[[dict, loss.Inputs], dict[str, jax.Array]],
    draw: Callable[[dict, jax.Array], loss.Inputs],
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
) -> state.TrainState:
    """Algorithm 1, one AdamW step and one step of the average.

    Args:
      train_state: The state at step n; its buffers may be donated.
      batch: The global batch, see `loss.draw_inputs`.
      losses: (all parameters, inputs) -> {stream: (B,) loss}.
      draw: (batch, key) -> inputs, see `loss.draw_inputs`.
      optimizer: Updates the trainable parameters.
      recipe: With the step, `recipe.seed` decides all randomness. `recipe.microbatches` parts of
        the batch are worked off one after another; the result is that of the whole batch.
    """
    # Algorithm 1: everything random about this step comes from (seed, step).
    key = jax.random.fold_in(jax.random.key(recipe.seed), train_state.step)
    inputs = draw(batch, key)

    def mean_loss(params, inputs):
        per_example = losses(state.merge(params, train_state.frozen), inputs)
        return sum(value.mean() for value in per_example.values()), per_example

    # Only `params` has gradients; frozen parameters enter as constants.
    gradient = jax.grad(mean_loss, has_aux=True)
    parts = recipe.microbatches

    def accumulate(total, part):
        part_gradients, per_example = gradient(train_state.params, part)
        return jax.tree.map(lambda a, b: a + b / parts, total, part_gradients), per_example

    if parts == 1:
        gradients, per_example = gradient(train_state.params, inputs)
    else:
        # Every n-th example goes to the same part, so that each device keeps its own examples.
        split_inputs = jax.tree.map(
            lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), inputs
        )  # (parts, B / parts, ...)
        zeros = jax.tree.map(jnp.zeros_like, train_state.params)
        gradients, per_example = jax.lax.scan(accumulate, zeros, split_inputs)
        per_example = jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1), per_example)  # (B,)

    train_state, norms = state.apply_gradients(train_state, gradients, optimizer, recipe.ema_decay)
    totals = state.add_totals(
        train_state.totals, step=train_state.step, losses=per_example, t=inputs.t, norms=norms
    )
    return train_state.replace(totals=totals)


def example_losses(
    model: Any, params: dict, inputs: loss.Inputs, *, objective: loss.Objective
) -> dict[str, jax.Array]:
    """Algorithm 1's losses (B,) per stream for drawn inputs.

    Args:
      model: The network.
      params: All its parameters.
      inputs: The inputs that `loss.draw_inputs` drew.
      objective: What the losses ask of the network.
    """

    def predict(*arguments):
        return model.apply({'params': params}, *arguments)

    return loss.pair_losses(predict, inputs, objective)
