"""`--mode=benchmark`: how fast train step, sampler and loader are on the devices at hand.

Each is measured in its steady state, with fresh weights; only the loader needs prepared data.
`plan.py` predicts for chips that are not here; `logs/clock.py` measures matrix products.
"""

import time
from collections.abc import Sequence
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
from panoptic_jax.logs import benchmark_table, clock
from panoptic_jax.logs.timing import Effort, Timing, examples_per_second, time_calls
from panoptic_jax.machine import chips, files, sharding
from panoptic_jax.models import build
from panoptic_jax.models.form_error import Sizes, form_errors
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.preparation import claim
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description, assume, describe
from panoptic_jax.programs.keys import pair_keys
from panoptic_jax.programs.sampler import Sampling, check_batch, make_sampler
from panoptic_jax.programs.train_step import Recipe
from panoptic_jax.programs.training import RUNS_ONCE, abstract_batch, make_training
from panoptic_jax.scoring import outside


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
      `outside_seconds_per_pair`, of what a sampling job does besides drawing, None without data;
      `matmul_peak_flops`, measured on these devices in the same run, and the shares of it,
      `train_share_of_peak` and `sample_share_of_peak`; sizes, times and FLOPs beside them;
      `attention_error` and `block_error`, see `form_error`.

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
    loader_rate = seconds_outside = None
    if prepared:
        seconds_outside = _seconds_outside(config, description, effort, void_wins=void_wins)
        batches = open_batches(config)
        loader_rate = examples_per_second(batches, config.batch_size, seconds=effort.seconds)
        batches.close()
    sample_batch, evaluations = config.sample.batch_size, config.sample.evaluations
    train_sizes = {'flops': train_flops, 'batch_size': config.batch_size, 'mesh': dict(mesh.shape)}
    sample_sizes = {'flops': sample_flops, 'batch_size': sample_batch, 'evaluations': evaluations}
    report = _form_errors(description, local_mesh) | {
        'train_images_per_second': config.batch_size / train.seconds,
        # Each process draws batches of its own; a training batch is that of the whole job.
        'sample_images_per_second': processes * sample_batch / sample.seconds,
        'loader_examples_per_second': loader_rate,
        'outside_seconds_per_pair': seconds_outside,
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
        print(f'\n{benchmark_table.lines_of(report)}', flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, report)
        logging.info('Wrote %s.', path)
    return report


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


def _form_errors(description: Description, mesh: jax.sharding.Mesh) -> dict[str, float]:
    # No TPU has run our kernels yet, so every benchmark says how far they are from plain forms.
    model = description.model
    # A joint network joins words to its places, and has blocks of its own.
    words = description.text.tokens if model.name == 'joint' else 0
    sizes = Sizes(mesh.size, description.num_tokens, words, model.hidden_size, model.num_heads)
    return form_errors(for_mesh(mesh), sizes, compute_dtype(model.dtype, mesh))


def _seconds_outside(
    config: ml_collections.ConfigDict, description: Description, effort: Effort, *, void_wins: bool
) -> float | None:
    """What a sampling job does with a pair besides drawing it; None without the autoencoder."""
    split = loader.Split(config.data.dir, 'train', config.data.cache)
    records = [split[number] for number in range(min(len(split), config.sample.batch_size))]
    try:
        call = outside.work_on(
            records,
            description,
            autoencoder_weights=config.data.autoencoder_weights,
            void_wins=void_wins,
            min_area=config.sample.min_area,
            image_format=config.sample.image_format,
        )
    except FileNotFoundError as error:
        logging.info('What a job does outside of the sampler is not measured: %s', error)
        return None
    return time_calls(call, effort, compile_seconds=0.0).seconds / len(records)
