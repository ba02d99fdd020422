"""Which data set is prepared. The sources themselves are in `data/`."""

import dataclasses
from typing import Any

from panoptic_jax.data import coco, folder, scenes


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """The fields of `config.data` that name a data set; `config.py` explains them."""

    source: str
    root: str
    train_split: str
    validation_split: str
    categories: str
    captions: str
    train_images: int
    validation_images: int
    scene_seed: int


def open_sources(settings: SourceSettings) -> dict[str, Any]:
    """The sources by split: 'train', and 'validation' where the settings name one.

    A source is a sequence of `Example`s with `categories`, `source_ids` ({our category id: the
    source's own}), `num_captions` and `description`.

    Raises:
      FileNotFoundError, ValueError: an incomplete data set, or an unknown `source`.
    """
    if settings.source == 'scenes':
        sources = _scenes(settings)
    elif settings.source in ('coco', 'folder'):
        limits = {'train': (settings.train_split, settings.train_images)}
        if settings.validation_split:
            limits['validation'] = settings.validation_split, settings.validation_images
        sources = {
            name: _open_split(settings, split, limit) for name, (split, limit) in limits.items()
        }
    else:
        raise ValueError(
            f"data.source is {settings.source!r}; it must be 'coco', 'folder' or 'scenes'."
        )
    # One manifest serves both splits, so ids must mean the same in both.
    for name, source in sources.items():
        if source.categories != sources['train'].categories:
            raise ValueError(
                f'The {name} split has other categories than the train split; both panoptic JSONs '
                'must have the same category list.'
            )
    return sources


def _open_split(settings: SourceSettings, split: str, limit: int) -> Any:
    """The first `limit` images of a split on disk; 0: all of them."""
    # Captioned images have no maps and no category list.
    if settings.source == 'folder':
        return folder.CaptionedFolder(settings.root, split, limit)
    return coco.CocoPanoptic(
        settings.root,
        split,
        limit=limit,
        categories=settings.categories,
        captions=settings.captions,
    )


def _scenes(settings: SourceSettings) -> dict[str, Any]:
    """Scenes are drawn, so their number has to be named."""
    if settings.train_images < 1:
        raise ValueError(
            f'data.train_images is {settings.train_images}; with data.source scenes it must be at '
            'least 1: the number of scenes to draw.'
        )
    sources = {'train': scenes.Scenes(settings.scene_seed, settings.train_images, 'train')}
    if settings.validation_images:
        sources['validation'] = scenes.Scenes(
            settings.scene_seed, settings.validation_images, 'validation'
        )
    return sources
