"""Which scores pairs can have against prepared data, and those scores.

`scoring/maps.py` and `scoring/scene_scores.py` compute them, and `scoring/truth.py` finds the
images that pairs belong to. `scoring/images.py` scores images by frozen networks.
"""

from collections.abc import Sequence
from typing import NamedTuple

from panoptic_jax.data import loader
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.encoders.load import Autoencoder
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.metrics import mcd
from panoptic_jax.scoring import maps, scene_scores, segments
from panoptic_jax.scoring.folder import Folder
from panoptic_jax.scoring.score import Score
from panoptic_jax.scoring.truth import Owners


class Truth(NamedTuple):
    """What pairs are compared with.

    Attributes:
      split: Images of prepared data.
      name: The split's name.
      manifest: The data.
      owners: Which of the images each pair belongs to.
    """

    split: loader.Split
    name: str
    manifest: Manifest
    owners: Owners


def needs_autoencoder(folder: Folder, truth: Truth) -> bool:
    """Whether pairs have scores for which true images are decoded."""
    return _repeats(folder, truth) or _are_scenes(folder, truth)


def _repeats(folder: Folder, truth: Truth) -> bool:
    """Whether pairs may repeat training images: own ones, drawn for the captions of those."""
    of_training = folder.is_own and truth.name == 'train'
    return bool(of_training and truth.owners.indices and not _lacking(folder, truth))


def _are_scenes(folder: Folder, truth: Truth) -> bool:
    """Whether the data are scenes and the pairs have captions, which the oracle reads."""
    is_scenes = scene_scores.are_scenes(truth.manifest)
    # Others' pairs may come without captions, and then the oracle has nothing to check.
    captioned = all('caption' in entry for entry in folder.entries)
    return is_scenes and captioned


def _lacking(folder: Folder, truth: Truth) -> str:
    """Why no map can be compared with a true one; '' where all can."""
    if not folder.pairs.has_maps:
        return 'the pairs have no maps'
    if folder.given_map:
        return 'the maps were given'
    if not truth.manifest.stored_map_side:
        return 'the data have no maps'
    if len(truth.split) < 2:
        return 'the split has one image, and its yardsticks need two'
    return truth.owners.lacking


def score_areas(
    folder: Folder,
    truth: Truth,
    *,
    bins: int = mcd.BINS,
    interruption: Interruption = UNINTERRUPTED,
) -> tuple[list[Score], dict[str, list[float]], list[str]]:
    """The MCD; several processes share the pairs, and all of them have to call this function.

    Args:
      folder: Pairs.
      truth: What they are compared with.
      bins: Category ids that are counted, from 0.
      interruption: Asked between pairs.

    Returns:
      The score, if there is one; {its name: its value of each pair}; and its name with the
      reason, if it is left out.
    """
    lacking = _lacking(folder, truth)
    if lacking:
        return [], {}, [f'MCD ({lacking})']
    score, distances = maps.score_mcd(
        folder,
        truth.owners.indices,
        truth.split,
        truth.manifest,
        bins=bins,
        interruption=interruption,
    )
    return [score], {'MCD': [float(distance) for distance in distances]}, []


def score_drawn_maps(folder: Folder, truth: Truth, interruption: Interruption) -> list[Score]:
    """How well maps of given images repeat the true maps; none where no images were given."""
    if not folder.given_image or _lacking(folder, truth):
        return []
    given = (folder.segments, truth.owners.indices, truth.split, truth.manifest)
    scores = segments.score_segments(*given, interruption=interruption)
    return scores + segments.score_pixels(*given, interruption=interruption)


def score_with_autoencoder(
    folder: Folder, truth: Truth, autoencoder: Autoencoder | None, interruption: Interruption
) -> list[Score]:
    """The scores for which true images are decoded; none without the data's autoencoder."""
    scores: list[Score] = []
    if autoencoder is None:
        return scores
    given = {'manifest': truth.manifest, 'autoencoder': autoencoder}
    if _repeats(folder, truth):
        scores += maps.score_reproduction(folder, truth.owners.indices, truth.split, **given)
    interruption.leave_if_asked()
    if _are_scenes(folder, truth):
        captions: Sequence[str] = [entry['caption'] for entry in folder.entries]
        scores += scene_scores.score_scenes(folder, captions, truth.split, **given)
    return scores
