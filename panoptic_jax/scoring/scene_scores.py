"""Scores of pairs of the embedded scenes: what image and map show of their captions.

`data/scene_oracle.py` reads scenes back. `scoring/maps.py` compares maps of any data.
"""

from collections.abc import Sequence

import numpy as np
from absl import logging
from PIL import Image

from panoptic_jax.data import geometry, loader, scene_oracle, scene_segments, scene_words
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.encoders.load import Autoencoder
from panoptic_jax.export import report
from panoptic_jax.machine import ahead
from panoptic_jax.scoring.features import square
from panoptic_jax.scoring.folder import Folder
from panoptic_jax.scoring.maps import HELD
from panoptic_jax.scoring.score import Score
from panoptic_jax.scoring.segments import Segments, scores_of, tally

_ORACLE_IMAGES = 200  # at most: true images that are decoded for ceiling and floor
_LEAST_IMAGES = 3  # which the yardsticks shuffle

_READINGS = {
    'thing_recall_map': 'Captioned shapes that the map shows.',
    'colour_recall_image': 'Captioned colours that the image shows as an area.',
    'shape_recall_image': 'Captioned things whose area in the image has their shape.',
    'stuff_recall_map': 'Captioned backgrounds that the map shows.',
    'stuff_recall_image': 'Captioned backgrounds that the image shows.',
    'image_map_agreement': 'Share of cells where image and map show the same.',
}
_THING_IDS = frozenset(scene_words.THINGS)
# Stands at each figure: the oracle knows colours, and nothing else of an image.
_AGAINST = (
    'The map against its own image, which the oracle reads by colours: the caption says what has '
    'which colour, and other colours are void'
)


def score_scenes(
    pairs: Folder,
    captions: Sequence[str],
    split: loader.Split,
    *,
    manifest: Manifest,
    autoencoder: Autoencoder,
) -> list[Score]:
    """The scene oracle's scores of the first generated pairs, with ceiling and floor of true pairs.

    Prompts that are no scene's caption cannot be read and are left out. Where the pairs have no
    maps, the image's scores are left.

    Args:
      pairs: Generated pairs.
      captions: A caption for each pair.
      split: True images.
      manifest: The split's data.
      autoencoder: The autoencoder that made the stored latents.
    """
    if len(split) < _LEAST_IMAGES:
        logging.info('The split has fewer than 3 images, so the scene scores are left out.')
        return []
    readable = readable_of(captions)[:HELD]
    if not readable:
        logging.info('No prompt is in the words of scenes, so the scene scores are left out.')
        return []
    images = [*map(square, ahead.in_order(pairs.image, readable))]
    own_captions = [captions[number] for number in readable]
    segments: list[Segments] = []
    side = geometry.STORED_MAP_SIDE
    if pairs.pairs.has_maps:
        # Others' pairs may have any size.
        segments = [*map(_fit_to_scenes, ahead.in_order(pairs.segments, readable))]
        maps = [category for category, _ in segments]
        side = len(maps[0])
        values = scene_oracle.score(images, maps, own_captions)
    else:
        values = scene_oracle.means_of(map(scene_oracle.score_image, images, own_captions))

    # The yardsticks see what a perfect model could give: the true latents, decoded.
    records = [split[index] for index in range(min(len(split), _ORACLE_IMAGES))]
    decoded = autoencoder.decode(np.stack([geometry.true_latents(r) for r in records]))
    true_segments = [geometry.true_segments(r, side, manifest.void_wins) for r in records]
    true_maps = [category for category, _ in true_segments]
    first_captions = [record['captions'][0] for record in records]
    yardsticks = yardsticks_of(decoded, true_maps, first_captions)

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
    if not segments:
        return scores
    shown, drawn = _cells(decoded, true_segments, first_captions)
    marks = {
        'floor': tally(shown, [*drawn[1:], drawn[0]], len(drawn), thing_ids=_THING_IDS),
        'ceiling': tally(shown, drawn, len(drawn), thing_ids=_THING_IDS),
    }
    own = tally(*_cells(images, segments, own_captions), len(segments), thing_ids=_THING_IDS)
    return scores + scores_of(own, marks, thing_ids=_THING_IDS, against=_AGAINST, prefix='pair_')


def yardsticks_of(
    images: Sequence[np.ndarray], maps: Sequence[np.ndarray], captions: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What truth and chance score: {'ceiling': scores, 'floor': scores}.

    The ceiling is the score of the true pairs. The floor is the score of each image with the next
    pair's map and the caption of the pair after that.

    Args:
      images: True images after encoding and decoding, (256, 256, 3) uint8 each; at least 3.
      maps: Their true maps, pooled to the side of the model's maps.
      captions: One caption of each image.

    Raises:
      ValueError: there are fewer than 3 pairs.
    """
    if len(images) < 3:
        raise ValueError(f'yardsticks got {len(images)} pairs; shuffling them needs at least 3')
    # Different shifts, so no two of image, map and caption belong together.
    shifted_maps = [*maps[1:], *maps[:1]]
    shifted_captions = [*captions[2:], *captions[:2]]
    return {
        'ceiling': scene_oracle.score(images, maps, captions),
        'floor': scene_oracle.score(images, shifted_maps, shifted_captions),
    }


def readable_of(captions: Sequence[str]) -> list[int]:
    """The numbers of the captions that are in the words of scenes, which the oracle can read."""
    return [number for number, caption in enumerate(captions) if _is_scene_caption(caption)]


def are_scenes(manifest: Manifest) -> bool:
    """Whether data are the embedded scenes."""
    return manifest.source['train'].get('source') == 'scenes'


def _cells(
    images: Sequence[np.ndarray], maps: Sequence[Segments], captions: Sequence[str]
) -> tuple[list[Segments], list[Segments]]:
    """What images show and what their maps show, as segments of the oracle's cells."""
    shown = [scene_segments.of_image(*each) for each in zip(images, captions, strict=True)]
    drawn = [scene_segments.of_map(*segments) for segments in maps]
    return shown, drawn


def _fit_to_scenes(segments: Segments) -> Segments:
    """A map as the oracle reads it: square, its side one of those that models have."""
    category, instance = (each[geometry.central_square(each)] for each in segments)
    if len(category) in (32, 64, geometry.STORED_MAP_SIDE):
        return category, instance
    size = (geometry.STORED_MAP_SIDE, geometry.STORED_MAP_SIDE)

    def resized(ids):
        return np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))

    return resized(category), resized(instance)


def _is_scene_caption(caption: str) -> bool:
    try:
        scene_words.parse(caption)
    except ValueError:
        return False
    return True
