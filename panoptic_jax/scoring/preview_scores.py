"""Scores of a preview's pairs that need no network, so that they can be taken during training.

They have the names of evaluation's scores behind `preview/`. `metrics/mcd.py` and
`data/scene_oracle.py` compute them for both; `scoring/preview.py` draws the pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from panoptic_jax.data import geometry, loader, scene_oracle
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.metrics import mcd
from panoptic_jax.programs.description import Description
from panoptic_jax.scoring.scene_scores import are_scenes, readable_of

MCD, NORMALISED_MCD = 'preview/mcd', 'preview/mcd_normalised'
AGREEMENT = 'preview/image_map_agreement'

_YARDSTICK_IMAGES = 1000  # at most, read once when training starts


class Yardsticks(NamedTuple):
    """What the MCD is read beside, see `metrics/mcd.py`."""

    chance: float
    same_caption: float | None


class Truth(NamedTuple):
    """What a preview's pairs are compared with.

    Attributes:
      captions: One for each pair.
      maps: (n, h, w) uint8 true maps; None for a model without maps.
      compares_maps: Whether the pairs' maps are generated, so that they can be wrong.
      yardsticks: The split's; None where there are no maps to compare.
      is_scenes: Whether the captions are of the embedded scenes.
    """

    captions: Sequence[str]
    maps: np.ndarray | None
    compares_maps: bool
    yardsticks: Yardsticks | None
    is_scenes: bool


def names_of(description: Description, manifest: Manifest) -> list[str]:
    """Scores that previews of a model have, among those that a best step can be chosen by."""
    names = [MCD] if description.predicts_map else []
    return names + ([AGREEMENT] if description.has_map and are_scenes(manifest) else [])


def yardsticks_of(split: loader.Split, *, side: int, void_wins: bool) -> Yardsticks | None:
    """Yardsticks from the true maps of a split's first images; None for a single image.

    Args:
      split: Images with maps.
      side: Side of the model's map in pixels.
      void_wins: The pooling that the data were prepared with.
    """
    if len(split) < 2:
        return None
    histograms, captions = [], []
    for number in range(min(len(split), _YARDSTICK_IMAGES)):
        record = split[number]
        ids = geometry.true_ids(record, side, void_wins)
        histograms.append(mcd.histograms(ids[None])[0])
        captions.append(record['captions'])
    histograms = np.stack(histograms)  # (n, bins)
    return Yardsticks(mcd.chance(histograms), mcd.same_caption_floor(histograms, captions))


def score(images: np.ndarray, ids: np.ndarray, truth: Truth) -> dict[str, float | None]:
    """The scores of pairs with maps.

    Args:
      images: (n, 256, 256, 3) uint8.
      ids: (n, h, w) uint8 category ids.
      truth: What they are compared with.

    Returns:
      'preview/mcd' and 'preview/mcd_normalised' where maps are generated, and for scenes the
      recalls and the agreement of `scene_oracle.score`. None stands for a score without yardsticks.
    """
    scores: dict[str, float | None] = {}
    if truth.compares_maps:
        value = float(mcd.mcd(ids, truth.maps).mean())
        marks = truth.yardsticks
        scores[MCD] = value
        scores[NORMALISED_MCD] = marks and mcd.normalised(
            value, chance=marks.chance, floor=marks.same_caption
        )
    readable = readable_of(truth.captions) if truth.is_scenes else []
    if readable:
        read = scene_oracle.score(
            [images[number] for number in readable],
            [ids[number] for number in readable],
            [truth.captions[number] for number in readable],
        )
        scores |= {f'preview/{name}': value for name, value in read.items()}
    return scores
