"""A training before it has arrays: the compiled step, the shapes of all that it takes, and where
they lie.

The train loop, plans and benchmarks compile the step of `programs/train_step.py` with it, also
without data or weights.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.diffusion import loss, probe
from panoptic_jax.machine import sharding
from panoptic_jax.models import build
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.programs import optimizers, state
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.train_step import Recipe, example_losses, train_step

# Compiler options of a program that runs once: optimising it takes longer than it runs.
RUNS_ONCE = {'xla_backend_optimization_level': 0}


@dataclasses.dataclass(frozen=True)
class Training:
    """What a run does, before it has any arrays.

    Attributes:
      learning_rate: Optimiser steps done -> learning rate of the next step.
      initial_parameters: key -> fresh parameters.
      create: All parameters -> a TrainState at step 0.
      abstract_params: Shapes of all parameters.
      abstract_state: A TrainState of shapes, with the shardings of the mesh.
      shardings: The same tree of shardings alone.
      step: (TrainState, batch) -> TrainState. It is compiled when first called, or by `lower`; the
        TrainState that goes in is donated.
      losses: (params, frozen, batch, key) -> {stream: () mean loss}, for validation.
      caption_errors: The same arguments -> what `probe.caption_errors` gives of the batch.
      step_flops: batch -> floating-point operations of a step over all devices: the matrix
        products of the plain model, whatever a fused attention computes anew.
    """

    learning_rate: Callable
    initial_parameters: Callable
    create: Callable
    abstract_params: dict
    abstract_state: state.TrainState
    shardings: state.TrainState
    step: Callable
    losses: Callable
    caption_errors: Callable
    step_flops: Callable

    def first_state(self, key: jax.Array) -> state.TrainState:
        """A state of fresh parameters, each array made where it lies."""

        def fresh(key):
            return self.create(self.initial_parameters(key))

        return jax.jit(fresh, out_shardings=self.shardings, compiler_options=RUNS_ONCE)(key)


def make_training(
    description: Description,
    recipe: Recipe,
    *,
    void_wins: bool,
    empty_text: np.ndarray,
    mesh: jax.sharding.Mesh,
    fused_attention: bool,
) -> Training:
    """Model, optimiser, step and the places of their arrays.

    Args:
      description: The model.
      recipe: Its training.
      void_wins: Whether void won the pooling that the data were prepared with.
      empty_text: (L, D) features of the empty caption.
      mesh: The devices, see `sharding.make_mesh`.
      fused_attention: Whether to take the platform's attention kernel, see `forms.for_mesh`.

    Raises:
      ValueError: the batch cannot be split over the devices.
    """
    if recipe.batch_size % mesh.size:
        raise ValueError(
            f'batch_size is {recipe.batch_size}; it must be a multiple of the {mesh.size} devices.'
        )
    dtype = compute_dtype(description.model.dtype, mesh)  # of the computation; parameters: float32
    forms = for_mesh(mesh, fused_attention)._replace(remat=recipe.remat)
    model = description.build(dtype, forms)
    draw = _make_draw(description, recipe, void_wins=void_wins, empty_text=empty_text)
    learning_rate = _make_learning_rate(recipe)
    optimizer = optimizers.make(recipe.optimizer, learning_rate, recipe.weight_decay, recipe.betas)

    initial_parameters = jax.jit(description.initial_parameters)  # traced once, also for shapes
    objective = loss.Objective(
        description.streams, description.model.separate_times, recipe.loss_weights
    )

    # Fresh and loaded parameters become a state in the same way.
    def create(params):
        frozen, own_times = description.is_frozen(), objective.own_times
        return state.create(params, frozen, optimizer, own_times=own_times)

    def step_of(model):
        losses = functools.partial(example_losses, model, objective=objective)
        settings = {'draw': draw, 'optimizer': optimizer, 'recipe': recipe}
        return functools.partial(train_step, losses=losses, **settings)

    losses, caption_errors = _validation(model, draw, objective, given_map=description.given_map)

    # Shapes only: an abstract key opens no device, and plans run where there is none.
    first_key = jax.eval_shape(lambda: jax.random.key(0))
    abstract_params = jax.eval_shape(initial_parameters, first_key)
    abstract_state = jax.eval_shape(create, abstract_params)
    shardings = sharding.of_tree(abstract_state, mesh)
    abstract_state = sharding.abstract(abstract_state, shardings)
    # Donation lets the new state take the old one's memory.
    step = jax.jit(
        step_of(model),
        donate_argnums=0,
        in_shardings=(shardings, sharding.of_batch(mesh)),
        out_shardings=shardings,
    )

    def step_flops(batch):
        # The plain form: MFU is useful work, whatever a fused attention computes twice.
        return build.matmul_flops(step_of(description.build(dtype)), abstract_state, batch)

    return Training(
        learning_rate=learning_rate,
        initial_parameters=initial_parameters,
        create=create,
        abstract_params=abstract_params,
        abstract_state=abstract_state,
        shardings=shardings,
        step=step,
        losses=losses,
        caption_errors=caption_errors,
        step_flops=step_flops,
    )


def _validation(
    model: nn.Module, draw: Callable, objective: loss.Objective, *, given_map: bool
) -> tuple[Callable, Callable]:
    """`Training.losses` and `Training.caption_errors`."""

    def losses(params, frozen, batch, key):
        whole = state.merge(params, frozen)
        per_example = example_losses(model, whole, draw(batch, key), objective=objective)
        return jax.tree.map(jnp.mean, per_example)

    def caption_errors(params, frozen, batch, key):
        # All captions: a dropped one says nothing.
        inputs = draw(batch, key)._replace(text=batch['text'].astype(jnp.float32))

        def predict(*arguments):
            return model.apply({'params': state.merge(params, frozen)}, *arguments)

        return probe.caption_errors(predict, inputs, objective, given_map=given_map)

    return losses, caption_errors


def _make_learning_rate(recipe: Recipe) -> Callable[[jax.Array], jax.Array]:
    """Optimiser steps done -> learning rate of the next step."""
    return functools.partial(
        state.learning_rate,
        peak=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        steps=recipe.steps,
        cooldown=recipe.cooldown,
    )


def _make_draw(
    description: Description, recipe: Recipe, *, void_wins: bool, empty_text: np.ndarray
) -> Callable[[dict, jax.Array], loss.Inputs]:
    """`loss.draw_inputs` with its settings bound: (batch, key) -> inputs of the losses."""
    drawing = loss.Drawing(
        scale=description.autoencoder.scale,
        text_dropout=recipe.text_dropout,
        void_wins=void_wins,
        map_side=description.map_side if description.has_map else None,
        given_map=description.given_map,
        shares=recipe.shares if description.model.separate_times else None,
        instance_bits=description.model.instance_bits,
    )
    return functools.partial(
        loss.draw_inputs, empty_text=empty_text.astype(np.float32), drawing=drawing
    )


def abstract_batch(
    description: Description,
    *,
    stored_map_side: int | None,
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch of prepared records, as `loader.train_batches` gives them.

    Args:
      description: The model.
      stored_map_side: Side of the prepared maps; None for data without maps.
      batch_size: Examples over all devices.
      mesh: The devices, see `sharding.make_mesh`.
    """
    autoencoder, text = description.autoencoder, description.text
    height, width, channels = autoencoder.latent_shape
    if autoencoder.has_variance:
        arrays = {'moments': ((height, width, 2 * channels), np.float16)}
    else:
        arrays = {'latents': ((height, width, channels), np.float16)}
    # U-ViT trains on data without maps, whose records lack both.
    if stored_map_side:
        map_array = (stored_map_side, stored_map_side), np.uint8
        arrays |= {'category': map_array, 'instance': map_array}
    arrays['text'] = ((text.tokens, text.features), np.float16)
    # The batch is split over all devices, also over those that share parameters.
    rows = sharding.of_batch(mesh)
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=rows)
        for name, (shape, dtype) in arrays.items()
    }
