"""The records of one shard: images through the geometry and the frozen encoders.

`prepare.py` writes the records and decides which process makes which shard.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np

from panoptic_jax.data import geometry
from panoptic_jax.data.example import Example
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.encoders.load import Encoders

_IMAGES_PER_DEVICE = 8

Record = dict[str, Any]
Maps = tuple[np.ndarray | None, np.ndarray | None]  # category and instance


def batch_size() -> int:
    """Images that this process encodes at a time."""
    return _IMAGES_PER_DEVICE * jax.local_device_count()


def encode_shard(
    source: Any,
    manifest: Manifest,
    split: str,
    *,
    index: int,
    encoders: Encoders,
    pool: futures.Executor,
) -> Iterator[tuple[list[Record], list[Record]]]:
    """The records of one shard, image by image.

    Args:
      source: The split's examples.
      manifest: What is prepared, and how.
      split: 'train' or 'validation'.
      index: Number of the shard.
      encoders: Encode images and captions.
      pool: Reads examples ahead of the encoders.

    Yields:
      For each image its image record, followed by that of its mirror image where the split has
      copies, and its caption records.

    Raises:
      ValueError: an image has another number of captions than the source announced, or an encoder
        gives numbers that are not finite.
    """
    sizes = manifest.splits[split]
    first = sum(sizes.image_shards[:index]) // sizes.copies
    images = range(first, first + sizes.image_shards[index] // sizes.copies)
    next_caption = sum(sizes.caption_shards[:index])

    def read(i: int) -> tuple[Example, np.ndarray, Maps]:
        example = source[i]
        # The shards' sizes follow from the announced numbers, and readers rely on the sizes.
        if len(example.captions) != source.num_captions[i]:
            raise ValueError(
                f'Image {example.image_id} of {split} has {len(example.captions)} captions where '
                f'{source.num_captions[i]} were announced; the source changed meanwhile: restart.'
            )
        image, *maps = geometry.fit(example, void_wins=manifest.void_wins)
        return example, image, tuple(maps)

    kind = 'moments' if manifest.autoencoder.has_variance else 'latents'
    fitted = _ahead(pool, read, images)
    while batch := list(itertools.islice(fitted, batch_size())):
        encoded = _encode_images(encoders, [image for _, image, _ in batch], sizes.copies)
        captions = [caption for example, _, _ in batch for caption in example.captions]
        # All captions of a batch in one call: a text encoder works in blocks of its own.
        texts = iter(encoders.text.encode(captions))
        for row, (example, _, maps) in enumerate(batch):
            # What float16 cannot hold becomes infinite, and is refused below.
            with np.errstate(over='ignore'):
                latents = {kind: [part[row].astype(np.float16) for part in encoded]}
            for part in latents[kind]:
                require_finite(part, kind, f'image {example.image_id} of {split}')
            image_records = _image_records(
                example, maps, latents=latents, first_caption=next_caption
            )
            own_texts = itertools.islice(texts, len(example.captions))
            caption_records = [
                {'text': text, 'caption': caption, 'image_id': example.image_id}
                for text, caption in zip(own_texts, example.captions, strict=True)
            ]
            for record in caption_records:
                what = f'caption {record["caption"]!r} of image {example.image_id} of {split}'
                require_finite(record['text'], 'text features', what)
            yield image_records, caption_records
            next_caption += len(example.captions)


def require_finite(numbers: np.ndarray, kind: str, what: str) -> None:
    """Refuses NaN and infinity, which training would spread into all weights.

    Args:
      numbers: float16, as they are stored.
      kind: 'latents', 'moments' or 'text features'.
      what: What they were made of, in words.

    Raises:
      ValueError: a number is not finite.
    """
    if not np.isfinite(numbers).all():
        encoder, field = (
            ('text encoder', 'data.text_weights')
            if kind == 'text features'
            else ('autoencoder', 'data.autoencoder_weights')
        )
        count = np.count_nonzero(~np.isfinite(numbers))
        raise ValueError(
            f'The {encoder} gives {kind} with {count} of {numbers.size} numbers not finite (or '
            f'beyond float16) for {what}; check its weights ({field}).'
        )


def _encode_images(
    encoders: Encoders, images: Sequence[np.ndarray], copies: int
) -> list[np.ndarray]:
    """Latents or moments (n, h, w, c) of images and, with two copies, of their mirror images."""
    stack = np.stack(images)  # (n, 256, 256, 3)
    encoded = [encoders.autoencoder.encode(stack)]
    if copies == 2:
        # The mirror image is encoded anew: mirrored latents are not the latents of a mirror image.
        encoded.append(encoders.autoencoder.encode(stack[:, :, ::-1]))
    return encoded


def _image_records(
    example: Example, maps: Maps, *, latents: dict[str, list[np.ndarray]], first_caption: int
) -> list[Record]:
    """The record of an image and, where there are two latents, the record of its mirror image.

    Args:
      example: Where the image comes from.
      maps: Its category and instance map (128, 128) uint8, or None for each.
      latents: {'latents' or 'moments': the encoded image and its encoded mirror image, float16}.
      first_caption: Number of its first caption's record.
    """
    category, instance = maps
    ((kind, encoded),) = latents.items()
    records = []
    for own, step in zip(encoded, (1, -1), strict=False):
        record = {
            kind: own,
            'image_id': example.image_id,
            'first_caption': first_caption,
            'num_captions': len(example.captions),
        }
        if category is not None:
            record['category'] = np.ascontiguousarray(category[:, ::step])
            record['instance'] = np.ascontiguousarray(instance[:, ::step])
        records.append(record)
    return records


def _ahead(pool: futures.Executor, function: Callable, items: Sequence) -> Iterator:
    """`map(function, items)` in order, a bounded number of calls ahead of the consumer."""
    pending = []
    for item in items:
        pending.append(pool.submit(function, item))
        # Two batches ahead keep the encoder busy without holding the whole shard.
        if len(pending) > 2 * batch_size():
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()
