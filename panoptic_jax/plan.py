"""`--mode=plan`: whether a run fits a TPU slice and how fast it would be, before renting one.

Compiles the train step and the sampler ahead of time with the TPU compiler (libtpu), for a named
topology, and reads off memory, operations and traffic. These are predictions; `benchmark.py`
measures. `planning/` knows what the compiler's text means.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax import config as settings
from panoptic_jax.data import geometry
from panoptic_jax.data.facts import TextFacts
from panoptic_jax.encoders.load import autoencoder_facts
from panoptic_jax.machine import chips, files, sharding
from panoptic_jax.models import build
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.planning import bundles
from panoptic_jax.planning.prediction import DoesNotFit, Program, predict
from panoptic_jax.planning.table import prediction_table
from panoptic_jax.planning.topology import topology_devices
from panoptic_jax.planning.traffic import Slices
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description, assume
from panoptic_jax.programs.keys import pair_keys
from panoptic_jax.programs.sampler import Sampling, make_sampler
from panoptic_jax.programs.train_step import Recipe
from panoptic_jax.programs.training import abstract_batch, make_training


class Planned(NamedTuple):
    """What is planned.

    Attributes:
      description: The model.
      recipe: Its training; the batch size is that of the planned slice.
      sampling: How it draws.
      void_wins: The pooling of the data.
      mesh: The devices of the slice.
    """

    description: Description
    recipe: Recipe
    sampling: Sampling
    void_wins: bool
    mesh: jax.sharding.Mesh


def plan(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
    """Compiles for `config.plan.topology`, prints a table and writes `workdir/plan.json`.

    Returns:
      {'train': {...}, 'sample': {...}}, the content of the file.

    Raises:
      ValueError: no such topology, no libtpu, or a program that does not fit the chip's memory.
    """
    # The compiler has to know of the folder before it is loaded.
    with bundles.written() as folder:
        devices = topology_devices(config.plan.topology, config.plan.num_slices)
        reports = _predictions(config, devices, folder)
    path = epath.Path(workdir) / 'plan.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, reports)
    logging.info('Wrote %s.', path)
    return reports


def _predictions(
    config: ml_collections.ConfigDict, devices: list[jax.Device], folder: Path
) -> dict[str, Any]:
    """{'train': {...}, 'sample': {...}}; each is printed when it is known."""
    slices = config.plan
    planned = plan_for(config, devices)
    mesh = planned.mesh
    # `topology_devices` has refused chips that are not in the table.
    chip = chips.known_chip(devices[0].device_kind)
    copies = max(1, mesh.size // slices.num_slices // mesh.shape['fsdp'])
    common = {
        'topology': slices.topology,
        'num_slices': slices.num_slices,
        'chip': devices[0].device_kind,
        'clock_hertz': chip.clock_hertz,
        'devices': mesh.size,
        'mesh': dict(mesh.shape),
        'batch_per_device': slices.batch_per_device,
    }

    def predicted(
        make: Callable[..., Program], *, fused: bool, planned: Planned = planned
    ) -> dict[str, Any]:
        return predict(
            make(planned, fused_attention=fused),
            chip,
            devices=mesh.size,
            batch_per_device=slices.batch_per_device,
            bundles_folder=folder,
            slices=Slices(slices.num_slices, copies),
        )

    reports = {}
    for name, make in (('train', train_program), ('sample', sample_program)):
        try:
            report = common | predicted(make, fused=config.fused_attention)
        except DoesNotFit as error:
            if name != 'train' or planned.recipe.remat:
                raise
            again = functools.partial(predicted, make, fused=config.fused_attention)
            raise DoesNotFit(f'{error} {_with_remat(planned, again)}') from error
        if config.fused_attention and report['kernels'] and slices.xla_only:
            # What our kernel gains: the compiler's own attention stands beside it.
            plain = predicted(make, fused=False)
            names = ('predicted_step_seconds', 'predicted_mfu', 'compile_seconds')
            report['xla_only'] = {key: plain[key] for key in names}
        if name == 'train':
            # The configured run, in images: with another batch size its steps would differ.
            images = config.steps * config.batch_size
            hours = images / report['images_per_second'] / 3600
            report['run'] = {'images': images, 'hours': hours, 'chip_hours': hours * mesh.size}
        reports[name] = report
        print(f'\n{prediction_table(name, report)}', flush=True)
    return reports


def _with_remat(planned: Planned, predicted: Callable[..., dict[str, Any]]) -> str:
    """A sentence about a train step that does not fit: what it would need with model.remat."""
    recipe = dataclasses.replace(planned.recipe, remat=True)
    try:
        report = predicted(planned=planned._replace(recipe=recipe))
    except DoesNotFit:
        return 'model.remat=True alone does not suffice.'
    memory = report['bytes_per_device']['total'] / 2**30
    seconds = report['predicted_step_seconds']
    return f'With model.remat=True it needs {memory:.1f} GiB and {1e3 * seconds:.1f} ms a step.'


def plan_for(config: ml_collections.ConfigDict, devices: list[jax.Device]) -> Planned:
    """What the config would run on these devices, with data that need not exist."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    # Every chip gets the batch that is planned, whatever the config's batch size.
    recipe = Recipe(**settings.recipe(config))
    data = config.data
    description = assume(
        config.model.to_dict(),
        settings.streams(config),
        autoencoder_facts(data.autoencoder),
        TextFacts(data.text, data.text_tokens, data.text_features),
    )
    return Planned(
        description=description,
        recipe=dataclasses.replace(recipe, batch_size=config.plan.batch_per_device * mesh.size),
        sampling=Sampling(**settings.sampling(config)),
        void_wins=data.void_wins,
        mesh=mesh,
    )


def train_program(planned: Planned, *, fused_attention: bool) -> Program:
    """The train step, with what stays in memory beside it."""
    description = planned.description
    training = make_training(
        description,
        planned.recipe,
        void_wins=planned.void_wins,
        empty_text=description.blank_text(),
        mesh=planned.mesh,
        fused_attention=fused_attention,
    )
    batch = abstract_batch(
        description,
        stored_map_side=geometry.STORED_MAP_SIDE if description.has_map else None,
        batch_size=planned.recipe.batch_size,
        mesh=planned.mesh,
    )
    state = training.abstract_state
    # Frozen parameters lie in memory too, without an average and an optimiser state.
    parameters = [state.params, state.frozen]
    return Program(
        name='train step',
        lower=lambda: training.step.lower(state, batch),
        flops=training.step_flops(batch),
        resident={
            'parameters': parameters,
            'average': state.ema,
            'optimizer': state.opt_state,
            'batch': batch,
        },
        parameters=_size(parameters),
        weight_reads=1,
    )


def sample_program(planned: Planned, *, fused_attention: bool) -> Program:
    """The sampler, with what stays in memory beside it."""
    description, mesh = planned.description, planned.mesh
    batch_size = planned.recipe.batch_size
    rows = sharding.of_batch(mesh)
    text = description.blank_text()  # (L, D)

    def sampler(*, fused):
        return jax.jit(
            make_sampler(
                description,
                planned.sampling,
                empty_text=text,
                dtype=compute_dtype(description.model.dtype, mesh),
                forms=for_mesh(mesh, fused),
            )
        )

    # No weights are needed: the compiler sees shapes and shardings only.
    fresh = description.abstract_parameters()
    params = sharding.abstract(fresh, sharding.of_tree(fresh, mesh))
    keys = jax.eval_shape(lambda: pair_keys(seed=0, first=0, count=batch_size))
    arguments = [
        jax.ShapeDtypeStruct((batch_size, *text.shape), np.float16, sharding=rows),
        sharding.abstract(keys, rows),
    ]
    if description.given_map:
        shape = (batch_size, description.map_side, description.map_side)
        given = jax.ShapeDtypeStruct(shape, np.uint8, sharding=rows)
        arguments.append(Conditions(map=given))
    return Program(
        name='sampler',
        lower=lambda: sampler(fused=fused_attention).lower(params, *arguments),
        flops=build.matmul_flops(sampler(fused=False), params, *arguments),
        resident={'parameters': params, 'batch': arguments},
        parameters=_size(params),
        # Each evaluation reads all weights from memory again.
        weight_reads=planned.sampling.evaluations,
    )


def _size(tree: Any) -> int:
    """Numbers in all arrays of a tree."""
    return sum(array.size for array in jax.tree.leaves(tree))
