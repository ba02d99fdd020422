"""`--mode=evaluate`: scores of a folder of pairs, their yardsticks, `metrics.json` and the report.

Pairs are our own samples, or anyone's in the format of `export/pairs.py`. What is scored how is in
`scoring/maps.py` and `scoring/images.py`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath

from panoptic_jax import sample
from panoptic_jax.data import loader
from panoptic_jax.data import manifest as manifests
from panoptic_jax.export import report, samples
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.logs import dashboards
from panoptic_jax.machine import files
from panoptic_jax.metrics import fid
from panoptic_jax.preparation import sources
from panoptic_jax.scoring import images as image_scores
from panoptic_jax.scoring import maps as map_scores


def evaluate(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Scores `workdir/samples`, generating them first, or the folder `config.evaluate.folder`.

    Writes `workdir/metrics.json`, TensorBoard scalars and, of own samples, `report.html`; prints a
    table. Features of images are kept in `workdir/features`, so that a restart repeats little.
    Several processes share out pairs and pictures, and the first one writes.

    Raises:
      FileNotFoundError, ValueError: as `sample.sample`; no such folder, networks or data.
    """
    # --- What is scored: everything that may be missing is asked for before the work.
    settings = config.evaluate
    networks = image_scores.load_networks(settings.inception, settings.clip)
    manifest = manifests.open_manifest(config.data.dir)
    split = loader.Split(config.data.dir, config.sample.split, config.data.cache)
    source_ids = {c['source_id']: c['id'] for c in manifest['categories']}
    reference = None
    if networks.hashes and not settings.reference:
        reference = sources.load_sources(config.data)[0][config.sample.split]
    elif networks.inception:
        fid.read(settings.reference)
    if settings.folder:
        folder = epath.Path(settings.folder)
        pairs = Pairs(folder, source_ids)
        facts = {'weights': folder.name, 'ema': False, 'sample': {}}
        given_map = False
    else:
        sample.sample(config, workdir)
        folder = epath.Path(workdir) / 'samples'
        facts = samples.read_json(folder, 'settings.json')
        pairs = Pairs(folder, map_size=facts['map_size'])
        given_map = facts['model']['given_map']
    records = _records(pairs.entries, split)

    # --- What processes share out comes first, then what the first of them does alone.
    images = []
    if networks.hashes:
        images = _score_images(config, workdir, pairs, records, split, networks, reference)
    found: list[map_scores.Score] = []
    notes = None
    if records and pairs.has_maps and manifest['map_size'] and not given_map:
        score, distances = map_scores.score_mcd(pairs, records, split, manifest)
        found.append(score)
        notes = [f'MCD {distance:.2f}' for distance in distances[: samples.REPORT_PAIRS]]
    if jax.process_index():
        return
    if found and config.sample.split == 'train' and not settings.folder:
        found += map_scores.score_reproduction(pairs, records, split, manifest, config)
    scenes = manifest['source']['train'].get('source') == 'scenes'
    if scenes and pairs.has_maps and all('caption' in entry for entry in pairs.entries):
        captions = [entry['caption'] for entry in pairs.entries]
        found += map_scores.score_scenes(pairs, captions, split, manifest, config)
    found += images
    if not found:
        raise ValueError(
            f'Nothing in {folder} can be scored: it has no maps of captions of the split. Name '
            'networks for its images with --config.evaluate.inception and --config.evaluate.clip.'
        )

    # --- Written down.
    numbers = table(found, facts)
    path = epath.Path(workdir) / 'metrics.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, numbers)
    logging.info('Wrote %s.', path)
    for entry in numbers.values():
        print(f'{entry["label"]:60} {entry["value"]:9.4f}')
    number = facts['weights'].removeprefix('step ')
    step = int(number) if number.isdecimal() else 0
    # With the step, so that evaluations of earlier ones stay to be seen.
    writer = dashboards.TensorBoardWriter(epath.Path(workdir) / 'tensorboard' / 'evaluate', step)
    writer.write_scalars(step, {entry['label']: entry['value'] for entry in numbers.values()})
    writer.close()
    if not settings.folder:
        log = epath.Path(workdir) / 'metrics.jsonl'
        samples.write_page(folder, log, [score.metric for score in found], notes)


def table(found: Sequence[map_scores.Score], facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The content of metrics.json: {name: {value, n, nfe, guidance, ema, weights, label}}.

    A metric's yardsticks follow it as 'name/yardstick', with their own n. 'label' is the name that
    carries all of it, such as 'FID/30k/nfe50/guidance1.0/ema'. What is not known, as of others'
    folders, is None and left out of the label.
    """
    settings = facts['sample']
    common = {
        'nfe': settings.get('evaluations'),
        'guidance': settings.get('guidance'),
        'ema': facts['ema'],
        'weights': facts['weights'],
    }
    numbers = {}

    def add(name, value, count):
        conditions = [f'{count // 1000}k' if count and count % 1000 == 0 else str(count)]
        if common['nfe'] is not None:
            conditions += [f'nfe{common["nfe"]}', f'guidance{common["guidance"]}']
            conditions += ['ema'] if common['ema'] else []
        label = '/'.join([name.replace(' ', '_'), *conditions])
        numbers[name] = {'value': value, 'n': count, **common, 'label': label}

    for metric, count, yardstick_count in found:
        add(metric.name, metric.value, count)
        for name, value in metric.yardsticks.items():
            add(f'{metric.name}/{name}', value, yardstick_count)
    return numbers


def _records(entries: Sequence[Mapping[str, Any]], split: loader.Split) -> list[int] | None:
    """Per pair the index in the split of the picture that its caption is from, if all have one."""
    if all('record' in entry for entry in entries):
        return [entry['record'] for entry in entries]
    if all('image_id' in entry for entry in entries):
        numbers = {image_id: index for index, image_id in enumerate(split.image_ids())}
        if all(entry['image_id'] in numbers for entry in entries):
            return [numbers[entry['image_id']] for entry in entries]
    logging.info('Not all pairs name a picture of the split, so there is no score against those.')
    return None


def _captions(
    entries: Sequence[Mapping[str, Any]], records: Sequence[int] | None, split: loader.Split
) -> Callable[[int], Sequence[str]] | None:
    """A pair's captions: those of its picture, else what its entry says."""
    if records:
        # Pictures repeat, and reading a record with its text features costs far more.
        of_record = functools.cache(lambda index: split[index]['captions'])
        return lambda i: of_record(records[i])
    if all('captions' in entry or 'caption' in entry for entry in entries):
        return lambda i: entries[i].get('captions') or [entries[i]['caption']]
    return None


def _score_images(
    config: ml_collections.ConfigDict,
    workdir: str,
    pairs: Pairs,
    records: Sequence[int] | None,
    split: loader.Split,
    networks: image_scores.Networks,
    reference: Any,
) -> list[map_scores.Score]:
    """FID, CLIP score and CMMD, those that there are networks, captions and real pictures for."""
    captions = _captions(pairs.entries, records, split)
    features = image_scores.Features(
        epath.Path(workdir) / 'features',
        len(pairs),
        pairs.image,
        [pairs.fingerprint(), [*captions(0)] if captions else None],
        networks,
        captions,
    )
    real = None
    if reference is not None:
        real_folder = epath.Path(config.data.dir) / 'reference'
        origin = reference.description
        real = image_scores.Features(
            real_folder, len(reference), lambda i: reference[i].image, origin, networks
        )
    count, found = len(pairs), []
    if networks.inception:
        if real:
            provenance = {'pictures': origin, 'inception': networks.hashes['inception']}
            name = f'{config.sample.split}-{networks.hashes["inception"][:12]}.npz'
            statistics = image_scores.reference_statistics(real_folder / name, real, provenance)
        else:
            statistics, _ = fid.read(config.evaluate.reference)
        distance = image_scores.frechet(features, statistics)
        reading = 'Frechet distance to real images by Inception’s features.'
        found.append(_unscaled('FID', distance, reading, 'lower is better', count))
    if networks.clip_images and captions:
        value = image_scores.mean_clip_score(features)
        reading = 'How well images fit their pictures’ captions, by CLIP: 100 times the cosine.'
        found.append(_unscaled('CLIP score', value, reading, 'higher is better', count))
    if networks.clip_images and real:
        value, used = image_scores.discrepancy(features, real)
        reading = 'Distance to real images by CLIP’s features; settles with fewer images than FID.'
        found.append(_unscaled('CMMD', value, reading, 'lower is better', used))
    return found


def _unscaled(name: str, value: float, reading: str, better: str, count: int) -> map_scores.Score:
    """A score without yardsticks, drawn from 0 to 100 or as far as it goes."""
    detail = f'{better}, {count:,} images'
    metric = report.Metric(name, value, {}, reading, high=max(100.0, value), detail=detail)
    return map_scores.Score(metric, count, count)
