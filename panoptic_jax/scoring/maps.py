"""Scores of generated pairs against the images that their captions belong to.

Pairs are read one at a time. What needs many pairs at once takes the first `HELD`, so that memory
does not grow with their number. The metrics are in `metrics/` and `data/scene_oracle.py`;
`scoring/images.py` scores images by frozen networks.
"""

import functools
from collections.abc import Sequence

import numpy as np
from absl import logging

from panoptic_jax.data import geometry, loader, scene_oracle, scene_words
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.encoders.load import Autoencoder
from panoptic_jax.export import report
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.machine import hosts
from panoptic_jax.metrics import mcd
from panoptic_jax.scoring.score import Score

HELD = 1000  # pairs
_YARDSTICK_IMAGES = 5000  # at most, of the split that the captions are from
_ORACLE_IMAGES = 200  # at most: true images that are decoded for ceiling and floor

_READINGS = {
    'thing_recall_map': 'Captioned shapes that the map shows.',
    'colour_recall_image': 'Captioned colours that the image shows as an area.',
    'stuff_recall_map': 'Captioned backgrounds that the map shows.',
    'stuff_recall_image': 'Captioned backgrounds that the image shows.',
    'image_map_agreement': 'Share of cells where image and map show the same.',
}


def score_mcd(
    pairs: Pairs, indices: Sequence[int], split: loader.Split, manifest: Manifest
) -> tuple[Score, np.ndarray]:
    """MCD against the captions' own images, beside what chance and one constant map score.

    Several processes share the pairs; all of them have to call this function.

    Args:
      pairs: N generated pairs with maps.
      indices: For each pair the index in `split` of the image that its caption belongs to.
      split: At least 2 images.
      manifest: The split's data.

    Returns:
      The score, and the distance of each pair (N,).
    """
    side = pairs.ids(0).shape[0]
    if geometry.STORED_MAP_SIDE % side:
        # Others' maps may have any size; areas are shares, so the stored size compares as well.
        side = geometry.STORED_MAP_SIDE

    @functools.cache  # images repeat
    def truth(index):
        record = split[index]
        ids = geometry.true_ids(record, side, manifest.void_wins)
        return mcd.histograms(ids[None])[0], record['captions']

    def distance(number):
        ids = pairs.ids(number)
        ids = ids[geometry.central_square(ids)]  # the true maps are cropped in the same way
        own, _ = truth(indices[number])
        return np.abs(mcd.histograms(ids[None])[0] - own).sum()

    distances = hosts.deal(distance, len(indices))
    yardstick_count = min(len(split), _YARDSTICK_IMAGES)
    histograms, captions = zip(*map(truth, range(yardstick_count)), strict=True)
    histograms = np.stack(histograms)  # (n, 256)
    metric = report.mcd_metric(
        value=float(distances.mean()),
        count=len(indices),
        chance=mcd.chance(histograms),
        best_fixed_map=mcd.best_fixed_map(histograms),
        same_caption=mcd.same_caption_floor(histograms, captions),
    )
    return Score(metric, len(indices), yardstick_count), distances


def score_reproduction(
    pairs: Pairs,
    indices: Sequence[int],
    split: loader.Split,
    *,
    manifest: Manifest,
    autoencoder: Autoencoder,
) -> list[Score]:
    """How closely the first pairs repeat the training images whose captions they were drawn from.

    'map_agreement' is the share of map pixels with the true category, void being one of them.
    'latent_correlation' is Pearson's, between the stored latents and those of the image encoded
    again. The floor compares with the next pair's image; the ceiling is what the autoencoder
    leaves of the true image.

    Args:
      pairs: Generated pairs with maps.
      indices: For each pair the index in `split` of its training image.
      split: The training images.
      manifest: The split's data.
      autoencoder: The autoencoder that made the stored latents.
    """
    truth = [split[index] for index in indices[:HELD]]
    count = len(truth)
    images = [pairs.image(number) for number in range(count)]
    maps = np.stack([pairs.ids(number) for number in range(count)])
    side = maps.shape[1]
    true_maps = np.stack([geometry.true_ids(r, side, manifest.void_wins) for r in truth])
    true_latents = np.stack([geometry.true_latents(record) for record in truth])

    def encode(images):
        encoded = autoencoder.encode(np.stack(images))
        if not autoencoder.facts.has_variance:
            return encoded
        mean, _ = np.split(encoded, 2, axis=-1)
        return mean

    latents = encode(images)
    repeated = encode(autoencoder.decode(true_latents))

    def correlation(theirs, offset=0):
        ours = np.roll(true_latents, offset, axis=0)
        rows = zip(theirs, ours, strict=True)
        return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in rows]))

    def agreement(offset=0):
        return float(np.mean(maps == np.roll(true_maps, offset, axis=0)))

    detail = f'higher is better, n = {count}'
    metrics = (
        report.Metric(
            name='map_agreement',
            value=agreement(),
            yardsticks={'floor': agreement(offset=1), 'ceiling': 1.0},
            reading='Share of map pixels that have the training picture’s category.',
            detail=detail,
        ),
        report.Metric(
            name='latent_correlation',
            value=correlation(latents),
            yardsticks={
                'floor': correlation(latents, offset=1),
                'ceiling': correlation(repeated),
            },
            reading='How alike the image and the training picture are to the autoencoder.',
            detail=detail,
        ),
    )
    return [Score(metric, count, count) for metric in metrics]


def score_scenes(
    pairs: Pairs,
    captions: Sequence[str],
    split: loader.Split,
    *,
    manifest: Manifest,
    autoencoder: Autoencoder,
) -> list[Score]:
    """The scene oracle's scores of the first generated pairs, with ceiling and floor of true pairs.

    Prompts that are no scene's caption cannot be read and are left out.

    Args:
      pairs: Generated pairs with maps.
      captions: A caption for each pair.
      split: True images.
      manifest: The split's data.
      autoencoder: The autoencoder that made the stored latents.
    """
    readable = [i for i, caption in enumerate(captions) if _is_scene_caption(caption)][:HELD]
    if not readable:
        logging.info('No prompt is in the words of scenes, so the scene scores are left out.')
        return []
    values = scene_oracle.score(
        [pairs.image(number) for number in readable],
        [pairs.ids(number) for number in readable],
        [captions[number] for number in readable],
    )

    # The yardsticks see what a perfect model could give: the true latents, decoded.
    records = [split[index] for index in range(min(len(split), _ORACLE_IMAGES))]
    decoded = autoencoder.decode(np.stack([geometry.true_latents(r) for r in records]))
    side = pairs.ids(0).shape[0]
    true_maps = [geometry.true_ids(record, side, manifest.void_wins) for record in records]
    first_captions = [record['captions'][0] for record in records]
    yardsticks = scene_oracle.yardsticks(decoded, true_maps, first_captions)

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
