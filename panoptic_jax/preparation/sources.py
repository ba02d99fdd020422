"""Which data set `config.data` names. The sources themselves are in `data/`."""

from typing import Any

import ml_collections

from panoptic_jax.data import coco, folder, scenes


def load_sources(data: ml_collections.ConfigDict) -> tuple[dict[str, Any], dict[int, int]]:
    """The sources that config.data names.

    A source is a sequence of `Example`s with `categories`, `num_captions` and `description`.

    Returns:
      {'train': source, 'validation': source} (the latter if there is one), and {our category id:
      the source's own id}.

    Raises:
      FileNotFoundError, ValueError: from the completeness check, or an unknown `data.source`.
    """
    splits = {'train': (data.train_split, data.train_images)}
    if data.validation_split:
        splits['validation'] = data.validation_split, data.validation_images
    if data.source == 'coco':
        sources = {
            name: coco.CocoPanoptic(data.root, split, limit, data.categories, data.captions)
            for name, (split, limit) in splits.items()
        }
        source_ids = sources['train'].source_ids
    elif data.source == 'folder':
        sources = {
            name: folder.CaptionedFolder(data.root, split, limit)
            for name, (split, limit) in splits.items()
        }
        source_ids = {}
    elif data.source == 'scenes':
        if data.train_images < 1:
            raise ValueError(
                f'data.train_images is {data.train_images}; with data.source scenes it must be at '
                'least 1: the number of scenes to draw.'
            )
        sources = {'train': scenes.Scenes(data.scene_seed, data.train_images, 'train')}
        if data.validation_images:
            sources['validation'] = scenes.Scenes(
                data.scene_seed, data.validation_images, 'validation'
            )
        source_ids = {category.id: category.id for category in sources['train'].categories}
    else:
        raise ValueError(
            f"data.source is {data.source!r}; it must be 'coco', 'folder' or 'scenes'."
        )
    for name, source in sources.items():
        if source.categories != sources['train'].categories:
            raise ValueError(
                f'The {name} split has other categories than the train split; both panoptic JSONs '
                'must have the same category list.'
            )
    return sources, source_ids
