"""The manifest of a preparation, which is known before its work starts: what it promises.

`data/manifest.py` says what a manifest holds, `preparation/claim.py` writes it into the folder.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from panoptic_jax.data import geometry
from panoptic_jax.data.facts import AutoencoderFacts, CategoryList, TextFacts
from panoptic_jax.data.manifest import VERSION, Manifest, SplitSizes


def make_manifest(
    sources: Mapping[str, Any],
    *,
    autoencoder: AutoencoderFacts,
    text: TextFacts,
    images_per_shard: int,
    void_wins: bool,
    flips: bool,
) -> Manifest:
    """The manifest of a preparation, known before its work starts.

    Args:
      sources: {split: source of examples}, see `preparation/sources.py`.
      autoencoder: Facts of the autoencoder.
      text: Facts of the text encoder.
      images_per_shard: Images of a full shard.
      void_wins: Whether void wins the pooling of maps.
      flips: Whether each training image is stored twice, the second time mirrored.
    """
    # Mirrored copies are for training alone: held-out losses stay comparable.
    splits = {}
    for split, source in sources.items():
        copies = 2 if flips and split == 'train' else 1
        splits[split] = _sizes(source, images_per_shard, copies)
    train = sources['train']
    categories = CategoryList.of_source(train.categories, train.source_ids)
    manifest = Manifest(
        source={split: source.description for split, source in sources.items()},
        images_per_shard=images_per_shard,
        stored_map_side=geometry.STORED_MAP_SIDE if categories.entries else None,
        void_wins=void_wins,
        autoencoder=autoencoder,
        text=text,
        categories=categories,
        splits=splits,
    )
    fingerprint = manifest.to_json()['fingerprint']
    return dataclasses.replace(manifest, fingerprint=fingerprint, version=VERSION)


def _sizes(source: Any, images_per_shard: int, copies: int) -> SplitSizes:
    """Sizes of a split whose images lie `images_per_shard` to a shard, in the source's order."""
    captions = [int(count) for count in source.num_captions]
    image_shards, caption_shards = [], []
    for start in range(0, len(source), images_per_shard):
        images = min(images_per_shard, len(source) - start)
        image_shards.append(copies * images)
        # A mirrored image shares the captions of its original.
        caption_shards.append(sum(captions[start : start + images_per_shard]))
    return SplitSizes(
        images=copies * len(source),
        captions=sum(captions),
        image_shards=tuple(image_shards),
        caption_shards=tuple(caption_shards),
        copies=copies,
    )
