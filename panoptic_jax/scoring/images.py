"""FID, CLIP score and CMMD of images, from their features.

`scoring/features.py` computes features and keeps them, `scoring/reference.py` knows the real
images, and the metrics are in `metrics/`. `scoring/maps.py` scores maps.
"""

import numpy as np
from absl import logging

from panoptic_jax.export import report
from panoptic_jax.metrics import cmmd, fid
from panoptic_jax.scoring.features import Features
from panoptic_jax.scoring.reference import Reference, statistics_of
from panoptic_jax.scoring.score import Score

_CMMD_IMAGES = 5000  # at most, of each set


def score_images(features: Features, reference: Reference) -> tuple[list[Score], list[str]]:
    """FID, CLIP score and CMMD, where there are networks, captions and real images for them.

    Returns:
      The scores, and for each score that is left out its name with the reason.
    """
    networks, real = features.networks, reference.features
    count, scores, left_out = features.images.count, [], []
    if networks.inception:
        distance = frechet(features, statistics_of(reference))
        reading = 'Frechet distance to real images by Inception’s features.'
        scores.append(_unscaled('FID', distance, reading, count=count))
    if networks.clip_images and features.images.captions:
        value = mean_clip_score(features)
        reading = 'How well images fit their pictures’ captions, by CLIP: 100 times the cosine.'
        scores.append(_unscaled('CLIP score', value, reading, count=count, better='higher'))
    elif networks.clip_images:
        left_out.append('CLIP score (not all pairs have a caption in captions.json)')
    if networks.clip_images and real:
        value, used = discrepancy(features, real)
        reading = 'Distance to real images by CLIP’s features; settles with fewer images than FID.'
        scores.append(_unscaled('CMMD', value, reading, count=used))
    elif networks.clip_images:
        left_out.append('CMMD (evaluate.reference names statistics, and CMMD needs the images)')
    return scores, left_out


def _unscaled(name: str, value: float, reading: str, *, count: int, better: str = 'lower') -> Score:
    """A score without yardsticks, drawn from 0 to 100 or as far as it goes."""
    metric = report.Metric(
        name=name,
        value=value,
        yardsticks={},
        reading=reading,
        high=max(100.0, value),
        detail=f'{better} is better, {count:,} images',
    )
    return Score(metric, count, count)


def frechet(features: Features, reference: fid.Statistics) -> float:
    """FID of images against statistics; warns where the images are few."""
    statistics = fid.statistics(features.chunks('inception'))
    # With fewer images than features the covariance is singular and the distance too large.
    if statistics.count < fid.FULL_RANK:
        logging.warning(
            'FID of %d images is biased upwards; it takes %d or more, the paper 30,000.',
            statistics.count, fid.FULL_RANK,
        )  # fmt: skip
    return fid.frechet_distance(statistics, reference)


def mean_clip_score(features: Features) -> float:
    """The mean of `metrics/clip_score.py` over all images."""
    return float(np.concatenate([*features.chunks('clip_score')]).mean())


def discrepancy(features: Features, reference: Features) -> tuple[float, int]:
    """CMMD of the first images of two sets, and the number of images from the first set."""
    ours, theirs = (
        np.concatenate([*each.chunks('clip', _CMMD_IMAGES)]) for each in (features, reference)
    )
    return cmmd.cmmd(ours, theirs), len(ours)
