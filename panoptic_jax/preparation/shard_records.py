"""The records of one shard: pictures through the geometry and the frozen encoders.

Writing them, and which process does which shard, is `prepare.py`'s.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np

from panoptic_jax.data import geometry, manifest
from panoptic_jax.data.example import Example
from panoptic_jax.encoders.load import Autoencoder, TextEncoder

_IMAGES_PER_DEVICE = 8


def batch_size() -> int:
    """Images that this process encodes at a time."""
    return _IMAGES_PER_DEVICE * jax.local_device_count()


def encode_shard(
    source: Any,
    plan: Mapping[str, Any],
    split: str,
    index: int,
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    pool: futures.Executor,
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Records of one shard: an image's, with its mirror image's, and its captions'.

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
    copies = manifest.copies(plan, split)
    first = sum(sizes['image_shards'][:index]) // copies
    next_caption = sum(sizes['caption_shards'][:index])
    loaded = _ahead(pool, load, range(first, first + sizes['image_shards'][index] // copies))
    kind = 'moments' if plan['autoencoder']['has_variance'] else 'latents'
    while batch := list(itertools.islice(loaded, batch_size())):
        pictures = np.stack([image for _, (image, _, _) in batch])
        encoded = [autoencoder.encode(pictures)]
        if copies == 2:
            encoded.append(autoencoder.encode(pictures[:, :, ::-1]))
        texts = text_encoder.encode([c for example, _ in batch for c in example.captions])
        ends = np.cumsum([len(example.captions) for example, _ in batch])
        for row, (example, (_, *maps)) in enumerate(batch):
            images = []
            for latents, step in zip(encoded, (1, -1), strict=False):
                record = {
                    kind: latents[row].astype(np.float16),
                    'image_id': example.image_id,
                    'first_caption': next_caption,
                    'num_captions': len(example.captions),
                }
                if example.category is not None:
                    flipped = [np.ascontiguousarray(ids[:, ::step]) for ids in maps]
                    record |= dict(zip(('category', 'instance'), flipped, strict=True))
                images.append(record)
            own = texts[ends[row] - len(example.captions) : ends[row]]
            yield (
                images,
                [
                    {'text': text, 'caption': caption, 'image_id': example.image_id}
                    for text, caption in zip(own, example.captions, strict=True)
                ],
            )
            next_caption += len(example.captions)


def _ahead(pool: futures.Executor, function: Callable, items: Sequence) -> Iterator:
    """`map(function, items)` in order, a bounded number of calls ahead of the consumer."""
    pending = []
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > 2 * batch_size():
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()
