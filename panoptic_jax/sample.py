"""`--mode=sample`: captions -> pairs of image and map, as an offline job.

The job works off fixed batches, each with its own done marker, so that it restarts where it was;
several processes share the batches. `programs/sampler.py` makes the sampler, `export/stores.py`
keeps the pairs, and `evaluate.py` scores them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import ml_collections
from absl import logging
from etils import epath

from panoptic_jax import config as settings
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.encoders.load import load_encoders
from panoptic_jax.export import sample_claim, sample_report, sample_tars, samples, stores
from panoptic_jax.export.pair_files import Drawn
from panoptic_jax.export.sample_report import Store
from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import hosts, sharding
from panoptic_jax.machine.background import background
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.machine.work_folder import own_share
from panoptic_jax.machine.writer_lock import writing
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.programs import drawing, requested, sampler
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.tasks import check_task
from panoptic_jax.quality import judge
from panoptic_jax.weights import trained

_WAITING = 2  # batches that are drawn and not written; each takes some megabytes


def sample(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    interruption: Interruption = UNINTERRUPTED,
    devices: Sequence[jax.Device] | None = None,
    check_model: Callable[[Description], None] | None = None,
) -> None:
    """Generates pairs into `workdir/samples` (`sample.folder`); goes on where it was stopped.

    Each process of a job draws its share of the batches on its own devices, and the first one puts
    the pairs together. More pairs than a finished folder has are added to it. Lines of the requests
    that are wrong are left out and listed in rejected.jsonl, pairs that are not finite in
    failed.jsonl.

    Args:
      config: Checked.
      workdir: The run's folder.
      interruption: Ends the job after the batch at hand.
      devices: What this process draws on; None for all its devices.
      check_model: Raises ValueError for a model whose pairs are of no use to the caller.

    Raises:
      FileNotFoundError, ValueError: No weights or data, no request that is good, or a folder with
        samples of other settings.
      FloatingPointError: Pairs are not finite; the others are there.
      Interrupted: The interruption was asked for; the same command goes on.
    """
    job = _open_job(config, workdir, devices)
    if check_model:
        check_model(job.means.description)
    interruption.leave_if_asked()

    # --- The folder: new, finished, or with some of the pairs.
    folder = samples.folder_of(workdir, config.sample.folder)
    log = epath.Path(workdir) / 'metrics.jsonl'
    store = _open_store(config, job, folder)
    store.check()
    # The processes may look at different times, and all of them have to enter the lock, or none.
    is_finished = hosts.of_first(store.is_finished())
    if not is_finished:
        with writing(folder, 'sampling job', interruption):
            _fill(job, store, interruption)
            _write_page(job, store, log)
    elif not jax.process_index():
        # The list may have other wrong lines by now.
        sample_claim.write_rejected(folder, job.requested.rejected)
        if not (folder / 'report.html').exists():
            _write_page(job, store, log)
    asked = job.requested
    sample_report.report(store, asked.requests, asked.rejected, was_finished=bool(is_finished))


class _Job(NamedTuple):
    """Everything that a job needs, opened and checked before anything is written.

    Attributes:
      means: The model, its encoders, and how it draws.
      requested: What to generate.
      promise: What the pairs depend on besides, see `sample_claim.promise`.
      judge: What pairs are scored with and have to pass.
    """

    means: drawing.Means
    requested: requested.Requested
    promise: dict
    judge: judge.Judge


def _open_store(config: ml_collections.ConfigDict, job: _Job, folder: epath.Path) -> Store:
    asked = stores.Job(
        folder=folder,
        facts=job.promise,
        requests=job.requested.requests,
        rejected=job.requested.rejected,
        has_maps=job.means.description.has_map,
        judge=job.judge,
        selection=settings.selection(config),
        redo_failed=config.sample.redo == 'failed',
    )
    form = sample_tars.TarStore if config.sample.format == 'tar' else stores.FolderStore
    return form(asked)


def _fill(job: _Job, store: Store, interruption: Interruption) -> None:
    """Draws the pairs that a folder lacks, batch by batch, inside the folder's lock."""
    # Looked at again: another job may have drawn pairs until this one got the lock.
    if not jax.process_index():
        store.check()
        store.claim()
    hosts.of_first(0)  # the others go on when the folder is claimed
    if jax.process_index():
        store.check()
    batches = functools.partial(requested.batches, job.requested, job.means.batch_size)
    units = store.units(batches)
    own = [unit for unit in own_share(units) if unit.missing]
    # Compiled after the folder is claimed: a finished folder needs no compilation.
    draw = drawing.make_draw(job.means, job.requested)
    progress = Progress('sample', 'pairs', sum(len(unit.missing) for unit in own))

    def keep(unit, batch, drawn):
        try:
            decoded = drawing.decoded(job.means, job.requested, batch, drawn)
            captions = [job.requested.requests[number]['caption'] for number in batch]
            judged = judge.judged(job.judge, decoded, captions, drawn.again)
        except FloatingPointError as error:
            store.fail(unit, batch, str(error))
            logging.warning('Pairs %d to %d were not drawn: %s', batch[0], batch[-1], error)
        else:
            store.add(unit, batch, Drawn(*decoded, judged))
        progress.add(len({*batch} & {*unit.missing}))

    # Files are written while the devices draw the next batch.
    with background(_WAITING) as behind:
        for unit in own:
            for batch in unit.batches:
                interruption.leave_if_asked()
                behind.call(keep, unit, batch, draw(batch))

    # --- The first process waits for the parts of the others, and they wait for its lists.
    if jax.process_index():
        hosts.wait_for(
            lambda: not sample_claim.is_at_work(store.folder),
            f'process 0 to finish {store.folder}',
            interruption,
        )
        return
    store.wait(units, interruption)
    store.finish()


def _write_page(job: _Job, store: Store, log: epath.Path) -> None:
    """Process 0 writes the page, where there are pairs at all."""
    if not jax.process_index() and job.requested.requests.keys() - store.failed().keys():
        samples.write_page(store.folder, log)


def _open_job(
    config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device] | None
) -> _Job:
    mesh = sharding.local_mesh(config.mesh.fsdp, devices)
    sampler.check_batch(config.sample.batch_size, mesh)
    # Somebody waits for the pair of a single prompt, so no batch is filled up for it.
    waits = config.sample.prompt and config.sample.count <= 1
    weights, name = trained.for_sampling(
        workdir,
        weights_path=config.sample.weights,
        ema=config.sample.ema,
        data_dir=config.data.dir,
        which=config.sample.checkpoint,
        fallback=config.sample.fallback,
    )
    description = weights.description
    if config.sample.second_map:
        check_task(description, drawing.IMAGE_TO_MAP)
    has_prompts = config.sample.prompt or config.sample.prompts
    manifest = None if has_prompts else open_manifest(config.data.dir)
    # Before the encoders: a list without prompts should not cost a download.
    asked = requested.of_job(
        requested.Asked(**settings.asked(config)),
        description,
        manifest,
        data_dir=config.data.dir,
        cache=config.data.cache,
        void_wins=config.data.void_wins,
    )
    encoders = load_encoders(
        description.autoencoder,
        description.text,
        autoencoder_weights=config.data.autoencoder_weights,
        text_weights=config.data.text_weights,
        devices=devices,
    )
    training = None
    if config.sample.drop_duplicates:
        from panoptic_jax.scoring import training_images  # takes long to load

        source = settings.source(config)
        training = training_images.of_data(source, config.data.dir, config.data.cache, workdir)
    own_judge = judge.judge_of(
        description.categories.entries,
        keep=config.sample.keep,
        best_of=config.sample.best_of,
        synonyms=config.evaluate.synonyms,
        maps=description.has_map + config.sample.second_map,
        training=training,
    )
    promise = sample_claim.promise(
        config.sample.to_dict() | settings.sampling(config),
        description.categories,
        manifest and manifest.fingerprint,
        weights=name,
        ema=config.sample.ema and name.startswith('step '),
        model=description.to_json()['model'],
        map_size=description.map_side,
        decoder=encoders.autoencoder.decoder_sha256,
    )
    means = drawing.Means(
        description=description,
        params=weights.params,
        empty_text=weights.empty_text,
        encoders=encoders,
        mesh=mesh,
        dtype=compute_dtype(config.model.dtype, mesh),
        forms=for_mesh(mesh, config.fused_attention),
        sampling=sampler.Sampling(**settings.sampling(config)),
        seed=config.sample.seed,
        batch_size=mesh.size if waits else config.sample.batch_size,
        min_area=config.sample.min_area,
        second_map=config.sample.second_map,
    )
    return _Job(means, asked, promise, own_judge)
