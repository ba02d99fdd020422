"""`--mode=sample`: captions -> pairs of image and map, as an offline job.

The job works off fixed batches, each with its own done marker, so that it restarts where it was;
several processes share the batches. `programs/sampler.py` makes the sampler, `export/samples.py`
writes the folder, and `evaluate.py` scores it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax import config as settings
from panoptic_jax.data import loader
from panoptic_jax.data.geometry import true_ids
from panoptic_jax.data.manifest import Manifest, open_manifest
from panoptic_jax.data.requests import Request, of_prompts, of_split
from panoptic_jax.encoders.load import Encoders, load_encoders
from panoptic_jax.export import samples
from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import sharding
from panoptic_jax.machine.work_folder import own_share
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.sampler import Sampling, check_batch, make_sampler, pair_keys
from panoptic_jax.weights import trained
from panoptic_jax.weights.file import Weights

# (text (B, L, D), number of the first pair, given ids (B, kh, kw) or None) -> (latents, ids)
Draw = Callable[[np.ndarray, int, np.ndarray | None], tuple[jax.Array, jax.Array | None]]


def requests(config: ml_collections.ConfigDict, description: Description) -> list[Request]:
    """What to generate, see `data/requests.py`.

    Raises:
      ValueError: An empty file of prompts, or prompts for a model that needs maps beside them.
    """
    job = config.sample
    if job.prompts:
        if description.given_map:
            raise ValueError(
                'This model needs a map beside each caption; leave sample.prompts empty to take '
                'captions and maps of sample.split.'
            )
        return of_prompts(job.prompts, job.count)
    split = loader.Split(config.data.dir, job.split, config.data.cache)
    return of_split(split, job.count, job.seed)


def sample(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Generates `config.sample.count` pairs into `workdir/samples`; goes on where it was stopped.

    Each process of a job draws its share of the batches on its own devices, and the first one puts
    the pairs together.

    Writes images/*.png, panoptic/*.png, panoptic.json (COCO-panoptic results), captions.json and
    report.html.

    Args:
      config: Checked.
      workdir: The run's folder.
      devices: What this process draws on; None for all its devices.

    Raises:
      FileNotFoundError, ValueError: No weights or data, or a folder with samples of other settings.
    """
    job = _open_job(config, workdir, devices)
    description, batch_size = job.weights.description, config.sample.batch_size

    # --- The folder, new or begun with the same settings.
    folder, log = epath.Path(workdir) / 'samples', epath.Path(workdir) / 'metrics.jsonl'
    promise = _promise(config, job)
    done = samples.parts(folder)  # before the next line: they are removed when all is finished
    if not samples.begin(folder, promise):
        logging.info('%s is finished already: %d pairs.', folder, len(job.requests))
        if not jax.process_index() and not (folder / 'report.html').exists():
            samples.write_page(folder, log)
        return

    # --- Batch by batch.
    # Compiled after the folder is claimed: a finished folder needs no compilation.
    draw = _make_draw(config, job.weights, job.mesh)
    firsts = range(0, len(job.requests), batch_size)
    batches = {
        first: job.requests[first : first + batch_size]
        for first in own_share(firsts)
        if first not in done
    }
    progress = Progress('sample', 'pairs', sum(map(len, batches.values())))
    for first, batch in batches.items():
        # The last batch is filled up, so that one compilation serves all.
        padded = batch + [batch[-1]] * (batch_size - len(batch))
        text = job.encoders.text.encode([request['caption'] for request in padded])
        # A model of given maps draws the image only; its maps come from the split.
        given = job.given_maps(padded) if job.given_maps else None
        latents, ids = draw(text, first, given)
        images = job.encoders.autoencoder.decode(np.asarray(latents))
        samples.write_part(
            folder,
            first=first,
            requests=batch,
            images=images,
            ids=None if ids is None else np.asarray(ids),
            categories=description.categories.entries,
        )
        progress.add(len(batch))
    whole = samples.work_folder(folder).wait_for_parts(
        firsts, lambda: samples.parts(folder), 'the pairs of other processes'
    )
    if whole:
        samples.finish(folder, description.categories.entries)
        samples.write_page(folder, log)


class _Job(NamedTuple):
    """Everything that a job needs, opened and checked before anything is written.

    Attributes:
      mesh: The devices of this process.
      weights: The model.
      name: A name for its weights.
      requests: What to generate.
      source: What determines the requests, JSON-able.
      encoders: The model's encoders.
      given_maps: Requests -> their maps (B, kh, kw); None for a model that is given none.
    """

    mesh: jax.sharding.Mesh
    weights: Weights
    name: str
    requests: list[Request]
    source: Any
    encoders: Encoders
    given_maps: Callable[[Sequence[Request]], np.ndarray] | None


def _open_job(
    config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device] | None
) -> _Job:
    mesh = sharding.local_mesh(config.mesh.fsdp, devices)
    check_batch(config.sample.batch_size, mesh)
    weights, name = trained.for_sampling(
        workdir,
        weights_path=config.sample.weights,
        ema=config.sample.ema,
        data_dir=config.data.dir,
    )
    description = weights.description
    # Before the encoders: a list without prompts should not cost a download.
    own_requests = requests(config, description)
    encoders = load_encoders(
        description.autoencoder,
        description.text,
        autoencoder_weights=config.data.autoencoder_weights,
        text_weights=config.data.text_weights,
        devices=devices,
    )
    manifest = None if config.sample.prompts else open_manifest(config.data.dir)
    return _Job(
        mesh=mesh,
        weights=weights,
        name=name,
        requests=own_requests,
        source=[own_requests, manifest and manifest.fingerprint],
        encoders=encoders,
        given_maps=_given_maps(config, description, manifest) if description.given_map else None,
    )


def _promise(config: ml_collections.ConfigDict, job: _Job) -> dict[str, Any]:
    """Everything that the samples depend on, see `samples.begin`."""
    description = job.weights.description
    own = description.to_json()
    return {
        'weights': job.name,
        'ema': config.sample.ema and job.name.startswith('step '),
        'model': own['model'],
        'map_size': description.map_side,
        'sample': config.sample.to_dict(),
        # The list may be long; its hash tells another list as well.
        'requests': hashlib.sha256(json.dumps(job.source).encode()).hexdigest(),
        'categories': own['categories'],
    }


def _given_maps(
    config: ml_collections.ConfigDict, description: Description, manifest: Manifest
) -> Callable[[Sequence[Request]], np.ndarray]:
    """A function from requests to the maps (B, kh, kw) of their images."""
    # Data of captioned images without maps train a U-ViT only.
    if not manifest.stored_map_side:
        raise ValueError(
            f'The data in {config.data.dir} have no maps, which this model is given; take other '
            "data, or a model that needs none: 'uvit'."
        )
    split = loader.Split(config.data.dir, config.sample.split, config.data.cache)

    def given_maps(batch):
        records = [split[request['record']] for request in batch]
        side = description.map_side
        return np.stack([true_ids(record, side, manifest.void_wins) for record in records])

    return given_maps


def _make_draw(
    config: ml_collections.ConfigDict, weights: Weights, mesh: jax.sharding.Mesh
) -> Draw:
    """The compiled sampler with its parameters in place."""
    sampler = make_sampler(
        weights.description,
        Sampling(**settings.sampling(config)),
        empty_text=weights.empty_text,
        dtype=compute_dtype(config.model.dtype, mesh),
        forms=for_mesh(mesh, config.fused_attention),
    )
    rows = sharding.of_batch(mesh)
    split_params = sharding.of_tree(weights.params, mesh)
    params = sharding.place(weights.params, split_params)
    compiled = jax.jit(sampler, in_shardings=(split_params, rows, rows, rows))

    def draw(text, first, given):
        # A pair's noise depends on its number, so any batch and any process draws the same pair.
        keys = pair_keys(config.sample.seed, first, len(text))
        text, given = sharding.place((text, given), rows)
        return compiled(params, text, keys, given)

    return draw
