"""Scores of generated pairs against the images that their captions belong to.

Pairs are read one at a time. What needs many pairs at once takes the first `HELD`, so that memory
does not grow with their number. The metrics are in `metrics/`. `scoring/scene_scores.py` scores
pairs of scenes, and `scoring/images.py` images by frozen networks.
"""

import contextlib
import functools
from collections.abc import Sequence

import numpy as np

from panoptic_jax.data import geometry, loader
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.encoders.load import Autoencoder
from panoptic_jax.export import report
from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import ahead, hosts
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.machine.work_folder import own_share
from panoptic_jax.metrics import mcd
from panoptic_jax.scoring.folder import Folder
from panoptic_jax.scoring.score import Score

HELD = 1000  # pairs
_YARDSTICK_IMAGES = 5000  # at most, of the split that the captions are from


def score_mcd(
    pairs: Folder,
    indices: Sequence[int],
    split: loader.Split,
    manifest: Manifest,
    *,
    bins: int = mcd.BINS,
    interruption: Interruption = UNINTERRUPTED,
) -> tuple[Score, np.ndarray]:
    """MCD against the captions' own images, beside what chance and one constant map score.

    Several processes share the pairs; all of them have to call this function.

    Args:
      pairs: N generated pairs with maps.
      indices: For each pair the index in `split` of the image that its caption belongs to.
      split: At least 2 images.
      manifest: The split's data.
      bins: Category ids that are counted, from 0; the metric's name says it where not all are.
      interruption: Asked between pairs.

    Returns:
      The score, and the distance of each pair (N,).

    Raises:
      Interrupted: SIGTERM came.
    """
    side = pairs.ids(0).shape[0]
    if geometry.STORED_MAP_SIDE % side:
        # Others' maps may have any size; areas are shares, so the stored size compares as well.
        side = geometry.STORED_MAP_SIDE

    @functools.cache  # images repeat
    def truth(index):
        record = split[index]
        ids = geometry.true_ids(record, side, manifest.void_wins)
        return mcd.histograms(ids[None], bins)[0], record['captions']

    own_numbers = own_share(range(len(indices)))
    progress = Progress('evaluate', 'maps', len(own_numbers))
    # `deal` asks for this process's share in its order.
    drawn = ahead.in_order(pairs.ids, own_numbers)

    def distance(number):
        interruption.leave_if_asked()
        ids = next(drawn) if number in own_numbers else pairs.ids(number)
        ids = ids[geometry.central_square(ids)]  # the true maps are cropped in the same way
        own, _ = truth(indices[number])
        progress.add()
        return np.abs(mcd.histograms(ids[None], bins)[0] - own).sum()

    with contextlib.closing(drawn):
        distances = hosts.deal(distance, len(indices))
    yardstick_count = min(len(split), _YARDSTICK_IMAGES)
    histograms, captions = zip(*map(truth, range(yardstick_count)), strict=True)
    histograms = np.stack(histograms)  # (n, bins)
    metric = report.mcd_metric(
        value=float(distances.mean()),
        count=len(indices),
        chance=mcd.chance(histograms),
        best_fixed_map=mcd.best_fixed_map(histograms),
        same_caption=mcd.same_caption_floor(histograms, captions),
    )
    if bins != mcd.BINS:
        # Numbers of other bins cannot be compared, and so they have another name.
        metric = metric._replace(name=f'MCD of {bins} ids')
    return Score(metric, len(indices), yardstick_count), distances


def score_reproduction(
    pairs: Folder,
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
    images = [*ahead.in_order(pairs.image, range(count))]
    maps = np.stack([*ahead.in_order(pairs.ids, range(count))])
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
        return float(np.mean([_correlation(a.ravel(), b.ravel()) for a, b in rows]))

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


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of two vectors; 0 where one is constant, as a black picture's latents.

    Nothing can be told from a constant, while the formula would divide by zero.
    """
    if min(np.ptp(one), np.ptp(other)) == 0:
        return 0.0
    return np.corrcoef(one, other)[0, 1]
