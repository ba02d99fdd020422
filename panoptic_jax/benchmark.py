"""`--mode=benchmark`: how fast train step, sampler and loader are on the devices at hand.

Each is measured in its steady state, with fresh weights; only the loader needs prepared data.
`plan.py` predicts for chips that are not here; `logs/clock.py` measures matrix products.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax import config as settings
from panoptic_jax.data import geometry, loader
from panoptic_jax.data.facts import TextFacts
from panoptic_jax.data.manifest import check_manifest, open_manifest
from panoptic_jax.encoders.load import autoencoder_facts
from panoptic_jax.logs import clock
from panoptic_jax.logs.timing import Effort, Timing, examples_per_second, time_calls
from panoptic_jax.machine import chips, files, sharding
from panoptic_jax.models import build
from panoptic_jax.models.forms import attention_error, compute_dtype, for_mesh
from panoptic_jax.preparation import claim
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description, assume, describe
from panoptic_jax.programs.keys import pair_keys
from panoptic_jax.programs.sampler import Sampling, check_batch, make_sampler
from panoptic_jax.programs.train_step import Recipe
from panoptic_jax.programs.training import RUNS_ONCE, abstract_batch, make_training


def benchmark(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    devices: Sequence[jax.Device] | None = None,
    peak_flops: float | None = None,
    effort: Effort | None = None,
) -> dict[str, Any]:
    """Measures, prints a table and writes `workdir/benchmark.json`.

    Args:
      config: Checked.
      workdir: The run's folder.
      devices: What is measured; None for all devices of the job.
      peak_flops: FLOP/s of the devices together in matrix products; None to measure it.
      effort: How long each measurement takes; None for the usual effort.

    Returns:
      The content of the file: `train_images_per_second`, `sample_images_per_second` and, None
      without prepared data, `loader_examples_per_second`, of all processes together;
      `matmul_peak_flops`, measured on these devices in the same run, and the shares of it,
      `train_share_of_peak` and `sample_share_of_peak`; sizes, times and FLOPs beside them;
      `attention_error`, see `forms.attention_error`.

    Raises:
      ValueError: data of other settings, or batches that the devices cannot share.
    """
    effort = effort or Effort()
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    local_mesh = sharding.local_mesh(config.mesh.fsdp, devices)
    description, void_wins, prepared = _described(config)
    peak = peak_flops or clock.measured_matmul_peak(jax.devices())
    train, train_flops = _measure_training(config, description, mesh, effort, void_wins=void_wins)
    sample, sample_flops = _measure_sampling(config, description, local_mesh, effort)
    # Other jobs on the machine may have disturbed the first measurement of the peak.
    peak = peak_flops or max(peak, clock.measured_matmul_peak(jax.devices()))
    chip, processes = chips.known_chip(jax.devices()[0].device_kind), jax.process_count()
    loader_rate = None
    if prepared:
        batches = open_batches(config)
        loader_rate = examples_per_second(batches, config.batch_size, seconds=effort.seconds)
        batches.close()
    # No TPU has run our kernel yet, so every benchmark says how far it is from the plain form.
    error = attention_error(
        for_mesh(local_mesh).attention,
        batch_size=local_mesh.size,
        tokens=description.num_tokens,
        size=description.model.hidden_size,
        num_heads=description.model.num_heads,
        dtype=compute_dtype(description.model.dtype, local_mesh),
    )
    sample_batch, evaluations = config.sample.batch_size, config.sample.evaluations
    train_sizes = {'flops': train_flops, 'batch_size': config.batch_size, 'mesh': dict(mesh.shape)}
    sample_sizes = {'flops': sample_flops, 'batch_size': sample_batch, 'evaluations': evaluations}
    report = {
        'attention_error': error,
        'train_images_per_second': config.batch_size / train.seconds,
        # Each process draws batches of its own; a training batch is that of the whole job.
        'sample_images_per_second': processes * sample_batch / sample.seconds,
        'loader_examples_per_second': loader_rate,
        'data': config.data.dir,
        'matmul_peak_flops': peak,
        'known_peak_flops': chip and chip.peak_flops * mesh.size,
        'train_share_of_peak': train_flops / train.seconds / peak,
        'sample_share_of_peak': processes * sample_flops / sample.seconds / peak,
        'train': train._asdict() | train_sizes,
        'sample': sample._asdict() | sample_sizes,
        'devices': mesh.size,
        'device_kind': jax.devices()[0].device_kind,
        'processes': processes,
    }
    path = epath.Path(workdir) / 'benchmark.json'
    if not jax.process_index():
        print(f'\n{measurement_table(report)}', flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, report)
        logging.info('Wrote %s.', path)
    return report


def measurement_table(report: Mapping[str, Any]) -> str:
    """The lines for the terminal; `report` is what `benchmark` returns."""
    # What plain products reach on these devices is a fairer yardstick than the maker's peak.
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


def open_batches(config: ml_collections.ConfigDict) -> loader.TrainBatches:
    """The training's batches, as `train.py` opens them."""
    return loader.train_batches(
        loader.Split(config.data.dir, 'train', config.data.cache),
        batch_size=config.batch_size,
        seed=config.seed,
        share=loader.Share(jax.process_index(), jax.process_count()),
        workers=config.data.workers,
    )


def _described(config: ml_collections.ConfigDict) -> tuple[Description, bool, bool]:
    """(description, void_wins, whether there are data): the data's, or what the config says."""
    data, model = config.data, config.model.to_dict()
    if claim.is_finished(data.dir):
        manifest = open_manifest(data.dir)
        check_manifest(manifest, **settings.encoding(config))
        description = describe(model, settings.streams(config), manifest, data.dir)
        return description, manifest.void_wins, True
    text = TextFacts(data.text, data.text_tokens, data.text_features)
    facts = autoencoder_facts(data.autoencoder)
    return assume(model, settings.streams(config), facts, text), data.void_wins, False


def _measure_training(
    config: ml_collections.ConfigDict,
    description: Description,
    mesh: jax.sharding.Mesh,
    effort: Effort,
    *,
    void_wins: bool,
) -> tuple[Timing, int]:
    """The train step on random records, and its FLOPs."""
    training = make_training(
        description,
        Recipe(**settings.recipe(config)),
        void_wins=void_wins,
        empty_text=description.blank_text(),
        mesh=mesh,
        fused_attention=config.fused_attention,
    )
    shapes = abstract_batch(
        description,
        stored_map_side=geometry.STORED_MAP_SIDE if description.has_map else None,
        batch_size=config.batch_size,
        mesh=mesh,
    )
    share = config.batch_size // jax.process_count()
    # Times do not depend on the numbers, but ids have to be categories: all are 0 or 1.
    rng = np.random.default_rng(config.seed)
    batch = {  # ids are 0 and 1
        name: rng.random((share, *array.shape[1:]), np.float32).round().astype(array.dtype)
        for name, array in shapes.items()
    }
    batch = sharding.put_batch(batch, sharding.of_batch(mesh))
    started = time.perf_counter()
    compiled = training.step.lower(training.abstract_state, shapes).compile()
    compile_seconds = time.perf_counter() - started
    train_state = training.first_state(jax.random.key(config.seed))

    # The state is donated: each call goes on from the state that the last call gave.
    def step():
        nonlocal train_state
        train_state = compiled(train_state, batch)
        return train_state

    return time_calls(step, effort, compile_seconds), training.step_flops(shapes)


def _measure_sampling(
    config: ml_collections.ConfigDict,
    description: Description,
    mesh: jax.sharding.Mesh,
    effort: Effort,
) -> tuple[Timing, int]:
    """The sampler as `sample.sample` draws, each process on its own devices, and its FLOPs."""
    batch_size = config.sample.batch_size
    check_batch(batch_size, mesh)
    rows, text = sharding.of_batch(mesh), description.blank_text()
    split = sharding.of_tree(description.abstract_parameters(), mesh)
    fresh = jax.jit(description.initial_parameters, out_shardings=split, compiler_options=RUNS_ONCE)
    params = fresh(jax.random.key(config.seed))
    texts = np.random.default_rng(0).normal(size=(batch_size, *text.shape)).astype(np.float16)
    arguments = [texts, pair_keys(config.sample.seed, first=0, count=batch_size)]
    if description.given_map:
        side = description.map_side
        arguments.append(Conditions(map=np.ones((batch_size, side, side), np.uint8)))
    arguments = sharding.place(arguments, rows)

    def sampler(*, fused):
        return jax.jit(
            make_sampler(
                description,
                Sampling(**settings.sampling(config)),
                empty_text=text,
                dtype=compute_dtype(description.model.dtype, mesh),
                forms=for_mesh(mesh, fused),
            )
        )

    started = time.perf_counter()
    compiled = sampler(fused=config.fused_attention).lower(params, *arguments).compile()
    compile_seconds = time.perf_counter() - started
    # Useful work only: a kernel that computes scores twice gets no credit for it.
    flops = build.matmul_flops(sampler(fused=False), params, *arguments)
    return time_calls(lambda: compiled(params, *arguments), effort, compile_seconds), flops
