"""`--mode=train`: the one loop around the step of `programs/train_step.py`.

The loop sees encoded records only. `scoring/preview.py` knows how a picture is drawn from
parameters while training goes on.
"""

import contextlib
import functools
import time
from collections.abc import Sequence

import jax
import ml_collections
from absl import logging
from jax.experimental.multihost_utils import reached_preemption_sync_point

from panoptic_jax import config as settings
from panoptic_jax.data import loader
from panoptic_jax.data.manifest import check_manifest, open_manifest
from panoptic_jax.diffusion import bits
from panoptic_jax.logs import clock, dashboards, environment, json_lines
from panoptic_jax.machine import sharding, writer_lock
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.programs import state
from panoptic_jax.programs.description import Description, describe
from panoptic_jax.programs.same_model import check_same_model
from panoptic_jax.programs.sampler import Sampling
from panoptic_jax.programs.train_step import Recipe
from panoptic_jax.programs.training import RUNS_ONCE, make_training
from panoptic_jax.scoring import held_out
from panoptic_jax.weights import best, checkpoint, initial, recovery


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    interruption: Interruption = UNINTERRUPTED,
    devices: Sequence[jax.Device] | None = None,
    peak_flops: float | None = None,
) -> bool:
    """Trains until `config.steps`, or until told to stop. The same call again goes on.

    Args:
      config: Checked.
      workdir: The run's folder; it holds everything about the run.
      interruption: Asked between steps, and around the compilation.
      devices: What to train on; None for all devices of the job.
      peak_flops: FLOP/s of the devices together, for MFU; None to look it up or measure it.

    Returns:
      Whether the run is complete; False after SIGTERM, with a checkpoint of the last step.

    Raises:
      FileNotFoundError, ValueError: Data, weights or checkpoints that do not fit the config; no
        whole checkpoint among damaged ones; a full disk; another training in the workdir.
      FloatingPointError: A step is not finite; the last checkpoint stays good.
      Interrupted: SIGTERM came before the first step; nothing is lost.
    """
    started = time.monotonic()
    # --- Data: opened and checked before anything is compiled.
    data_dir, cache = config.data.dir, config.data.cache
    manifest = open_manifest(data_dir)
    check_manifest(manifest, **settings.encoding(config))
    share = loader.Share(jax.process_index(), jax.process_count())
    batches = loader.train_batches(
        loader.Split(data_dir, 'train', cache),
        batch_size=config.batch_size,
        seed=config.seed,
        share=share,
        workers=config.data.workers,
    )
    # Held-out losses need a held-out split; data without one are trained on all the same.
    validation = None
    if config.validate_every and 'validation' in manifest.splits:
        validation = loader.Split(data_dir, 'validation', cache)

    # --- Model and step: shapes first, arrays last.
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    batch_sharding = sharding.of_batch(mesh)
    description = describe(config.model.to_dict(), settings.streams(config), manifest, data_dir)
    training = make_training(
        description,
        Recipe(**settings.recipe(config)),
        void_wins=manifest.void_wins,
        empty_text=loader.empty_text(data_dir),
        mesh=mesh,
        fused_attention=config.fused_attention,
    )
    # A preview needs an autoencoder: that its weights are missing should show before training.
    preview, measured = None, held_out.NAMES if validation else []
    if config.preview_every:
        from panoptic_jax.scoring import preview as previews
        from panoptic_jax.scoring import preview_scores

        shown = previews.open_data(
            description,
            data_dir=data_dir,
            cache=cache,
            autoencoder_weights=config.data.autoencoder_weights,
            count=config.preview_count,
        )
        preview = previews.make_preview(
            description,
            Sampling(**settings.sampling(config)),
            data=shown,
            mesh=mesh,
            fused_attention=config.fused_attention,
        )
        measured = [*measured, *preview_scores.names_of(description, manifest)]
    best.require(config.checkpoint_best, measured)

    def restore(step):
        initial.check_bit_order(step.meta, workdir)
        check_same_model(description, Description.from_json(step.meta['description']), workdir)
        train_state = step.state(training.abstract_state)
        batches.set_state(step.position())
        return step.number, step.meta['seconds'], train_state

    def leave_if_asked():
        # Several processes have to leave together, which the loop makes them do.
        if jax.process_count() == 1:
            interruption.leave_if_asked()

    # --- Where the weights come from: this run's checkpoint, else init_weights, else fresh ones.
    leave_if_asked()
    with writer_lock.writing(workdir, 'training', interruption):
        found = recovery.newest(workdir, restore)
        start_step, seconds = 0, 0.0
        first_key = jax.random.key(config.seed)
        if found:
            (start_step, seconds, train_state), faults = found
            recovery.set_aside(workdir, faults)
            logging.info('Going on from step %d of %s.', start_step, workdir)
        elif config.init_weights:
            # Fresh parameters first: what the file lacks keeps them.
            split = sharding.of_tree(training.abstract_params, mesh)
            fresh = jax.jit(
                training.initial_parameters, out_shardings=split, compiler_options=RUNS_ONCE
            )(first_key)
            params = initial.load_into(
                fresh, config.init_weights, manifest, partial=config.init_partial
            )
            params = sharding.place(params, split)
            train_state = jax.jit(training.create, out_shardings=training.shardings)(params)
        else:
            train_state = training.first_state(first_key)
        environment.record(workdir, config.to_dict())
        logging.info('Train state on %s:\n%s', dict(mesh.shape), sharding.layout_table(train_state))
        if start_step >= config.steps:
            logging.info('%s is trained already: step %d of %d.', workdir, start_step, config.steps)
            return True
        checkpoints = checkpoint.Checkpoints(
            workdir,
            keep_last=config.keep_last,
            keep_every=config.keep_every,
            best_by=config.checkpoint_best,
        )
        leave_if_asked()

        # --- Compile ahead, so that a mistake shows before data flow and the clock sees no
        # compilation.
        whole = sharding.replicated(mesh)
        validation_losses = jax.jit(training.losses, out_shardings=whole)
        caption_errors = jax.jit(training.caption_errors, out_shardings=whole)

        def validate(*arguments):
            return validation_losses(*arguments), caption_errors(*arguments)

        batch = sharding.put_batch(next(batches), batch_sharding)
        compiling = time.monotonic()
        compiled_step = training.step.lower(train_state, batch).compile()
        logging.info('Compiled the training step in %.1f s.', time.monotonic() - compiling)
        leave_if_asked()

        # After the restore, since lines of steps that will come again are cut off.
        writers = dashboards.create_writers(workdir, start_step, config.steps)
        writers.write_hparams(environment.flat(config.to_dict()))
        if not start_step:
            whole = state.merge(train_state.params, train_state.frozen)
            writers.write_text(0, {'parameters': dashboards.parameter_overview(whole)})
        size = config.batch_size
        timer = clock.Clock(
            start_step=start_step, total_steps=config.steps, batch_size=size, seconds=seconds
        )
        # Steps count from the run's start, so a resumed run does not profile again.
        profiler = clock.ProfilerWindow(workdir, config.profile_at, config.profile_steps)
        reset_totals = jax.jit(
            functools.partial(state.zero_totals, own_times=config.model.separate_times),
            out_shardings=training.shardings.totals,
        )

        def require_finite(totals):
            if totals['non_finite_step']:
                bad, newest = int(totals['non_finite_step']), checkpoints.latest()
                good = f'the checkpoint of step {newest} is good' if newest else 'nothing was saved'
                raise FloatingPointError(
                    f'Loss, gradient, update or average of step {bad} is not finite; {good}. '
                    'A lower learning_rate or a longer warmup_steps is the usual cure.'
                )

        def write(step, totals):
            """Fetches and writes the sums of the window that ended at `step`."""
            totals = jax.device_get(totals)
            require_finite(totals)
            rate = {'learning_rate': float(training.learning_rate(step - 1))}
            means = state.means_of(totals, has_map=description.predicts_map)
            # Every line has the same keys, whatever the model.
            means = {'loss_map': None} | means
            writers.write(step, means | rate | timer.report(step) | clock.device_memory())

        def save(step, scores, is_best):
            writers.flush()
            meta = {
                'seconds': timer.seconds,
                'description': description.to_json(),
                'bit_order': bits.BIT_ORDER,
                'scores': json_lines.plain(scores),
            }
            checkpoints.save(step, train_state, batches.get_state(), meta, is_best=is_best)

        # --- The loop. Numbers of a window are fetched after the next step has been dispatched; a
        # CPU computes while it dispatches, which would date them one step late.
        dispatch_computes = jax.default_backend() == 'cpu'
        pending = None
        with contextlib.ExitStack() as at_end:
            # Closed from the last one on, and each of them also where another one fails to close.
            for opened in (writers, checkpoints, batches, profiler):
                at_end.callback(opened.close)
            for step in range(start_step + 1, config.steps + 1):
                profiler.before_step(step, train_state.step)
                train_state = compiled_step(train_state, batch)
                # What MFU needs takes seconds, for which the first step need not wait.
                if step == start_step + 1:
                    jax.block_until_ready(train_state)
                    logging.info('The first step was done in %.1f s.', time.monotonic() - started)
                    with timer.paused():
                        peak = peak_flops or clock.matmul_peak(jax.devices())
                        timer.seconds_at_peak = training.step_flops(batch) / peak
                if pending:
                    write(*pending)
                    pending = None
                if step % config.log_every == 0 or step == config.steps:
                    pending = step, train_state.totals
                    train_state = train_state.replace(totals=reset_totals())

                told = told_to_leave(interruption, step)
                if told:
                    logging.warning('SIGTERM: saving a checkpoint after this step and leaving.')
                    interruption.acknowledge()
                last = step == config.steps or told
                saves = last or step % config.checkpoint_every == 0
                validates = validation is not None and step % config.validate_every == 0
                draws = preview is not None and step % config.preview_every == 0
                if saves or validates or draws or (pending and dispatch_computes):
                    jax.block_until_ready(train_state)
                    if pending:
                        write(*pending)
                        pending = None
                    # Also inside a window, where a SIGTERM comes.
                    require_finite(train_state.totals)
                    # The save is the last of it: what a killed run has not saved is written again.
                    with timer.paused():
                        scores = {}
                        if validates:
                            scores = held_out.scores(
                                functools.partial(validate, train_state.ema, train_state.frozen),
                                validation,
                                batch_size=config.batch_size,
                                batches=config.validation_batches,
                                seed=config.seed + 1,
                                batch_sharding=batch_sharding,
                            )
                            writers.write_validation(step, scores)
                        if draws:
                            averaged = state.merge(train_state.ema, train_state.frozen)
                            pictures, shown = preview(averaged)
                            writers.write_images(step, pictures)
                            writers.write_validation(step, shown)
                            scores = scores | shown
                        is_best = checkpoints.is_best(scores)
                        if saves or is_best:
                            save(step, scores, is_best)
                if last:
                    break
                batch = sharding.put_batch(timer.next_of(batches, train_state.step), batch_sharding)
        logging.info('Step %d of %d is done and saved.', step, config.steps)
        logging.info('Curves (pip install tensorboard): %s', dashboards.command(workdir))
        return step == config.steps


def told_to_leave(interruption: Interruption, step: int) -> bool:
    """Whether a SIGTERM asks for the end after `step`; every process has to ask at every step.

    In a job of several processes JAX's own service listens, so that all of them stop after the same
    step.
    """
    if jax.process_count() == 1:
        return interruption.asked()
    return reached_preemption_sync_point(step)
