"""FID, CLIP score and CMMD of images, from their features.

`scoring/features.py` computes features and keeps them; the metrics are in `metrics/`.
`scoring/maps.py` scores maps.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.export import report
from panoptic_jax.metrics import cmmd, fid
from panoptic_jax.scoring.features import Features
from panoptic_jax.scoring.score import Score

_CMMD_IMAGES = 5000  # at most, of each set


class Reference(NamedTuple):
    """What generated images are compared with.

    Attributes:
      features: Features of real images; None where only their statistics are known.
      provenance: What the images are, JSON-able.
      path: Statistics of the features, .npz: written beside the real images, or a file of others.
    """

    features: Features | None
    provenance: Mapping[str, Any]
    path: epath.Path


def score_images(features: Features, reference: Reference) -> list[Score]:
    """FID, CLIP score and CMMD, where there are networks, captions and real images for them."""
    networks = features.networks
    count, real, scores = features.images.count, reference.features, []
    if networks.inception:
        # Real images are there: their statistics can be made, and CMMD as well.
        if real:
            statistics = reference_statistics(reference.path, real, reference.provenance)
        else:
            statistics, _ = fid.read(reference.path)
        distance = frechet(features, statistics)
        reading = 'Frechet distance to real images by Inception’s features.'
        scores.append(_unscaled('FID', distance, reading, count=count))
    if networks.clip_images and features.images.captions:
        value = mean_clip_score(features)
        reading = 'How well images fit their pictures’ captions, by CLIP: 100 times the cosine.'
        scores.append(_unscaled('CLIP score', value, reading, count=count, better='higher'))
    if networks.clip_images and real:
        value, used = discrepancy(features, real)
        reading = 'Distance to real images by CLIP’s features; settles with fewer images than FID.'
        scores.append(_unscaled('CMMD', value, reading, count=used))
    return scores


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


def reference_statistics(
    path: epath.PathLike, features: Features | None, provenance: Mapping[str, Any]
) -> fid.Statistics:
    """Statistics of real images, read from `path` or computed and, by process 0, left there.

    Args:
      path: A .npz file.
      features: The real images; not looked at where the file fits.
      provenance: What the statistics are made of; a file of other provenance is made anew.
    """
    if epath.Path(path).exists():
        statistics, origin = fid.read(path)
        # A file of other images or another Inception is made anew, not believed.
        if origin == dict(provenance):
            return statistics
    statistics = fid.statistics(features.chunks('inception'))
    if not jax.process_index():
        fid.write(path, statistics, provenance)
    logging.info('Wrote the statistics of %d real images to %s.', statistics.count, path)
    return statistics
