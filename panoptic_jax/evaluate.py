"""`--mode=evaluate`: scores of a folder of pairs, their yardsticks, `metrics.json` and the report.

Pairs are our own samples, or anyone's in the format of `export/pairs.py`. `scoring/maps.py` and
`scoring/images.py` score them; `sample.py` draws our own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import logging
from etils import epath

from panoptic_jax import config as settings
from panoptic_jax import sample
from panoptic_jax.data import loader
from panoptic_jax.data.manifest import Manifest, open_manifest
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.export import samples
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.logs import dashboards
from panoptic_jax.machine import files
from panoptic_jax.metrics import fid
from panoptic_jax.preparation.sources import SourceSettings, open_sources
from panoptic_jax.scoring import maps as map_scores
from panoptic_jax.scoring.features import CHUNK, Features, Images, Networks, load_networks
from panoptic_jax.scoring.images import Reference, score_images
from panoptic_jax.scoring.score import Score, metrics_json
from panoptic_jax.scoring.truth import captions_of, indices_of


class _Folder(NamedTuple):
    """What is scored.

    Attributes:
      path: The folder.
      pairs: Its pairs.
      facts: What the pairs were made with, see `samples.begin`; little is known of others' pairs.
      is_own: Whether `sample.py` made them.
    """

    path: epath.Path
    pairs: Pairs
    facts: Mapping[str, Any]
    is_own: bool

    @property
    def given_map(self) -> bool:
        return self.is_own and self.facts['model']['given_map']


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    devices: Sequence[jax.Device] | None = None,
    chunk: int = CHUNK,
) -> None:
    """Scores `workdir/samples`, generating them first, or the folder `config.evaluate.folder`.

    Writes `workdir/metrics.json`, TensorBoard scalars and, for own samples, `report.html`; prints a
    table. Features of images are kept in `workdir/features`, so that a restart repeats little.
    Several processes share pairs and images, and the first one writes.

    Args:
      config: Checked.
      workdir: The run's folder.
      devices: What this process samples and scores on; None for all its devices.
      chunk: Images whose features are computed and kept together.

    Raises:
      FileNotFoundError, ValueError: the errors of `sample.sample`; no such folder, networks or
        data; nothing can be scored.
    """
    # --- What is scored: everything that may be missing is asked for before the work.
    networks = load_networks(
        config.evaluate.inception, config.evaluate.clip, devices=devices, chunk=chunk
    )
    manifest = open_manifest(config.data.dir)
    split = loader.Split(config.data.dir, config.sample.split, config.data.cache)
    real_images = _real_images(config, networks)
    folder = _open_folder(config, workdir, manifest, devices)
    indices = indices_of(folder.pairs.entries, split)

    # --- What processes share comes first, then what the first of them does alone.
    scores_of_images: list[Score] = []
    if networks.hashes:
        kept = epath.Path(workdir) / 'features'
        captions = captions_of(folder.pairs.entries, indices, split)
        scores_of_images = score_images(
            Features(kept, networks, _images(folder, captions), chunk=chunk),
            _reference(config, networks, real_images, chunk=chunk),
        )
    scores: list[Score] = []
    notes = None
    has_truth = folder.pairs.has_maps and manifest.stored_map_side and not folder.given_map
    if indices and has_truth:
        score, distances = map_scores.score_mcd(folder.pairs, indices, split, manifest)
        scores.append(score)
        notes = [f'MCD {distance:.2f}' for distance in distances[: samples.REPORT_PAIRS]]
    # The rest takes seconds, and two processes must not write the same files.
    if jax.process_index():
        return
    repeats = scores and config.sample.split == 'train' and folder.is_own
    scores += _score_with_decoder(
        folder,
        split,
        manifest,
        indices=indices if repeats else None,
        weights=config.data.autoencoder_weights,
        devices=devices,
    )
    scores += scores_of_images
    if not scores:
        raise ValueError(
            f'Nothing in {folder.path} can be scored: it has no maps of captions of the split. '
            'Name networks for its images with --config.evaluate.inception and '
            '--config.evaluate.clip.'
        )
    _write(workdir, folder, scores, notes)


def _real_images(config: ml_collections.ConfigDict, networks: Networks) -> Any:
    """The source of the split that samples are compared with; None where statistics are named."""
    if networks.hashes and not config.evaluate.reference:
        sources = open_sources(SourceSettings(**settings.source(config)))
        return sources[config.sample.split]
    if networks.inception:
        fid.read(config.evaluate.reference)  # now, rather than after hours of sampling
    return None


def _score_with_decoder(
    folder: _Folder,
    split: loader.Split,
    manifest: Manifest,
    *,
    indices: Sequence[int] | None,
    weights: str,
    devices: Sequence[jax.Device] | None,
) -> list[Score]:
    """The scores that need the data's autoencoder, which is loaded where there are any.

    Args:
      folder: What is scored.
      split: The captions' images.
      manifest: The split's data.
      indices: For each pair the training image that it should repeat; None for no score of that.
      weights: The path in `config.data.autoencoder_weights`.
      devices: What decodes.
    """
    entries = folder.pairs.entries
    is_scenes = manifest.source['train'].get('source') == 'scenes'
    # Others' pairs may come without captions, and then the oracle has nothing to check.
    captioned = folder.pairs.has_maps and all('caption' in entry for entry in entries)
    if not indices and not (is_scenes and captioned):
        return []
    autoencoder = load_autoencoder(manifest.autoencoder.name, weights, devices=devices)
    truth = {'manifest': manifest, 'autoencoder': autoencoder}
    scores = []
    if indices:
        scores += map_scores.score_reproduction(folder.pairs, indices, split, **truth)
    if is_scenes and captioned:
        captions = [entry['caption'] for entry in entries]
        scores += map_scores.score_scenes(folder.pairs, captions, split, **truth)
    return scores


def _open_folder(
    config: ml_collections.ConfigDict,
    workdir: str,
    manifest: Manifest,
    devices: Sequence[jax.Device] | None,
) -> _Folder:
    """The folder that the config names, or our own samples, drawn first."""
    if config.evaluate.folder:
        path = epath.Path(config.evaluate.folder)
        pairs = Pairs(path, manifest.categories.our_ids())
        facts = {'weights': path.name, 'ema': False, 'sample': {}}
        return _Folder(path, pairs, facts, is_own=False)
    # Finished samples are left as they are.
    sample.sample(config, workdir, devices=devices)
    path = epath.Path(workdir) / 'samples'
    # The folder's own settings count: the config may have changed since it was made.
    facts = samples.read_json(path, 'settings.json')
    return _Folder(path, Pairs(path, map_side=facts['map_size']), facts, is_own=True)


def _images(folder: _Folder, captions: Callable[[int], Sequence[str]] | None) -> Images:
    """The folder's images."""
    return Images(
        count=len(folder.pairs),
        image=folder.pairs.image,
        identity=[folder.pairs.fingerprint(), [*captions(0)] if captions else None],
        captions=captions,
    )


def _reference(
    config: ml_collections.ConfigDict, networks: Networks, real_images: Any, *, chunk: int
) -> Reference:
    """The real images of the split, whose features are kept beside the data, or others' statistics.

    `real_images` is a source of examples; None where `evaluate.reference` names statistics.
    """
    # Statistics of others, such as U-ViT's, come without images: FID only.
    if real_images is None:
        return Reference(features=None, provenance={}, path=epath.Path(config.evaluate.reference))
    folder, provenance = epath.Path(config.data.dir) / 'reference', real_images.description
    features = Features(
        folder,
        networks,
        Images(
            count=len(real_images),
            image=lambda i: real_images[i].image,
            identity=provenance,
        ),
        chunk=chunk,
    )
    # Another Inception gives other statistics, so the name tells them apart.
    digest = networks.hashes.get('inception', '')
    return Reference(
        features,
        {'pictures': provenance, 'inception': digest},
        folder / f'{config.sample.split}-{digest[:12]}.npz',
    )


def _write(
    workdir: str, folder: _Folder, scores: Sequence[Score], notes: Sequence[str] | None
) -> None:
    """Writes metrics.json, TensorBoard's file and the page, and prints the table."""
    numbers = metrics_json(scores, folder.facts)
    path = epath.Path(workdir) / 'metrics.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, numbers)
    logging.info('Wrote %s.', path)
    for entry in numbers.values():
        print(f'{entry["label"]:60} {entry["value"]:9.4f}')
    number = folder.facts['weights'].removeprefix('step ')
    step = int(number) if number.isdecimal() else 0
    # With the step, so that evaluations of earlier steps stay visible.
    writer = dashboards.TensorBoardWriter(epath.Path(workdir) / 'tensorboard' / 'evaluate', step)
    writer.write_scalars(step, {entry['label']: entry['value'] for entry in numbers.values()})
    writer.close()
    if folder.is_own:
        log = epath.Path(workdir) / 'metrics.jsonl'
        samples.write_page(folder.path, log, [score.metric for score in scores], notes)
