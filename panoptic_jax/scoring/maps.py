"""Scores of generated pairs against the pictures that their captions are from.

Pairs are read one at a time; what needs many at once takes the first `HELD`, so that memory does
not grow with their number. The metrics are in `metrics/` and `data/scene_oracle.py`, scores of
images by frozen networks in `image_scores.py`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from absl import logging

from panoptic_jax.data import geometry, loader, scene_oracle, scene_words
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.export import report
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.machine import hosts
from panoptic_jax.metrics import mcd

HELD = 1000  # pairs
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


def score_mcd(
    pairs: Pairs, records: Sequence[int], split: loader.Split, manifest: Mapping[str, Any]
) -> tuple[Score, np.ndarray]:
    """MCD against the captions' own pictures, beside what chance and one constant map score.

    Several processes share the pairs out; all of them have to ask.

    Args:
      pairs: N generated pairs with maps.
      records: Per pair the index in `split` of the picture that its caption is from.
      split: At least 2 pictures.
      manifest: Of its data.

    Returns:
      The score, and the distance of each pair.
    """
    side = pairs.ids(0).shape[0]
    side = side if geometry.MAP_SIZE % side == 0 else geometry.MAP_SIZE

    @functools.cache  # pictures repeat
    def truth(index):
        record = split[index]
        ids = geometry.true_ids(record, side, manifest['void_wins'])
        return mcd.histograms(ids[None])[0], record['captions']

    def distance(i):
        ids = pairs.ids(i)
        ids = ids[geometry.central_square(ids)]  # as the true maps are
        return np.abs(mcd.histograms(ids[None])[0] - truth(records[i])[0]).sum()

    distances = hosts.deal(distance, len(records))
    first = range(min(len(split), _YARDSTICK_PICTURES))
    yardsticks, captions = zip(*map(truth, first), strict=True)
    yardsticks = np.stack(yardsticks)
    metric = report.mcd_metric(
        float(distances.mean()),
        len(records),
        mcd.chance(yardsticks),
        mcd.best_fixed_map(yardsticks),
        mcd.same_caption_floor(yardsticks, captions),
    )
    return Score(metric, len(records), len(first)), distances


def score_reproduction(
    pairs: Pairs,
    records: Sequence[int],
    split: loader.Split,
    manifest: Mapping[str, Any],
    config: ml_collections.ConfigDict,
) -> list[Score]:
    """How closely the first pairs repeat the training pictures whose captions they were drawn from.

    'map_agreement' is the share of map pixels with the true category, void being one of them;
    'latent_correlation' is Pearson's, between the stored latents and those of the image encoded
    again. The floor compares with the next pair's picture, the ceiling is what the autoencoder
    leaves of the true one.
    """
    truth = [split[index] for index in records[:HELD]]
    images = [pairs.image(i) for i in range(len(truth))]
    maps = np.stack([pairs.ids(i) for i in range(len(truth))])
    side, void_wins = maps.shape[1], manifest['void_wins']
    true_maps = np.stack([geometry.true_ids(record, side, void_wins) for record in truth])
    autoencoder = load_autoencoder(manifest['autoencoder']['name'], config.data.autoencoder_weights)
    true_latents = np.stack([geometry.true_latents(record) for record in truth])

    def encode(pictures):
        encoded = autoencoder.encode(np.stack(pictures))
        return np.split(encoded, 2, axis=-1)[0] if autoencoder.has_variance else encoded

    latents, repeated = encode(images), encode(autoencoder.decode(true_latents))

    def correlation(theirs, offset=0):
        pairs = zip(theirs, np.roll(true_latents, offset, axis=0), strict=True)
        return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))

    def agreement(offset=0):
        return float(np.mean(maps == np.roll(true_maps, offset, axis=0)))

    count = len(truth)
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
    pairs: Pairs,
    captions: Sequence[str],
    split: loader.Split,
    manifest: Mapping[str, Any],
    config: ml_collections.ConfigDict,
) -> list[Score]:
    """The scene oracle's scores of the first generated pairs, with ceiling and floor of true ones.

    Prompts that are no scene's caption cannot be read and are left out.
    """
    readable = [i for i, caption in enumerate(captions) if _is_scene_caption(caption)][:HELD]
    if not readable:
        logging.info('No prompt is in the words of scenes, so the scene scores are left out.')
        return []
    values = scene_oracle.score(
        [pairs.image(i) for i in readable],
        [pairs.ids(i) for i in readable],
        [captions[i] for i in readable],
    )
    records = [split[i] for i in range(min(len(split), _ORACLE_PICTURES))]
    name = manifest['autoencoder']['name']
    autoencoder = load_autoencoder(name, config.data.autoencoder_weights)
    decoded = autoencoder.decode(np.stack([geometry.true_latents(record) for record in records]))
    side = pairs.ids(0).shape[0]
    truth = [geometry.true_ids(r, side, manifest['void_wins']) for r in records]
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
