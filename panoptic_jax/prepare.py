"""`--mode=prepare`: pictures, maps and captions of a source become encoded shards.

The shard is the unit of work: a restart repeats unfinished ones only and gives the same bytes, and
several hosts deal them out. Which sources there are is `sources.py`'s.
"""

import io
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import geometry, manifest, shards
from panoptic_jax.data.example import Example
from panoptic_jax.encoders.load import (
    Autoencoder,
    TextEncoder,
    load_autoencoder,
    load_text_encoder,
)
from panoptic_jax.logs.progress import Progress, duration, readable
from panoptic_jax.machine import files, hosts
from panoptic_jax.preparation.shard_records import batch_size, encode_shard
from panoptic_jax.preparation.sources import load_sources

_WORTH_AN_ESTIMATE = 20  # batches
_THREADS = 4  # that decode and resize images while others are encoded


def prepare(config: ml_collections.ConfigDict) -> None:
    """Writes `config.data.dir`; does nothing if it is finished already.

    Of several processes each writes its share of the shards, and the first one the rest.

    Raises:
      FileNotFoundError: input or weights are missing; raised before anything is written.
      ValueError: the folder holds data prepared differently, the input is inconsistent, or the disk
        is too small.
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
        manifest.described(autoencoder, manifest.AUTOENCODER_FIELDS),
        manifest.described(text_encoder, manifest.TEXT_FIELDS),
        data.images_per_shard,
        data.void_wins,
        data.flips,
    )
    process, processes = jax.process_index(), jax.process_count()
    if process:
        hosts.wait_for(lambda: manifest.is_begun(data.dir), f'process 0 to begin {data.dir}')
    if not manifest.begin(data.dir, plan):
        return
    image_features = shards.image_features(
        autoencoder.latent_shape, autoencoder.has_variance, plan['map_size']
    )
    caption_features = shards.caption_features(text_encoder.tokens, text_encoder.features)

    work = [
        (split, index)
        for split, sizes in plan['splits'].items()
        for index in range(len(sizes['image_shards']))
    ]

    # The captions' shard is written first, so an image shard stands for both.
    def missing(some):
        there = files.listed(epath.Path(data.dir) / 'images')
        return [
            (split, i) for split, i in some if _path(data.dir, plan, split, i).name not in there
        ]

    own = work[process::processes]
    remaining = missing(own)
    if len(remaining) < len(own):
        logging.info('%d of %d shards are there already.', len(own) - len(remaining), len(own))
    count = sum(plan['splits'][split]['image_shards'][i] for split, i in remaining)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        if remaining:
            _check_disk(data.dir, plan, count)
            if count >= _WORTH_AN_ESTIMATE * batch_size():
                _estimate(plan, count, sources['train'], autoencoder, text_encoder, pool)
        progress = Progress('prepare', 'images', count)
        for split, index in remaining:
            records = encode_shard(
                sources[split], plan, split, index, autoencoder, text_encoder, pool
            )
            images = []
            path = _path(data.dir, plan, split, index, 'captions')
            shards.write_shard(path, caption_features, _captions(records, images, progress))
            shards.write_shard(_path(data.dir, plan, split, index), image_features, images)

    if process:
        hosts.wait_for(lambda: manifest.is_finished(data.dir), f'process 0 to finish {data.dir}')
        return
    hosts.wait_for(lambda: not missing(work), 'the shards of other processes')
    _finish(data.dir, plan, image_features, caption_features, text_encoder)


def _check_disk(data_dir: str, plan: Mapping[str, Any], count: int) -> None:
    """Says how much of the disk `count` images of each process take.

    Raises:
      ValueError: so much is not free.
    """
    captions = sum(split['captions'] for split in plan['splits'].values())
    captions_per_image = captions / sum(split['images'] for split in plan['splits'].values())
    text_size = 2 * plan['text']['tokens'] * plan['text']['features']
    moments = 2 if plan['autoencoder']['has_variance'] else 1
    image_size = 2 * moments * int(np.prod(plan['autoencoder']['latent_shape']))
    image_size += 2 * plan['map_size'] ** 2 if plan['map_size'] else 0
    needed = count * jax.process_count() * (image_size + captions_per_image * text_size)
    if not files.is_remote(data_dir) and needed > (free := shutil.disk_usage(data_dir).free):
        raise ValueError(
            f'data.dir {str(data_dir)!r} has {free / 1e9:.1f} GB free, and about '
            f'{needed / 1e9:.1f} GB are needed; choose another data.dir.'
        )
    logging.info('%s takes %.1f GB more of disk.', data_dir, needed / 1e9)


def _estimate(
    plan: Mapping[str, Any],
    count: int,
    source: Sequence[Example],
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    pool: futures.Executor,
) -> None:
    """Says how long `count` images take, by reading one batch and encoding it twice.

    Reading and encoding are added, as on a CPU they share its cores; an accelerator is faster.
    """

    def read(i):
        example = source[i]
        return example.captions, geometry.fit(example)[0]

    numbers = range(min(batch_size(), len(source)))
    copies = manifest.copies(plan, 'train')
    start = time.monotonic()
    loaded = [*pool.map(read, numbers)]
    reading = time.monotonic() - start
    pictures = np.stack([picture for _, picture in loaded])
    for _ in range(2):  # the first time includes compilation
        start = time.monotonic()
        for _ in range(copies):
            autoencoder.encode(pictures)
        text_encoder.encode([caption for captions, _ in loaded for caption in captions])
    rate = copies * len(loaded) / (reading + time.monotonic() - start)
    logging.info(
        '%s images: about %s (devices: %d, processes: %d); %s images/s measured on %d images.',
        f'{count:,}', duration(count / rate), jax.local_device_count(), jax.process_count(),
        readable(rate),
        copies * len(loaded),
    )  # fmt: skip


def _captions(
    records: Iterator, images: list[dict[str, Any]], progress: Progress
) -> Iterator[dict[str, Any]]:
    """Streams the captions, which are large, and keeps the images' records for afterwards."""
    for own, captions in records:
        images.extend(own)
        progress.add(len(own))
        yield from captions


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
    empty_text = io.BytesIO()
    np.save(empty_text, text_encoder.encode([''])[0])
    files.write_whole(directory / 'empty_text.npy', empty_text.getvalue())
    manifest.finish(data_dir, plan)
