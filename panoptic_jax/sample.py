"""`--mode=sample`: captions -> pairs of image and map, as an offline job.

The job works off fixed batches, each with its own done marker, so that it restarts where it was;
several processes share the batches. `programs/sampler.py` makes the sampler, `export/samples.py`
writes the folder, and `evaluate.py` scores it.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax import config as settings
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.data.requests import Request
from panoptic_jax.encoders.load import Encoders, load_encoders
from panoptic_jax.export import sample_claim, sample_list, samples
from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import hosts, sharding
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.machine.work_folder import own_share
from panoptic_jax.machine.writer_lock import writing
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.programs import requested, sampler, things
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.keys import request_keys
from panoptic_jax.programs.tasks import Task, check_task
from panoptic_jax.weights import trained
from panoptic_jax.weights.file import Weights


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
    the pairs together. More pairs than a finished folder has are added to it.

    Writes images/*.png, panoptic/*.png, panoptic.json (COCO-panoptic results), captions.json and
    report.html.

    Args:
      config: Checked.
      workdir: The run's folder.
      interruption: Ends the job after the batch at hand.
      devices: What this process draws on; None for all its devices.
      check_model: Raises ValueError for a model whose pairs are of no use to the caller.

    Raises:
      FileNotFoundError, ValueError: No weights or data, or a folder with samples of other settings.
      FloatingPointError: Latents are not finite; the batch is not written.
      Interrupted: The interruption was asked for; the same command goes on.
    """
    job = _open_job(config, workdir, devices)
    if check_model:
        check_model(job.weights.description)
    interruption.leave_if_asked()

    # --- The folder: new, finished, or with some of the pairs.
    folder = samples.folder_of(workdir, config.sample.folder)
    log = epath.Path(workdir) / 'metrics.jsonl'
    there = sample_claim.check(folder, job.promise, job.requests, has_maps=job.has_maps)
    finished = sample_claim.is_finished(folder, there, len(job.requests))
    # The processes may look at different times, and all of them have to enter the lock, or none.
    if hosts.of_first(finished):
        logging.info('%s is finished already: %d pairs.', folder, len(there))
        if not jax.process_index() and not (folder / 'report.html').exists():
            samples.write_page(folder, log)
        return
    with writing(folder, 'sampling job', interruption):
        _fill(config, job, folder, interruption)
        if not jax.process_index():
            samples.write_page(folder, log)


class _Job(NamedTuple):
    """Everything that a job needs, opened and checked before anything is written.

    Attributes:
      mesh: The devices of this process.
      weights: The model.
      requests: What to generate.
      promise: What the pairs depend on besides, see `sample_claim.promise`.
      encoders: The model's encoders.
      given: Numbers of pairs -> what is given besides their captions; None for nothing.
      task: What the sampler is made for.
    """

    mesh: jax.sharding.Mesh
    weights: Weights
    requests: list[Request]
    promise: dict
    encoders: Encoders
    given: Callable[[Sequence[int]], Conditions] | None
    task: Task

    @property
    def has_maps(self) -> bool:
        return self.weights.description.has_map


def _fill(
    config: ml_collections.ConfigDict, job: _Job, folder: epath.Path, interruption: Interruption
) -> None:
    """Draws the pairs that a folder lacks, batch by batch, inside the folder's lock."""
    # Read again: another job may have drawn pairs until this one got the lock.
    there = sample_claim.check(folder, job.promise, job.requests, has_maps=job.has_maps)
    if not jax.process_index():
        sample_claim.claim(folder, job.promise, there)
    hosts.of_first(0)  # the others go on when the folder is claimed
    categories = sample_claim.written_categories(folder, job.weights.description.categories)
    lacking = sample_list.lacking(there, len(job.requests), config.sample.batch_size)
    firsts = range(0, len(job.requests), config.sample.batch_size)
    own = [first for first in own_share(firsts) if first in lacking]
    # Compiled after the folder is claimed: a finished folder needs no compilation.
    draw = _make_draw(config, job) if own else None
    progress = Progress('sample', 'pairs', sum(len(lacking[first]) for first in own))
    for first in own:
        interruption.leave_if_asked()
        drawn = _draw_batch(config, job, draw, first=first, numbers=lacking[first])
        samples.write_part(
            folder,
            first=first,
            requests=job.requests[first : first + config.sample.batch_size],
            drawn=drawn,
            categories=categories,
            kept=there,
        )
        progress.add(len(lacking[first]))

    # --- The first process waits for the parts of the others, and they wait for its lists.
    if jax.process_index():
        hosts.wait_for(
            lambda: not sample_claim.is_at_work(folder),
            f'process 0 to finish {folder}',
            interruption,
        )
        return
    sample_list.wait_for_parts(folder, lacking, interruption)
    sample_list.finish(folder, categories, has_maps=job.has_maps)
    sample_claim.release(folder)


def _draw_batch(
    config: ml_collections.ConfigDict,
    job: _Job,
    draw: sampler.Sampler,
    *,
    first: int,
    numbers: Collection[int],
) -> samples.Drawn:
    """Draws the batch that begins with pair `first`, for the sake of the pairs of these numbers."""
    # The last batch is filled up, so that one compilation serves all.
    last = len(job.requests) - 1
    rows = [min(first + row, last) for row in range(config.sample.batch_size)]
    padded = [job.requests[row] for row in rows]
    text = job.encoders.text.encode([request['caption'] for request in padded])
    keys = request_keys(config.sample.seed, first, padded)
    drawn = draw(text, keys, job.given(rows) if job.given else Conditions())
    latents = np.asarray(drawn.latents)
    sampler.check_latents(
        latents[[number - first for number in numbers]],
        [f'pair {number}' for number in numbers],
        config.sample.guidance,
    )
    images = job.encoders.autoencoder.decode(latents)
    description = job.weights.description
    # Maps that were given stay as they are.
    min_area = 0.0 if job.task.map.given else config.sample.min_area
    maps = things.of_drawn(drawn, description.categories.entries, min_area=min_area)
    return samples.Drawn(images, *maps)


def _open_job(
    config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device] | None
) -> _Job:
    mesh = sharding.local_mesh(config.mesh.fsdp, devices)
    sampler.check_batch(config.sample.batch_size, mesh)
    weights, name = trained.for_sampling(
        workdir,
        weights_path=config.sample.weights,
        ema=config.sample.ema,
        data_dir=config.data.dir,
        which=config.sample.checkpoint,
    )
    description = weights.description
    has_prompts = config.sample.prompt or config.sample.prompts
    manifest = None if has_prompts else open_manifest(config.data.dir)
    # Before the encoders: a list without prompts should not cost a download.
    own, given, task = requested.of_job(
        requested.Asked(**settings.asked(config)),
        description,
        manifest,
        data_dir=config.data.dir,
        cache=config.data.cache,
        void_wins=config.data.void_wins,
    )
    check_task(description, task, config.sample.offset)
    encoders = load_encoders(
        description.autoencoder,
        description.text,
        autoencoder_weights=config.data.autoencoder_weights,
        text_weights=config.data.text_weights,
        devices=devices,
    )
    promise = sample_claim.promise(
        config.sample.to_dict() | settings.sampling(config),
        description.categories,
        manifest and manifest.fingerprint,
        weights=name,
        ema=config.sample.ema and name.startswith('step '),
        model=description.to_json()['model'],
        map_size=description.map_side,
    )
    return _Job(mesh, weights, own, promise, encoders, given, task)


def _make_draw(config: ml_collections.ConfigDict, job: _Job) -> sampler.Sampler:
    """The compiled sampler with its parameters in place."""
    program = sampler.make_sampler(
        job.weights.description,
        sampler.Sampling(**settings.sampling(config)),
        empty_text=job.weights.empty_text,
        dtype=compute_dtype(config.model.dtype, job.mesh),
        forms=for_mesh(job.mesh, config.fused_attention),
        task=job.task,
    )
    return sampler.on_devices(program, job.weights.params, job.mesh)
