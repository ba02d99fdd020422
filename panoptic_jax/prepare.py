"""`--mode=prepare`: a COCO-panoptic folder or the embedded scenes become encoded shards.

The shard is the unit of work: a restart repeats unfinished ones only and gives the same bytes.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import coco, geometry, manifest, scenes, shards
from panoptic_jax.data.example import Example
from panoptic_jax.encoders.load import (
    Autoencoder,
    TextEncoder,
    load_autoencoder,
    load_text_encoder,
)
from panoptic_jax.progress import Progress

_ENCODE_BATCH = 8  # images
_THREADS = 4  # that decode and resize images while others are encoded


def prepare(config: ml_collections.ConfigDict) -> None:
    """Writes `config.data.dir`; does nothing if it is finished already.

    Raises:
      FileNotFoundError: input or weights are missing; raised before anything is written.
      ValueError: the folder holds data prepared differently, or the input is inconsistent.
    """
    data = config.data
    sources, source_ids = load_sources(data)
    autoencoder = load_autoencoder(data.autoencoder, data.autoencoder_weights)
    text_encoder = load_text_encoder(
        data.text, data.text_tokens, data.text_features, data.text_weights
    )
    plan = manifest.make_plan(
        sources,
        source_ids,
        _described(autoencoder, 'name', 'latent_shape', 'scale', 'has_variance', 'sha256'),
        _described(text_encoder, 'name', 'tokens', 'features', 'sha256'),
        data.images_per_shard,
        data.void_wins,
    )
    if not manifest.begin(data.dir, plan):
        return
    image_features = shards.image_features(
        autoencoder.latent_shape, autoencoder.has_variance, geometry.MAP_SIZE
    )
    caption_features = shards.caption_features(text_encoder.tokens, text_encoder.features)

    work = [
        (split, index)
        for split, sizes in plan['splits'].items()
        for index in range(len(sizes['image_shards']))
    ]
    # The captions' shard is written first, so an image shard stands for both.
    remaining = [(split, i) for split, i in work if not _path(data.dir, plan, split, i).exists()]
    if len(remaining) < len(work):
        logging.info('%d of %d shards are there already.', len(work) - len(remaining), len(work))
    progress = Progress(
        'prepare', 'images', sum(plan['splits'][split]['image_shards'][i] for split, i in remaining)
    )
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        for split, index in remaining:
            records = encode_shard(
                sources[split], plan, split, index, autoencoder, text_encoder, pool
            )
            images = []
            path = _path(data.dir, plan, split, index, 'captions')
            shards.write_shard(path, caption_features, _captions(progress.of(records), images))
            shards.write_shard(_path(data.dir, plan, split, index), image_features, images)

    _finish(data.dir, plan, image_features, caption_features, text_encoder)


def load_sources(data: ml_collections.ConfigDict) -> tuple[dict[str, Any], dict[int, int]]:
    """The sources that config.data names.

    Returns:
      {'train': source, 'validation': source} (the latter if there is one), and {our category id:
      the source's own id}.

    Raises:
      FileNotFoundError, ValueError: from the completeness check, or an unknown `data.source`.
    """
    if data.source == 'coco':
        sources = {'train': coco.CocoPanoptic(data.root, data.train_split, data.train_images)}
        if data.validation_split:
            sources['validation'] = coco.CocoPanoptic(
                data.root, data.validation_split, data.validation_images
            )
        source_ids = sources['train'].source_ids
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
        raise ValueError(f"data.source is {data.source!r}; it must be 'coco' or 'scenes'.")
    for name, source in sources.items():
        if source.categories != sources['train'].categories:
            raise ValueError(
                f'The {name} split has other categories than the train split; both panoptic JSONs '
                'must have the same category list.'
            )
    return sources, source_ids


def encode_shard(
    source: Any,
    plan: Mapping[str, Any],
    split: str,
    index: int,
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    pool: futures.Executor,
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Records of one shard: an image's record and those of its captions, image by image.

    Args:
      source: The split's examples.
      plan: From `manifest.make_plan`.
      split: 'train' or 'validation'.
      index: Which shard.
      autoencoder: Encodes the pictures.
      text_encoder: Encodes the captions.
      pool: Runs `source[i]` and the geometry ahead of the encoder.

    Raises:
      ValueError: an image has another number of captions than the plan says.
    """

    def load(i: int) -> tuple[Example, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        example = source[i]
        if len(example.captions) != source.num_captions[i]:
            raise ValueError(
                f'Image {example.image_id} of {split} has {len(example.captions)} captions where '
                f'{source.num_captions[i]} were announced; the source changed meanwhile: restart.'
            )
        return example, geometry.fit(example, plan['void_wins'])

    sizes = plan['splits'][split]
    first = sum(sizes['image_shards'][:index])
    next_caption = sum(sizes['caption_shards'][:index])
    loaded = _ahead(pool, load, range(first, first + sizes['image_shards'][index]))
    while batch := list(itertools.islice(loaded, _ENCODE_BATCH)):
        latents = autoencoder.encode(np.stack([image for _, (image, _, _) in batch]))
        for (example, (_, category, instance)), latent in zip(
            batch, latents.astype(np.float16), strict=True
        ):
            image_record = {
                'moments' if plan['autoencoder']['has_variance'] else 'latents': latent,
                'category': category,
                'instance': instance,
                'image_id': example.image_id,
                'first_caption': next_caption,
                'num_captions': len(example.captions),
            }
            texts = text_encoder.encode(example.captions)
            yield (
                image_record,
                [
                    {'text': text, 'caption': caption, 'image_id': example.image_id}
                    for text, caption in zip(texts, example.captions, strict=True)
                ],
            )
            next_caption += len(example.captions)


def _captions(records: Iterator, images: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Streams the captions, which are large, and keeps the images' records for afterwards."""
    for image, captions in records:
        images.append(image)
        yield from captions


def _ahead(pool: futures.Executor, function: Callable, items: Sequence) -> Iterator:
    """`map(function, items)` in order, a bounded number of calls ahead of the consumer."""
    pending = []
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > 2 * _ENCODE_BATCH:
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()


def _described(encoder: Autoencoder | TextEncoder, *fields: str) -> dict[str, Any]:
    return {field: getattr(encoder, field) for field in fields}


def _path(
    data_dir: str, plan: Mapping[str, Any], split: str, index: int, dataset: str = 'images'
) -> epath.Path:
    count = len(plan['splits'][split]['image_shards'])
    return shards.shard_path(data_dir, dataset, split, index, count)


def _finish(
    data_dir: str,
    plan: Mapping[str, Any],
    image_features: Any,
    caption_features: Any,
    text_encoder: TextEncoder,
) -> None:
    directory = epath.Path(data_dir)
    for dataset, features in (('images', image_features), ('captions', caption_features)):
        lengths = {
            split: sizes[f'{dataset[:-1]}_shards'] for split, sizes in plan['splits'].items()
        }
        description = f'{dataset.capitalize()} prepared by panoptic_jax; see ../manifest.json.'
        shards.write_metadata(data_dir, dataset, features, lengths, description)
    with (directory / 'empty_text.npy').open('wb') as file:
        np.save(file, text_encoder.encode([''])[0])
    manifest.finish(data_dir, plan)
