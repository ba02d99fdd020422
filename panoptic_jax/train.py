"""Training: the one loop around `train_step.py`'s step.

The loop sees encoded records only: which autoencoder made them, and how a preview picture is
sampled from parameters, is known in `preview.py`, whose function comes in as `preview`.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from panoptic_jax.data import loader
from panoptic_jax.data import manifest as manifests
from panoptic_jax.logs import clock, dashboards, environment
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import compute_dtype
from panoptic_jax.programs import state, train_step
from panoptic_jax.scoring.preview import Preview
from panoptic_jax.weights import checkpoint, initial
from panoptic_jax.weights import file as weights_file


def train(config: ml_collections.ConfigDict, workdir: str, preview: Preview | None = None) -> bool:
    """Trains until `config.steps`, or until told to stop. The same call again goes on.

    Args:
      config: Checked.
      workdir: Holds everything about the run, see design.md.
      preview: Parameters -> (pictures, scores), called every `preview_every` steps.

    Returns:
      Whether the run is complete; False after SIGTERM, with a checkpoint of the last step.

    Raises:
      FileNotFoundError, ValueError: Data, weights or checkpoints that do not fit the config.
      FloatingPointError: A step is not finite; the last checkpoint stays good.
    """
    # --- Data: opened and checked before anything is compiled.
    manifest = manifests.open_manifest(config.data.dir)
    expected = ('autoencoder', 'text', 'text_tokens', 'text_features', 'void_wins')
    manifests.check_manifest(manifest, **{name: config.data[name] for name in expected})
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
    validation = None
    if config.validate_every and 'validation' in manifest['splits']:
        validation = loader.Split(config.data.dir, 'validation', config.data.cache)

    # --- Model and step: shapes first, arrays last.
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    batch_sharding = sharding.of_batch(mesh)
    description = weights_file.describe(config, manifest)
    training = train_step.make_training(
        config,
        description,
        manifest['void_wins'],
        loader.empty_text(config.data.dir),
        mesh,
        compute_dtype(config.model.dtype),
    )
    predicts_map = config.model.name != 'uvit' and not config.model.given_map
    shardings = training.shardings
    first_key = jax.random.key(config.seed)

    # --- Where the weights come from: this run's checkpoint, else init_weights, else fresh ones.
    checkpoints = checkpoint.Checkpoints(workdir, config.keep_last, config.keep_every)
    start_step, seconds = checkpoints.latest() or 0, 0.0
    # It runs once: optimising it would take longer than it does, by far on CPU.
    unoptimised = {'xla_backend_optimization_level': 0}
    if start_step:
        meta = checkpoints.meta(start_step)
        weights_file.check_model(description, meta['description'], workdir)
        train_state, position = checkpoints.restore(start_step, training.abstract_state)
        batches.set_state(position)
        seconds = meta['seconds']
        logging.info('Going on from step %d of %s.', start_step, workdir)
    elif config.init_weights:
        split = sharding.of_tree(training.abstract_params, mesh)
        fresh = jax.jit(
            training.initial_parameters, out_shardings=split, compiler_options=unoptimised
        )
        params = initial.load_into(
            fresh(first_key), config.init_weights, manifest, config.init_partial
        )
        params = sharding.place(params, split)
        train_state = jax.jit(training.create, out_shardings=shardings)(params)
    else:
        train_state = jax.jit(
            lambda key: training.create(training.initial_parameters(key)),
            out_shardings=shardings,
            compiler_options=unoptimised,
        )(first_key)
    environment.record(workdir, config)
    logging.info('Train state on %s:\n%s', dict(mesh.shape), sharding.table(train_state))
    if start_step >= config.steps:
        logging.info('%s is trained already: step %d of %d.', workdir, start_step, config.steps)
        checkpoints.close()
        return True

    # --- Compile ahead, so that a mistake shows before data flow and the clock sees no compilation.
    validation_function = jax.jit(
        lambda params, frozen, batch, key: jax.tree.map(
            jnp.mean,
            train_step.example_losses(
                training.model, state.merge(params, frozen), training.draw(batch, key)
            ),
        ),
        out_shardings=sharding.replicated(mesh),
    )
    batch = sharding.put_batch(next(batches), batch_sharding)
    started = time.monotonic()
    compiled_step = training.step.lower(train_state, batch).compile()
    logging.info('Compiled the training step in %.1f s.', time.monotonic() - started)

    flops = training.step_flops(batch)
    writers = dashboards.create_writers(workdir, start_step, config.steps)
    writers.write_hparams(environment.flat(config))
    if not start_step:
        whole = state.merge(train_state.params, train_state.frozen)
        writers.write_text(0, {'parameters': dashboards.parameter_overview(whole)})
    timer = clock.Clock(
        start_step,
        config.steps,
        config.batch_size,
        flops,
        clock.matmul_peak(jax.devices()),
        seconds,
    )
    profiler = clock.ProfilerWindow(workdir, config.profile_at, config.profile_steps)
    reset_totals = jax.jit(state.zero_totals, out_shardings=shardings.totals)

    def require_finite(totals):
        if totals['non_finite_step']:
            newest = checkpoints.latest()
            kept = f'the checkpoint of step {newest} is good' if newest else 'nothing was saved yet'
            raise FloatingPointError(
                f'Loss, gradient or update of step {int(totals["non_finite_step"])} is not finite; '
                f'{kept}. A lower learning_rate or a longer warmup_steps is the usual cure.'
            )

    def write(step, totals):
        """Fetches and writes the sums of the window that ended at `step`."""
        totals = jax.device_get(totals)
        require_finite(totals)
        rate = {'learning_rate': float(training.schedule(step - 1))}
        means = {'loss_map': None} | state.means_of(totals, predicts_map)
        writers.write(step, means | rate | timer.report(step) | clock.device_memory())

    def save(step):
        require_finite(train_state.totals)  # inside a window, where a SIGTERM came
        writers.flush()
        meta = {'seconds': timer.seconds, 'description': description}
        checkpoints.save(step, train_state, batches.get_state(), meta)

    # --- The loop. Numbers of a window are fetched after the next step has been dispatched; a CPU
    # computes while it dispatches, which would date them one step late.
    dispatch_computes = jax.default_backend() == 'cpu'
    pending = None
    with checkpoint.Preemption() as preemption:
        try:
            for step in range(start_step + 1, config.steps + 1):
                profiler.before_step(step, train_state.step)
                train_state = compiled_step(train_state, batch)
                if pending:
                    write(*pending)
                    pending = None
                if step % config.log_every == 0 or step == config.steps:
                    pending = step, train_state.totals
                    train_state = train_state.replace(totals=reset_totals())

                last = step == config.steps or preemption.asked(step)
                pauses = {
                    'checkpoint': last or step % config.checkpoint_every == 0,
                    'validate': validation is not None and step % config.validate_every == 0,
                    'preview': preview is not None
                    and config.preview_every
                    and step % config.preview_every == 0,
                }
                if any(pauses.values()) or (pending and dispatch_computes):
                    jax.block_until_ready(train_state)
                    if pending:
                        write(*pending)
                        pending = None
                    with timer.paused():
                        if pauses['checkpoint']:
                            save(step)
                        if pauses['validate']:
                            scores = validate(
                                validation, train_state, validation_function, config, batch_sharding
                            )
                            writers.write_validation(step, scores)
                        if pauses['preview']:
                            pictures, scores = preview(
                                state.merge(train_state.ema, train_state.frozen)
                            )
                            writers.write_images(step, pictures)
                            writers.write_validation(step, scores)
                if last:
                    break
                batch = sharding.put_batch(next(batches), batch_sharding)
        finally:
            profiler.close()
            batches.close()
            checkpoints.close()
            writers.close()
    logging.info('Step %d of %d is done and saved.', step, config.steps)
    return step == config.steps


def validate(
    split: loader.Split,
    train_state: state.TrainState,
    function: Callable,
    config: ml_collections.ConfigDict,
    batch_sharding: jax.sharding.NamedSharding,
) -> dict[str, float]:
    """Held-out losses per stream of the averaged weights, on the same pictures and noise each time.

    Small splits are gone round: with fewer pictures than the batches hold, they repeat.
    """
    share = config.batch_size // jax.process_count()
    sums = {}
    for number in range(config.validation_batches):
        first = number * config.batch_size + jax.process_index() * share
        records = [split[(first + i) % len(split)] for i in range(share)]
        names = [
            name for name in ('latents', 'moments', 'category', 'instance') if name in records[0]
        ]
        batch = {name: np.stack([record[name] for record in records]) for name in names}
        batch['text'] = np.stack([record['texts'][0] for record in records])
        key = jax.random.fold_in(jax.random.key(config.seed + 1), number)
        losses = function(
            train_state.ema, train_state.frozen, sharding.put_batch(batch, batch_sharding), key
        )
        for stream, value in losses.items():
            name = f'validation/loss_{stream}'
            sums[name] = sums.get(name, 0.0) + float(value) / config.validation_batches
    return sums
