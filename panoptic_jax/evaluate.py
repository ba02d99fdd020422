"""Scores of a samples folder, their yardsticks, `metrics.json` and the report page.

The metrics themselves are in `metrics/` and `data/scene_oracle.py`, the folder's format and page in
`export/samples.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax import files, sample, sampler
from panoptic_jax.data import loader, scene_oracle, scene_words
from panoptic_jax.data import manifest as manifests
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.export import pairs, report, samples
from panoptic_jax.metrics import mcd

_YARDSTICK_PICTURES = 5000  # at most, of the split that the captions are from
_ORACLE_PICTURES = 200  # at most: true pictures that are decoded for ceiling and floor

_READINGS = {
    'thing_recall_map': 'Captioned shapes that the map shows.',
    'colour_recall_image': 'Captioned colours that the image shows as an area.',
    'stuff_recall_map': 'Captioned backgrounds that the map shows.',
    'stuff_recall_image': 'Captioned backgrounds that the image shows.',
    'image_map_agreement': 'Share of cells where image and map show the same.',
}


class Score(NamedTuple):
    """A metric, and how many images it and its yardsticks were measured on."""

    metric: report.Metric
    count: int
    yardstick_count: int


def evaluate(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Scores `workdir/samples`, generating them first where they are not complete.

    Writes `workdir/metrics.json` and `workdir/samples/report.html`, and prints a table.

    Raises:
      FileNotFoundError, ValueError: as `sample.sample`, and for samples without maps.
    """
    manifest = manifests.open_manifest(config.data.dir)
    sample.sample(config, workdir)
    folder = epath.Path(workdir) / 'samples'
    facts = samples.read_json(folder, 'settings.json')
    entries = samples.read_json(folder, 'captions.json')
    if not (folder / 'panoptic.json').exists():
        raise ValueError(
            f'{folder} has no maps, which are all that can be scored so far; evaluate a model with '
            'maps.'
        )
    found = pairs.Pairs(folder, map_size=facts['map_size'])
    images = [found.image(i) for i in range(len(found))]
    maps = np.stack([found.ids(i) for i in range(len(found))])

    scores: list[Score] = []
    notes = None
    if 'record' in entries[0] and not facts['model']['given_map']:
        split = loader.Split(config.data.dir, facts['sample']['split'])
        score, distances = score_mcd(maps, entries, split, manifest)
        scores.append(score)
        notes = [f'MCD {distance:.2f}' for distance in distances]
        if facts['sample']['split'] == 'train':
            scores += score_reproduction(images, maps, entries, split, manifest, config)
    if manifest['source']['train'].get('source') == 'scenes':
        scores += score_scenes(images, maps, entries, manifest, config)

    numbers = table(scores, facts)
    path = epath.Path(workdir) / 'metrics.json'
    files.write_json(path, numbers)
    logging.info('Wrote %s.', path)
    for name, entry in numbers.items():
        print(f'{name:44} {entry["value"]:8.4f}')
    log = epath.Path(workdir) / 'metrics.jsonl'
    samples.write_page(folder, log, [score.metric for score in scores], notes)


def table(scores: Sequence[Score], facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The content of metrics.json: {name: {value, n, nfe, guidance, ema, weights}}.

    A metric's yardsticks follow it as 'name/yardstick', with their own n.
    """
    settings = facts['sample']
    common = {
        'nfe': settings['evaluations'],
        'guidance': settings['guidance'],
        'ema': facts['ema'],
        'weights': facts['weights'],
    }
    numbers = {}
    for metric, count, yardstick_count in scores:
        numbers[metric.name] = {'value': metric.value, 'n': count, **common}
        for name, value in metric.yardsticks.items():
            numbers[f'{metric.name}/{name}'] = {'value': value, 'n': yardstick_count, **common}
    return numbers


def score_mcd(
    maps: np.ndarray, entries: Sequence[Mapping], split: loader.Split, manifest: Mapping[str, Any]
) -> tuple[Score, np.ndarray]:
    """MCD against the captions' own pictures, beside what chance and one constant map score.

    Args:
      maps: (N, h, h) uint8 generated ids.
      entries: Of captions.json; 'record' is the picture's index in `split`.
      split: That the captions are from, at least 2 pictures.
      manifest: Of its data.

    Returns:
      The score, and the distance of each pair.
    """
    side, void_wins = maps.shape[1], manifest['void_wins']
    records = [split[i] for i in range(min(len(split), _YARDSTICK_PICTURES))]
    yardstick_maps = np.stack([sampler.true_ids(record, side, void_wins) for record in records])
    truth = np.stack(
        [sampler.true_ids(split[entry['record']], side, void_wins) for entry in entries]
    )
    distances = mcd.mcd(maps, truth)
    histograms = mcd.histograms(yardstick_maps)
    metric = report.mcd_metric(
        float(distances.mean()),
        len(entries),
        mcd.chance(histograms),
        mcd.best_fixed_map(histograms),
        mcd.same_caption_floor(histograms, [record['captions'] for record in records]),
    )
    return Score(metric, len(entries), len(records)), distances


def score_reproduction(
    images: Sequence[np.ndarray],
    maps: np.ndarray,
    entries: Sequence[Mapping],
    split: loader.Split,
    manifest: Mapping[str, Any],
    config: ml_collections.ConfigDict,
) -> list[Score]:
    """How closely pairs repeat the training pictures whose captions they were drawn from.

    'map_agreement' is the share of map pixels with the true category, void being one of them;
    'latent_correlation' is Pearson's, between the stored latents and those of the image encoded
    again. The floor compares with the next pair's picture, the ceiling is what the autoencoder
    leaves of the true one.
    """
    records = [split[entry['record']] for entry in entries]
    side, void_wins = maps.shape[1], manifest['void_wins']
    true_maps = np.stack([sampler.true_ids(record, side, void_wins) for record in records])
    autoencoder = load_autoencoder(manifest['autoencoder']['name'], config.data.autoencoder_weights)
    true_latents = np.stack([sampler.true_latents(record) for record in records])

    def encode(pictures):
        encoded = autoencoder.encode(np.stack(pictures))
        return np.split(encoded, 2, axis=-1)[0] if autoencoder.has_variance else encoded

    latents, repeated = encode(images), encode(autoencoder.decode(true_latents))

    def correlation(theirs, offset=0):
        pairs = zip(theirs, np.roll(true_latents, offset, axis=0), strict=True)
        return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))

    def agreement(offset=0):
        return float(np.mean(maps == np.roll(true_maps, offset, axis=0)))

    count = len(entries)
    detail = f'higher is better, n = {count}'
    metrics = (
        report.Metric(
            'map_agreement',
            agreement(),
            {'floor': agreement(1), 'ceiling': 1.0},
            'Share of map pixels that have the training picture’s category.',
            detail=detail,
        ),
        report.Metric(
            'latent_correlation',
            correlation(latents),
            {'floor': correlation(latents, 1), 'ceiling': correlation(repeated)},
            'How alike the image and the training picture are to the autoencoder.',
            detail=detail,
        ),
    )
    return [Score(metric, count, count) for metric in metrics]


def score_scenes(
    images: Sequence[np.ndarray],
    maps: np.ndarray,
    entries: Sequence[Mapping],
    manifest: Mapping[str, Any],
    config: ml_collections.ConfigDict,
) -> list[Score]:
    """The scene oracle's scores of generated pairs, with ceiling and floor of true ones.

    Prompts that are no scene's caption cannot be read and are left out.
    """
    readable = [i for i, entry in enumerate(entries) if _is_scene_caption(entry['caption'])]
    if not readable:
        logging.info('No prompt is in the words of scenes, so the scene scores are left out.')
        return []
    values = scene_oracle.score(
        [images[i] for i in readable],
        [maps[i] for i in readable],
        [entries[i]['caption'] for i in readable],
    )
    split = loader.Split(config.data.dir, config.sample.split)
    records = [split[i] for i in range(min(len(split), _ORACLE_PICTURES))]
    name = manifest['autoencoder']['name']
    autoencoder = load_autoencoder(name, config.data.autoencoder_weights)
    decoded = autoencoder.decode(np.stack([sampler.true_latents(record) for record in records]))
    truth = [sampler.true_ids(r, maps.shape[1], manifest['void_wins']) for r in records]
    yardsticks = scene_oracle.yardsticks(decoded, truth, [r['captions'][0] for r in records])
    scores = []
    for name, value in values.items():
        metric = report.Metric(
            name=name,
            value=value,
            yardsticks={kind: yardsticks[kind][name] for kind in ('floor', 'ceiling')},
            reading=_READINGS[name],
            detail=f'higher is better, n = {len(readable)}',
        )
        scores.append(Score(metric, len(readable), len(records)))
    return scores


def _is_scene_caption(caption: str) -> bool:
    try:
        scene_words.parse(caption)
    except ValueError:
        return False
    return True
