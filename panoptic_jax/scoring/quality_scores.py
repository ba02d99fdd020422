"""Scores of each pair by itself, as rows beside those of whole sets: void, crumbs, captioned words.

`quality/` computes them and writes its own two files, which say more than the rows: the scores of
every pair, and what the set holds beside the true maps.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from panoptic_jax.data import geometry
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.export import report
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.quality import folder as scored
from panoptic_jax.quality import scores
from panoptic_jax.quality.training import Training
from panoptic_jax.scoring.against_truth import Truth
from panoptic_jax.scoring.folder import Folder
from panoptic_jax.scoring.scene_scores import are_scenes
from panoptic_jax.scoring.score import Score

_REFERENCE_IMAGES = 5000  # at most, as for the yardsticks of the MCD

# {score: its name as a row, and how to read it}
_ROWS = {
    'void': ('void_share', 'Share of the maps that has no category.'),
    'crumbs': ('crumb_share', 'Share of the maps in areas of less than 0.5 % of a map.'),
    'captioned': ('captioned_share', 'Share of what a caption names that its map shows.'),
    'things': ('things_per_image', 'Things that a map holds.'),
}


def measures_of(manifest: Manifest, synonyms: str) -> scores.Measures:
    """What pairs are scored with; `synonyms` is a user's file, see `words.read`, or ''.

    Raises:
      FileNotFoundError, ValueError: the errors of `words.read`.
    """
    categories = manifest.categories.entries
    return scores.measures_of(categories, is_scenes=are_scenes(manifest), synonyms=synonyms)


def score_quality(
    pairs: Folder,
    truth: Truth,
    workdir: epath.Path,
    *,
    measures: scores.Measures,
    images: Training | None = None,
    interruption: Interruption = UNINTERRUPTED,
) -> list[Score]:
    """Scores every pair, writes scores.jsonl and quality.json, and gives the means as rows.

    Args:
      pairs: Generated pairs.
      truth: The data, whose maps stand beside.
      workdir: Where the files go; the folder's suffix keeps those of several folders apart.
      measures: From `measures_of`.
      images: Training images that copies are looked for among; None for none.
      interruption: Asked between pairs.

    Returns:
      Rows; none for pairs without maps of their own, or data without maps.

    Raises:
      Interrupted: SIGTERM came; nothing is written then.
    """
    manifest = truth.manifest
    if not pairs.pairs.has_maps or pairs.given_map or not manifest.stored_map_side:
        return []
    side = pairs.ids(0).shape[0]
    if geometry.STORED_MAP_SIDE % side:
        side = geometry.STORED_MAP_SIDE
    size = (geometry.IMAGE_SIDE, geometry.IMAGE_SIDE)
    reference = scored.summary_of(_true_maps(truth, side), measures, size)
    content = scored.score_folder(
        pairs,
        workdir,
        measures,
        suffix=pairs.suffix,
        beside=scored.Beside(reference, images),
        interruption=interruption,
    )
    return _rows(content)


def _true_maps(truth: Truth, side: int) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Maps at the side of the generated ones, with the first caption of each."""
    for index in range(min(len(truth.split), _REFERENCE_IMAGES)):
        record = truth.split[index]
        category, instance = geometry.true_segments(record, side, truth.manifest.void_wins)
        yield category, instance, record['captions'][0]


def _rows(content: dict[str, Any]) -> list[Score]:
    """The means of the pairs beside those of true maps."""
    count, real = content['pairs'], content['reference']
    rows = []
    for name, (row, reading) in _ROWS.items():
        own, true = content['scores'][name], real['scores'][name]
        if not (own['measured'] and true['measured']):
            continue
        value, mark = own['mean'], true['mean']
        metric = report.Metric(
            name=row,
            value=value,
            yardsticks={'true maps': mark},
            reading=reading,
            # Numbers of things have no upper end of their own.
            high=max(1.0, 1.2 * value, 1.2 * mark),
            detail=f'as the true maps is best, n = {own["measured"]}',
        )
        rows.append(Score(metric, own['measured'], true['measured']))
    metric = report.Metric(
        name='category_distance',
        value=content['distances']['pixels'],
        yardsticks={},
        reading='How differently pairs and true maps share the pixels among categories.',
        detail=f'lower is better, n = {count}',
    )
    rows.append(Score(metric, count, real['pairs']))
    if 'nearest' in content:
        found = content['nearest']
        metric = report.Metric(
            name='near_copies',
            value=found['near_copies'] / count,
            yardsticks={'training images': found['share']},
            reading='Pairs that are nearly copies of a training image, which may be mirrored.',
            detail=f'0 is best, n = {count}',
        )
        rows.append(Score(metric, count, found['measured']))
    return rows
