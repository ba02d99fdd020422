"""Whether a run fits a TPU slice and how fast it would be, said on any machine before renting one.

Compiles the train step and the sampler ahead of time with the TPU compiler (libtpu), for a named
topology, and reads off memory, schedule and traffic. Predictions, not measurements: those are
`benchmark.py`'s. What the compiler's text means is `planning/`'s.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import topologies

from panoptic_jax.data import geometry
from panoptic_jax.encoders import load as encoders
from panoptic_jax.machine import chips, files, sharding
from panoptic_jax.models import build
from panoptic_jax.models.forms import for_mesh
from panoptic_jax.planning.prediction import Program, predict
from panoptic_jax.planning.table import table
from panoptic_jax.programs import sampler, train_step
from panoptic_jax.weights import file as weights_file

# libtpu asks the cloud's metadata server where it runs, and wants the machine for itself.
_ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def plan(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
    """Compiles for `config.plan.topology`, prints a table and writes `workdir/plan.json`.

    Returns:
      {'train': {...}, 'sample': {...}}, as in the file.

    Raises:
      ValueError: no such topology, no libtpu, or a program that does not fit the chip's memory.
    """
    settings = config.plan
    devices = topology_devices(settings.topology, settings.num_slices)
    chip = chips.known_chip(devices[0].device_kind)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    batch_size = settings.batch_per_device * mesh.size
    description = assumed_description(config)
    common = {
        'topology': settings.topology,
        'num_slices': settings.num_slices,
        'chip': devices[0].device_kind,
        'clock_hertz': chip.clock_hertz,
        'devices': mesh.size,
        'mesh': dict(mesh.shape),
        'batch_per_device': settings.batch_per_device,
    }
    found = {}
    for name, make in (('train', _train_program), ('sample', _sample_program)):

        def predicted(fused, make=make):
            program = make(config, description, mesh, batch_size, fused)
            return predict(program, chip, mesh.size, settings.batch_per_device)

        report = common | predicted(config.fused_attention)
        if report['assumed_kernel_seconds'] and settings.xla_only:
            names = ('predicted_step_seconds', 'predicted_mfu', 'compile_seconds')
            plain = predicted(False)
            report['xla_only'] = {key: plain[key] for key in names}
        if name == 'train':
            images = config.steps * config.batch_size
            hours = images / report['images_per_second'] / 3600
            report['run'] = {'images': images, 'hours': hours, 'chip_hours': hours * mesh.size}
        found[name] = report
        print(f'\n{table(name, report)}', flush=True)
    path = epath.Path(workdir) / 'plan.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, found)
    logging.info('Wrote %s.', path)
    return found


def topology_devices(name: str, num_slices: int) -> list:
    """The devices of `num_slices` slices such as 'v5e:16x16', none of which need exist.

    Raises:
      ValueError: libtpu is not installed or does not know the topology.
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    jax.config.update('jax_platforms', 'cpu')  # nothing runs, whatever this machine has
    options = {'num_slices': num_slices} if num_slices > 1 else {}
    if name.startswith('v4:'):
        options['chip_config_name'] = 'megacore'  # one device a chip, as on a real one
    try:
        topology = topologies.get_topology_desc(platform='tpu', topology_name=name, **options)
    except Exception as error:  # of types that differ between releases of JAX and libtpu
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f'plan.topology is {name!r}, for which libtpu gives no devices ({reason}); it takes '
            "names such as 'v5e:4x4', 'v5p:2x2x2' or 'v6e:16x16', and `pip install "
            "'jax[tpu]'` if libtpu is missing."
        ) from error
    kind = topology.devices[0].device_kind
    if not chips.known_chip(kind):
        raise ValueError(
            f'plan.topology is {name!r}, of chips {kind!r}, whose peaks are not in chips.py yet; '
            'add them there.'
        )
    return list(topology.devices)


def assumed_description(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What `describe` would say of data prepared with this config, without any data."""
    shape, scale, has_variance = encoders.autoencoder_facts(config.data.autoencoder)
    return {
        'model': config.model.to_dict(),
        'map_noise_std': config.map_noise_std,
        'autoencoder': {'latent_shape': shape, 'scale': scale, 'has_variance': has_variance},
        'text': {'tokens': config.data.text_tokens, 'features': config.data.text_features},
        'categories': [{'id': 1, 'name': 'thing', 'is_thing': True}],
    }


def blank_text(description: Mapping[str, Any]) -> np.ndarray:
    """(L, D) zeros in the place of the empty caption's features, where only shapes matter."""
    text = description['text']
    return np.zeros((text['tokens'], text['features']), np.float16)


def _train_program(config, description, mesh, batch_size, fused):
    config = config.copy_and_resolve_references()
    config.unlock()
    config.batch_size, config.fused_attention = batch_size, fused
    training = train_step.make_training(
        config,
        description,
        config.data.void_wins,
        blank_text(description),
        mesh,
        _dtype(config),
    )
    map_size = geometry.MAP_SIZE if config.model.name != 'uvit' else None
    batch = train_step.abstract_batch(description, map_size, batch_size, mesh)
    state = training.abstract_state
    parameters = [state.params, state.frozen]
    return Program(
        'train step',
        lambda: training.step.lower(state, batch),
        training.step_flops(batch),
        {
            'parameters': parameters,
            'average': state.ema,
            'optimizer': state.opt_state,
            'batch': batch,
        },
        _size(parameters),
        1,
    )


def _sample_program(config, description, mesh, batch_size, fused):
    rows = sharding.of_batch(mesh)
    text = blank_text(description)

    def sample(forms):
        settings, dtype = config.sample, _dtype(config)
        return jax.jit(sampler.make_sampler(description, text, settings, dtype, forms))

    model = weights_file.build_model(description, jnp.float32)
    inputs = weights_file.model_inputs(description)
    first = jax.eval_shape(
        lambda key: build.first_parameters(model, key, inputs), jax.eval_shape(jax.random.key, 0)
    )
    params = sharding.abstract(first, sharding.of_tree(first, mesh))
    keys = jax.eval_shape(lambda: sampler.keys(0, 0, batch_size))
    arguments = [
        jax.ShapeDtypeStruct((batch_size, *text.shape), np.float16, sharding=rows),
        sharding.abstract(keys, rows),
    ]
    if config.model.given_map:
        side = sampler.map_side(description)
        arguments.append(jax.ShapeDtypeStruct((batch_size, side, side), np.uint8, sharding=rows))
    return Program(
        'sampler',
        lambda: sample(for_mesh(mesh, fused)).lower(params, *arguments),
        build.matmul_flops(sample(for_mesh(mesh, False)), params, *arguments),
        {'parameters': params, 'batch': arguments},
        _size(params),
        config.sample.evaluations,
    )


def _size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def _dtype(config):
    # 'auto' asks for the platform at hand, which is not the one that is planned for.
    return jnp.dtype('bfloat16' if config.model.dtype == 'auto' else config.model.dtype)
