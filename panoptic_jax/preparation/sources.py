"""Which data set is prepared. The sources themselves are in `data/`."""

import dataclasses
from typing import Any

from absl import logging

from panoptic_jax.data import coco, folder, scenes, tfds_folders, tfds_panoptic


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """The fields of `config.data` that name a data set; `config.py` explains them."""

    source: str
    tfds_name: str
    root: str
    train_split: str
    validation_split: str
    categories: str
    captions: str
    void_wins: bool
    train_images: int
    validation_images: int
    scene_seed: int
    repeats: bool = False


def open_sources(settings: SourceSettings) -> dict[str, Any]:
    """The sources by split: 'train', and 'validation' where the settings name one.

    A source is a sequence of `Example`s with `categories`, `source_ids` ({our category id: the
    source's own}), `num_captions` and `description`. Those on disk also have `available`.

    Raises:
      FileNotFoundError, ValueError: an incomplete data set, or an unknown `source`.
    """
    if settings.source == 'scenes':
        sources = _scenes(settings)
    elif settings.source in ('coco', 'tfds', 'folder'):
        sources = _splits_on_disk(settings)
    else:
        raise ValueError(
            f"data.source is {settings.source!r}; it must be 'coco', 'tfds', 'folder' or 'scenes'."
        )
    # One manifest serves both splits, so ids must mean the same in both.
    for name, source in sources.items():
        if source.categories != sources['train'].categories:
            raise ValueError(
                f'The {name} split has other categories than the train split; both panoptic JSONs '
                'must have the same category list.'
            )
        if source.source_ids != sources['train'].source_ids:
            raise ValueError(
                f'The {name} split numbers its categories in another way than the train split; '
                'both panoptic JSONs must have the same category list.'
            )
    return sources


def _splits_on_disk(settings: SourceSettings) -> dict[str, Any]:
    """The train split and, where there is one, a validation split in proportion to it."""
    train = _open_split(settings, settings.train_split, settings.train_images)
    if not settings.validation_split:
        return {'train': train}
    limit, is_share = settings.validation_images, False
    # A try with a hundredth of the images should not encode all of the validation split first.
    if settings.train_images and not limit and len(train) < train.available:
        limit, is_share = len(train) / train.available, True
    validation = _open_split(settings, settings.validation_split, limit)
    if is_share:
        logging.info(
            'data.train_images takes %d of %d images, and in proportion the validation split holds '
            '%d of %d; data.validation_images sets another number.',
            len(train), train.available, len(validation), validation.available,
        )  # fmt: skip
    return {'train': train, 'validation': validation}


def _open_split(settings: SourceSettings, split: str, limit: float) -> Any:
    """The first images of a split on disk, so many as `taken` says of the limit."""
    # Captioned images have no maps and no category list.
    if settings.source == 'folder':
        return folder.CaptionedFolder(settings.root, split, limit)
    options = {
        'limit': limit,
        'categories': settings.categories,
        'captions': settings.captions,
        'void_wins': settings.void_wins,
    }
    if settings.source == 'tfds':
        data_set = tfds_folders.DataSet(settings.root, settings.tfds_name)
        return tfds_panoptic.TfdsPanoptic(data_set, split, **options)
    return coco.CocoPanoptic(settings.root, split, **options)


def _scenes(settings: SourceSettings) -> dict[str, Any]:
    """Scenes are drawn, so their number has to be named."""
    if settings.train_images < 1:
        raise ValueError(
            f'data.train_images is {settings.train_images}; with data.source scenes it must be at '
            'least 1: the number of scenes to draw.'
        )
    counts = {'train': settings.train_images}
    if settings.validation_images:
        counts['validation'] = settings.validation_images
    return {
        split: scenes.Scenes(settings.scene_seed, count, split, repeats=settings.repeats)
        for split, count in counts.items()
    }
