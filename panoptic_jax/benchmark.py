"""How fast train step, sampler and loader are on the devices at hand: `--mode=benchmark`.

Measurements, each in its steady state and with fresh weights; predictions for chips that are not
here are `plan.py`'s. Prepared data are needed for the loader alone.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import geometry, loader
from panoptic_jax.data import manifest as manifests
from panoptic_jax.logs import clock
from panoptic_jax.machine import chips, files, sharding
from panoptic_jax.models import build
from panoptic_jax.models.forms import attention_error, compute_dtype, for_mesh
from panoptic_jax.plan import assumed_description, blank_text
from panoptic_jax.programs import sampler, train_step
from panoptic_jax.weights import file as weights_file

_REPETITIONS, _SECONDS = 5, 5.0  # at least, both of them
_AT_MOST = 120.0  # seconds, after which fewer repetitions will do
_LOADER_WARM_UP = 8  # batches; more than are read ahead


class Measured(NamedTuple):
    """A compiled program, run again and again.

    Attributes:
      seconds: Median of a call.
      repetitions: That the median is of.
      compile_seconds: From trace to program; little where a compilation was kept beside the run.
    """

    seconds: float
    repetitions: int
    compile_seconds: float


def benchmark(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
    """Measures, prints a table and writes `workdir/benchmark.json`.

    Returns:
      What the file holds: `train_images_per_second`, `sample_images_per_second` and, None without
      prepared data, `loader_examples_per_second`, of all processes together;
      `matmul_peak_flops`, measured on these devices in the same run, and the shares of it,
      `train_share_of_peak` and `sample_share_of_peak`; sizes, times and FLOPs beside them;
      `attention_error`, see `forms.attention_error`.

    Raises:
      ValueError: data of other settings, or batches that the devices cannot share.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    description, void_wins, prepared = _described(config)
    peak = clock.measured_matmul_peak(jax.devices())
    training, train_flops = _measure_training(config, description, void_wins, mesh)
    sampling, sample_flops = _measure_sampling(config, description)
    # Other jobs on the machine may have disturbed the first of the two.
    peak = max(peak, clock.measured_matmul_peak(jax.devices()))
    chip, processes = chips.known_chip(jax.devices()[0].device_kind), jax.process_count()
    report = {
        'attention_error': _attention_error(config, description),
        'train_images_per_second': config.batch_size / training.seconds,
        'sample_images_per_second': processes * config.sample.batch_size / sampling.seconds,
        'loader_examples_per_second': loader_rate(config) if prepared else None,
        'data': config.data.dir,
        'matmul_peak_flops': peak,
        'known_peak_flops': chip and chip.peak_flops * mesh.size,
        'train_share_of_peak': train_flops / training.seconds / peak,
        'sample_share_of_peak': processes * sample_flops / sampling.seconds / peak,
        'train': training._asdict()
        | {'flops': train_flops, 'batch_size': config.batch_size, 'mesh': dict(mesh.shape)},
        'sample': sampling._asdict()
        | {
            'flops': sample_flops,
            'batch_size': config.sample.batch_size,
            'evaluations': config.sample.evaluations,
        },
        'devices': mesh.size,
        'device_kind': jax.devices()[0].device_kind,
        'processes': processes,
    }
    path = epath.Path(workdir) / 'benchmark.json'
    if not jax.process_index():
        print(f'\n{table(report)}', flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, report)
        logging.info('Wrote %s.', path)
    return report


def table(report: Mapping[str, Any]) -> str:
    """Lines for the terminal, of what `benchmark` returns."""
    known, examples = report['known_peak_flops'], report['loader_examples_per_second']
    peak = f'{report["matmul_peak_flops"] / 1e12:.2f} TFLOP/s measured'
    rows = [
        ('devices', f'{report["devices"]} {report["device_kind"]}'),
        ('attention', f'{report["attention_error"]:.1e} deviations from the plain form'),
        ('matrix products', peak + (f', {known / 1e12:.2f} by their maker' if known else '')),
    ]
    for name, unit in (('train', 'step'), ('sample', 'batch')):
        part, rate = report[name], report[f'{name}_images_per_second']
        share = f'{report[f"{name}_share_of_peak"]:.0%} of the measured peak'
        if known:
            factor = report['matmul_peak_flops'] / known
            share += f', {factor * report[f"{name}_share_of_peak"]:.0%} of the known one'
        times = f'{part["seconds"]:.3f} s, median of {part["repetitions"]}'
        rows += [
            (f'{name}, batch {part["batch_size"]}', f'{rate:.2f} images/s, {share}'),
            (f'  a {unit}', f'{times}; compiled in {part["compile_seconds"]:.0f} s'),
        ]
    loaded = f'not measured: no prepared data in {report["data"]}'
    if examples is not None:
        ratio = examples / report['train_images_per_second']
        loaded = f'{examples:,.0f} examples/s, {ratio:.1f} times what training takes'
    lines = [f'{title:24} {text}' for title, text in [*rows, ('loader', loaded)]]
    return '\n'.join(['== measured ==', *lines])


def loader_rate(config: ml_collections.ConfigDict) -> float:
    """Examples that the loaders of all processes read in a second, with nobody else at work."""
    batches = loader.train_batches(
        config.data.dir,
        'train',
        config.batch_size,
        config.seed,
        jax.process_index(),
        jax.process_count(),
        config.data.workers,
        config.data.cache,
    )
    for _ in range(_LOADER_WARM_UP):
        next(batches)
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + _SECONDS or count < _LOADER_WARM_UP:
        next(batches)
        count += 1
    rate = count * config.batch_size / (time.perf_counter() - started)
    batches.close()
    return rate


def _described(config):
    """(description, void_wins, whether there are prepared data), of them or as the config says."""
    if not manifests.is_finished(config.data.dir):
        return assumed_description(config), config.data.void_wins, False
    manifest = manifests.open_manifest(config.data.dir)
    expected = ('autoencoder', 'text', 'text_tokens', 'text_features', 'void_wins')
    manifests.check_manifest(manifest, **{name: config.data[name] for name in expected})
    return weights_file.describe(config, manifest), manifest['void_wins'], True


def _attention_error(config, description):
    model = config.model
    side = description['autoencoder']['latent_shape'][0] // model.patch_size
    streams = 1 if model.name == 'uvit' else 2
    tokens = 1 + description['text']['tokens'] + streams * side**2
    mesh, dtype = sharding.local_mesh(config.mesh.fsdp), compute_dtype(model.dtype)
    return attention_error(mesh, tokens, model.hidden_size, model.num_heads, dtype)


def _measure_training(config, description, void_wins, mesh):
    dtype = compute_dtype(config.model.dtype)
    training = train_step.make_training(
        config, description, void_wins, blank_text(description), mesh, dtype
    )
    map_size = geometry.MAP_SIZE if config.model.name != 'uvit' else None
    shapes = train_step.abstract_batch(description, map_size, config.batch_size, mesh)
    share = config.batch_size // jax.process_count()
    rng = np.random.default_rng(config.seed)
    batch = {  # ids are 0 and 1
        name: rng.random((share, *array.shape[1:]), np.float32).round().astype(array.dtype)
        for name, array in shapes.items()
    }
    batch = sharding.put_batch(batch, sharding.of_batch(mesh))
    started = time.perf_counter()
    compiled = training.step.lower(training.abstract_state, shapes).compile()
    compile_seconds = time.perf_counter() - started
    create = jax.jit(
        lambda key: training.create(training.initial_parameters(key)),
        out_shardings=training.shardings,
        compiler_options={'xla_backend_optimization_level': 0},  # it runs once
    )
    train_state = create(jax.random.key(config.seed))

    def step():
        nonlocal train_state
        train_state = compiled(train_state, batch)
        return train_state

    return Measured(*_median(step), compile_seconds), training.step_flops(shapes)


def _measure_sampling(config, description):
    """As `sample.sample` draws: each process on its own devices."""
    settings, mesh = config.sample, sharding.local_mesh(config.mesh.fsdp)
    if settings.batch_size % mesh.size:
        raise ValueError(
            f'sample.batch_size is {settings.batch_size}; it must be a multiple of the {mesh.size} '
            'devices of a process.'
        )
    rows, text = sharding.of_batch(mesh), blank_text(description)
    dtype = compute_dtype(config.model.dtype)
    model = weights_file.build_model(description, np.float32)
    inputs = weights_file.model_inputs(description)

    def fresh(key):
        return build.first_parameters(model, key, inputs)

    split = sharding.of_tree(jax.eval_shape(fresh, jax.random.key(0)), mesh)
    params = jax.jit(
        fresh, out_shardings=split, compiler_options={'xla_backend_optimization_level': 0}
    )(jax.random.key(config.seed))
    texts = np.random.default_rng(0).normal(size=(settings.batch_size, *text.shape))
    arguments = [texts.astype(np.float16), sampler.keys(settings.seed, 0, settings.batch_size)]
    if config.model.given_map:
        side = sampler.map_side(description)
        arguments.append(np.ones((settings.batch_size, side, side), np.uint8))
    arguments = sharding.place(arguments, rows)

    def draw(forms):
        return jax.jit(sampler.make_sampler(description, text, settings, dtype, forms))

    started = time.perf_counter()
    compiled = draw(for_mesh(mesh, config.fused_attention)).lower(params, *arguments).compile()
    compile_seconds = time.perf_counter() - started
    flops = build.matmul_flops(draw(for_mesh(mesh, False)), params, *arguments)
    return Measured(*_median(lambda: compiled(params, *arguments)), compile_seconds), flops


def _median(call: Callable[[], Any]) -> tuple[float, int]:
    """(seconds of a call, repetitions); short calls are put in queues of about a second each."""
    jax.block_until_ready(call())
    first = time.perf_counter()
    jax.block_until_ready(call())
    queue = max(1, round(1 / (time.perf_counter() - first)))
    seconds, started = [], time.perf_counter()
    while True:
        before = time.perf_counter()
        for _ in range(queue):
            result = call()
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - before) / queue)
        passed = time.perf_counter() - started
        if passed > _AT_MOST or (passed > _SECONDS and len(seconds) >= _REPETITIONS):
            return statistics.median(seconds), len(seconds)
