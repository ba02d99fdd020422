"""The training step, Algorithm 1 with its optimiser, as one function for the devices at hand.

Also the shapes of all that it takes, so that it can be compiled without data or weights, as the
train loop, plans and benchmarks do. Arrays come from elsewhere.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from panoptic_jax.diffusion import loss
from panoptic_jax.machine import sharding
from panoptic_jax.models import build
from panoptic_jax.models.forms import for_mesh
from panoptic_jax.programs import state
from panoptic_jax.weights import file as weights_file


class Training(NamedTuple):
    """What a run does, before it has any arrays.

    Attributes:
      model: The network.
      schedule: Optimiser steps done -> learning rate of the next.
      draw: (batch, key) -> the inputs of the losses, see `loss.draw_inputs`.
      initial_parameters: key -> fresh parameters.
      create: All parameters -> a TrainState at step 0.
      abstract_params: Shapes of all parameters.
      abstract_state: A TrainState of shapes, with the shardings of the mesh.
      shardings: The same tree of shardings alone.
      step: Compiled when first called or by `lower`: (TrainState, batch) -> TrainState; the first
        is donated.
      step_flops: batch -> floating-point operations of a step over all devices: the matrix
        products of the plain model, whatever a fused attention computes anew.
    """

    model: Any
    schedule: Callable
    draw: Callable
    initial_parameters: Callable
    create: Callable
    abstract_params: dict
    abstract_state: state.TrainState
    shardings: state.TrainState
    step: Callable
    step_flops: Callable


def make_training(
    config: ml_collections.ConfigDict,
    description: Mapping[str, Any],
    void_wins: bool,
    empty_text: np.ndarray,
    mesh: jax.sharding.Mesh,
    dtype: Any,
) -> Training:
    """Model, optimiser, step and the places of their arrays.

    Args:
      config: Checked.
      description: Of the model, see `weights.file.describe`.
      void_wins: Of the pooling that the data were prepared with.
      empty_text: (L, D) features of the empty caption.
      mesh: See `sharding.make_mesh`.
      dtype: Of the network's computation, see `compute_dtype`.

    Raises:
      ValueError: the batch cannot be split over the devices.
    """
    if config.batch_size % mesh.size:
        raise ValueError(
            f'batch_size is {config.batch_size}; it must be a multiple of the {mesh.size} devices.'
        )
    forms = for_mesh(mesh, config.fused_attention)
    model = weights_file.build_model(description, dtype, forms)
    inputs = weights_file.model_inputs(description)
    has_map = config.model.name != 'uvit'
    schedule = functools.partial(
        state.learning_rate,
        peak=config.learning_rate,
        warmup_steps=config.warmup_steps,
        steps=config.steps,
        cooldown=config.cooldown,
    )
    optimizer = state.make_optimizer(schedule, config.weight_decay, config.betas)
    is_frozen = build.frozen_rule(config.model.name)
    draw = functools.partial(
        loss.draw_inputs,
        scale=description['autoencoder']['scale'],
        empty_text=empty_text.astype(np.float32),
        text_dropout=config.text_dropout,
        map_size=inputs[1].shape[1] if has_map else None,
        map_noise_std=config.map_noise_std,
        void_wins=void_wins,
        map_prediction=config.model.map_prediction,
    )

    @jax.jit  # traced once for shapes and values
    def initial_parameters(key):
        return build.first_parameters(model, key, inputs)

    def create(params):
        return state.create(params, is_frozen, optimizer)

    first_key = jax.eval_shape(lambda: jax.random.key(0))
    abstract_params = jax.eval_shape(initial_parameters, first_key)
    abstract_state = jax.eval_shape(create, abstract_params)
    shardings = sharding.of_tree(abstract_state, mesh)
    step_of = functools.partial(
        train_step,
        draw=draw,
        optimizer=optimizer,
        seed=config.seed,
        microbatches=config.microbatches,
        ema_decay=config.ema_decay,
    )
    step = jax.jit(
        functools.partial(step_of, model=model),
        donate_argnums=0,
        in_shardings=(shardings, sharding.of_batch(mesh)),
        out_shardings=shardings,
    )
    abstract_state = sharding.abstract(abstract_state, shardings)

    def step_flops(batch):
        plain = functools.partial(step_of, model=weights_file.build_model(description, dtype))
        return build.matmul_flops(plain, abstract_state, batch)

    return Training(
        model,
        schedule,
        draw,
        initial_parameters,
        create,
        abstract_params,
        abstract_state,
        shardings,
        step,
        step_flops,
    )


def abstract_batch(
    description: Mapping[str, Any], map_size: int | None, batch_size: int, mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch of prepared records, as `loader.train_batches` gives them.

    Args:
      description: Of the model, see `weights.file.describe`.
      map_size: Side of the prepared maps; None for data without.
      batch_size: Over all devices.
      mesh: See `sharding.make_mesh`.
    """
    autoencoder, text = description['autoencoder'], description['text']
    height, width, channels = autoencoder['latent_shape']
    if autoencoder['has_variance']:
        arrays = {'moments': ((height, width, 2 * channels), np.float16)}
    else:
        arrays = {'latents': ((height, width, channels), np.float16)}
    if map_size:
        arrays |= {name: ((map_size, map_size), np.uint8) for name in ('category', 'instance')}
    arrays['text'] = ((text['tokens'], text['features']), np.float16)
    place = sharding.of_batch(mesh)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=place)
        for name, (shape, dtype) in arrays.items()
    }


def train_step(
    train_state: state.TrainState,
    batch: dict[str, jax.Array],
    *,
    model: Any,
    draw: Callable[[dict, jax.Array], dict],
    optimizer: optax.GradientTransformation,
    seed: int,
    microbatches: int,
    ema_decay: float,
) -> state.TrainState:
    """Algorithm 1, one AdamW step and one step of the average.

    Args:
      train_state: At step n; its buffers may be donated.
      batch: The global batch, see `loss.draw_inputs`.
      model: The network; `given_map` models are trained on the image alone.
      draw: `loss.draw_inputs` with its settings bound: (batch, key) -> inputs.
      optimizer: Of the trainable parameters.
      seed: With the step, decides all randomness.
      microbatches: Parts that the batch is worked off in; the result is that of the whole batch.
      ema_decay: See `state.ema_decay`.
    """
    step = train_state.step
    inputs = draw(batch, jax.random.fold_in(jax.random.key(seed), step))

    def mean_loss(params, inputs):
        losses = example_losses(model, state.merge(params, train_state.frozen), inputs)
        return sum(value.mean() for value in losses.values()), losses

    gradient = jax.grad(mean_loss, has_aux=True)

    def accumulate(total, part):
        part_gradients, losses = gradient(train_state.params, part)
        return jax.tree.map(lambda a, b: a + b / microbatches, total, part_gradients), losses

    if microbatches == 1:
        gradients, losses = gradient(train_state.params, inputs)
    else:
        # Every n-th example goes to the same part, so that each device keeps its own examples.
        parts = jax.tree.map(
            lambda a: a.reshape(-1, microbatches, *a.shape[1:]).swapaxes(0, 1), inputs
        )
        zeros = jax.tree.map(jnp.zeros_like, train_state.params)
        gradients, losses = jax.lax.scan(accumulate, zeros, parts)
        losses = jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1), losses)

    train_state, norms = state.apply_gradients(train_state, gradients, optimizer, ema_decay)
    totals = state.add_totals(train_state.totals, train_state.step, losses, inputs['t'], norms)
    return train_state.replace(totals=totals)


def example_losses(model: Any, params: dict, inputs: dict) -> dict[str, jax.Array]:
    """Algorithm 1's losses (B,) per stream for drawn inputs."""

    def predict(*arguments):
        return model.apply({'params': params}, *arguments)

    return loss.pair_losses(predict, **inputs, given_map=getattr(model, 'given_map', False))
