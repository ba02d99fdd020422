"""`--mode=evaluate`: scores of a folder of pairs, their yardsticks, `metrics.json` and the report.

Pairs are our own samples, or anyone's in the format of `export/pairs.py`. `scoring/maps.py` and
`scoring/images.py` score them; `sample.py` draws our own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import logging
from etils import epath

from panoptic_jax import config as settings
from panoptic_jax import sample
from panoptic_jax.data import loader
from panoptic_jax.data.manifest import Manifest, open_manifest
from panoptic_jax.encoders.load import Autoencoder, check_same, load_autoencoder
from panoptic_jax.export import sample_claim, samples
from panoptic_jax.machine import hosts
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.machine.writer_lock import writing
from panoptic_jax.metrics import fid
from panoptic_jax.programs.description import Description
from panoptic_jax.scoring import (
    against_truth,
    belonging,
    quality_scores,
    reference,
    results,
    training_images,
)
from panoptic_jax.scoring import folder as folders
from panoptic_jax.scoring.features import Features, Images, listing_digest
from panoptic_jax.scoring.images import score_images
from panoptic_jax.scoring.networks import CHUNK, Networks, load_networks
from panoptic_jax.scoring.score import Score
from panoptic_jax.scoring.truth import Owners, captions_of, owners_of

# What each network is for.
_SCORES = {'inception': 'FID', 'clip': 'CLIP score and CMMD'}


class _Job(NamedTuple):
    """What all parts of an evaluation need.

    Attributes:
      config: Checked.
      workdir: The run's folder.
      interruption: Asked between units of work.
      devices: What this process works on; None for all its devices.
      networks: Those that are there.
      manifest: The prepared data.
      chunk: Images whose features are kept together.
    """

    config: ml_collections.ConfigDict
    workdir: epath.Path
    interruption: Interruption
    devices: Sequence[jax.Device] | None
    networks: Networks
    manifest: Manifest
    chunk: int


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    interruption: Interruption = UNINTERRUPTED,
    devices: Sequence[jax.Device] | None = None,
    chunk: int = CHUNK,
) -> None:
    """Scores `workdir/samples`, generating them first, or the folder `config.evaluate.folder`.

    With `sample.count=0` a finished folder is scored as it is, though the split has more images.

    Writes `workdir/metrics.json`, TensorBoard scalars and, for own samples, `report.html`; prints a
    table, and in one line what could not be scored and why. The scores of other folders than
    `samples` go to `metrics_NAME.json`. Features of images are kept in `workdir/features`, so that
    a restart repeats little. Several processes share pairs and images, and the first one writes.
    The scores of every pair go to `scores.jsonl`, what the whole set holds to `quality.json`.

    Args:
      config: Checked.
      workdir: The run's folder.
      interruption: Asked between units of work; what is done is kept.
      devices: What this process samples and scores on; None for all its devices.
      chunk: Images whose features are computed and kept together.

    Raises:
      FileNotFoundError, ValueError: the errors of `sample.sample`; no such folder or data; pairs,
        data and networks that do not belong together; nothing can be scored.
      Interrupted: SIGTERM came; the same command goes on.
    """
    # --- What is scored: everything that may be missing is asked for before the work.
    manifest = open_manifest(config.data.dir)
    networks = load_networks(
        config.evaluate.inception, config.evaluate.clip, devices=devices, chunk=chunk
    )
    job = _Job(config, epath.Path(workdir), interruption, devices, networks, manifest, chunk)
    left_out = [f'{_SCORES[name]} ({reason})' for name, reason in networks.missing.items()]
    if not networks.hashes and not manifest.stored_map_side:
        raise ValueError(
            f'Nothing can be scored: the data in {config.data.dir} have no maps. '
            f'{results.left_out_line(left_out)}'
        )
    name = config.sample.split
    split = loader.Split(config.data.dir, name, config.data.cache)
    real_images = _real_images(job)
    measures = quality_scores.measures_of(manifest, config.evaluate.synonyms)
    training_source = _open_source(job, 'train') if config.evaluate.nearest else None
    folder = _open_folder(job, len(split))
    owners = owners_of(folder.entries, split, f'split {name!r} of {config.data.dir}')
    truth = against_truth.Truth(split, name, manifest, owners)
    is_needed = against_truth.needs_autoencoder(folder, truth)
    autoencoder = _load_autoencoder(job) if is_needed else None

    with writing(job.workdir / 'features', 'evaluation', interruption):
        # --- What processes share comes first, then what the first of them does alone.
        of_images = []
        if networks.hashes:
            of_images, lacking = _score_images(job, folder, owners, real_images)
            left_out += lacking
        scores, pair_scores, lacking = against_truth.score_areas(
            folder, truth, bins=config.evaluate.mcd_bins, interruption=interruption
        )
        left_out += lacking
        places = reference.folders_of(config.data.dir, workdir) if training_source else []
        # The rest takes seconds, and two processes must not write the same files.
        if jax.process_index():
            return
        images = _training_images(job, training_source, places[0]) if training_source else None
        scores += against_truth.score_drawn_maps(folder, truth, interruption)
        scores += against_truth.score_with_autoencoder(folder, truth, autoencoder, interruption)
        scores += quality_scores.score_quality(
            folder, truth, job.workdir, measures=measures, images=images, interruption=interruption
        )
        scores += of_images
        if not scores:
            raise ValueError(
                f'Nothing in {folder.path} can be scored. {results.left_out_line(left_out)}'
            )
        results.write(job.workdir, folder, scores, pair_scores=pair_scores, left_out=left_out)


def _real_images(job: _Job) -> Any:
    """The images that the split was prepared from; None where statistics are named."""
    config, networks = job.config, job.networks
    if networks.hashes and not config.evaluate.reference:
        return _open_source(job, config.sample.split)
    if networks.inception:
        # Now, rather than after hours of sampling.
        fid.read(config.evaluate.reference, fid.FEATURES)
    return None


def _open_source(job: _Job, split: str) -> Any:
    """The images that a split was prepared from."""
    return training_images.open_source(settings.source(job.config), job.manifest, split)


def _training_images(job: _Job, source: Any, folder: epath.Path) -> training_images.Training:
    split = loader.Split(job.config.data.dir, 'train', job.config.data.cache)
    return training_images.read(source, split.image_ids(), folder, job.interruption)


def _open_folder(job: _Job, images: int) -> folders.Folder:
    """The folder that the config names, or our own samples, drawn first; the split has `images`."""
    config, categories = job.config, job.manifest.categories
    if config.evaluate.folder:
        return folders.of_others(config.evaluate.folder, categories)

    def check_model(model: Description) -> None:
        # Maps that nothing can be compared with should not take hours to draw.
        if model.predicts_map and categories.entries:
            belonging.check_model(model.categories, categories, config.data.dir)

    if config.sample.format == 'tar':
        raise ValueError(
            "sample.format is 'tar', and shards are not scored; sample a part of the requests as "
            "'folder' into another sample.folder."
        )
    path = samples.folder_of(job.workdir, config.sample.folder)
    # Finished samples are left as they are.
    sample.sample(
        _of_finished(config, path, images),
        str(job.workdir),
        interruption=job.interruption,
        devices=job.devices,
        check_model=check_model,
    )
    return folders.of_samples(path, categories)


def _of_finished(
    config: ml_collections.ConfigDict, path: epath.Path, images: int
) -> ml_collections.ConfigDict:
    """The config that asks for the pairs of a finished folder, where no other count is asked for.

    A folder of a few pairs is not to become one of the whole split, whose `images` may take hours.
    """
    asked = config.sample
    if asked.count or asked.prompt or asked.prompts:
        return config
    # Process 0 decides for all: another job may finish the folder in between.
    there = hosts.of_first(sample_claim.finished_pairs(path))
    if not 0 < there < images:
        return config
    logging.info(
        '%s is finished with %d pairs, which are scored; --config.sample.count=%d draws one for '
        'each image of the split %r first.',
        path, there, images, asked.split,
    )  # fmt: skip
    own = config.copy_and_resolve_references()
    own.sample.count = there
    return own


def _load_autoencoder(job: _Job) -> Autoencoder:
    """The autoencoder that made the data's latents."""
    facts = job.manifest.autoencoder
    weights = job.config.data.autoencoder_weights
    autoencoder = load_autoencoder(facts.name, weights, devices=job.devices)
    check_same(autoencoder.facts, facts, 'autoencoder')
    return autoencoder


def _score_images(
    job: _Job, folder: folders.Folder, owners: Owners, real_images: Any
) -> tuple[list[Score], list[str]]:
    """The scores by networks; `real_images` is from `_real_images`."""
    config = job.config
    kept = {'chunk': job.chunk, 'interruption': job.interruption}
    images = Images(
        count=len(folder),
        image=folder.image,
        name=lambda number: folder.entries[number]['file_name'],
        identity=listing_digest(folder.pairs.fingerprint()),
        captions=captions_of(folder.entries, owners),
    )
    features = Features([job.workdir / 'features'], job.networks, images, **kept)
    if real_images is None:
        return score_images(features, reference.of_file(config.evaluate.reference))
    places = reference.folders_of(config.data.dir, str(job.workdir))
    real = reference.of_source(
        real_images, job.networks, split=config.sample.split, folders=places, **kept
    )
    return score_images(features, real)
