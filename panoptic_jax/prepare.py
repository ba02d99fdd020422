"""`--mode=prepare`: images, maps and captions of a source become encoded shards.

The shard is the unit of work. A restart repeats unfinished shards only and gives the same bytes;
several processes share the shards. `preparation/sources.py` says which sources there are.
"""

import io
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax import config as settings
from panoptic_jax.data import geometry, shards
from panoptic_jax.data.example import Example
from panoptic_jax.data.manifest import Manifest, make_manifest
from panoptic_jax.encoders.load import Encoders, load_autoencoder, load_text_encoder
from panoptic_jax.logs.progress import Progress, duration, readable
from panoptic_jax.machine import files
from panoptic_jax.machine.work_folder import own_share
from panoptic_jax.preparation import claim
from panoptic_jax.preparation.shard_records import Record, batch_size, encode_shard
from panoptic_jax.preparation.sources import SourceSettings, open_sources

_WORTH_AN_ESTIMATE = 20  # batches
_THREADS = 4  # that decode and resize images while others are encoded
_FLOAT16, _UINT8 = 2, 1  # bytes


def prepare(
    config: ml_collections.ConfigDict,
    *,
    devices: Sequence[jax.Device] | None = None,
    worth_an_estimate: int = _WORTH_AN_ESTIMATE,
) -> None:
    """Writes `config.data.dir`; does nothing if it is finished already.

    Each process of a job writes its share of the shards, and the first one the rest.

    Args:
      config: Checked.
      devices: What this process encodes on; None for all its devices.
      worth_an_estimate: Batches from which on the log says beforehand how long all will take.

    Raises:
      FileNotFoundError: input or weights are missing; raised before anything is written.
      ValueError: the folder holds data prepared differently, the input is inconsistent, or the disk
        is too small.
    """
    data = config.data
    sources = open_sources(SourceSettings(**settings.source(config)))
    encoders = Encoders(
        load_autoencoder(data.autoencoder, data.autoencoder_weights, devices=devices),
        load_text_encoder(
            data.text,
            tokens=data.text_tokens,
            features=data.text_features,
            weights=data.text_weights,
            devices=devices,
        ),
    )
    manifest = make_manifest(
        sources,
        autoencoder=encoders.autoencoder.facts,
        text=encoders.text.facts,
        images_per_shard=data.images_per_shard,
        void_wins=data.void_wins,
        flips=data.flips,
    )
    # Missing input and weights have been reported by now: nothing is written for them.
    if not claim.begin(data.dir, manifest):
        return

    work = [
        (split, index)
        for split, sizes in manifest.splits.items()
        for index in range(len(sizes.image_shards))
    ]
    own = own_share(work)
    # A shard has its final name only when it is whole, so its name is all there is to ask.
    present = _present(data.dir, manifest, work)
    remaining = [shard for shard in own if shard not in present]
    if len(remaining) < len(own):
        logging.info('%d of %d shards are there already.', len(own) - len(remaining), len(own))
    images = sum(manifest.splits[split].image_shards[index] for split, index in remaining)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        if remaining:
            _check_disk(data.dir, manifest, images)
            if images >= worth_an_estimate * batch_size():
                _estimate(manifest, images, sources['train'], encoders, pool=pool)
        progress = Progress('prepare', 'images', images)
        for split, index in remaining:
            records = encode_shard(
                sources[split], manifest, split, index=index, encoders=encoders, pool=pool
            )
            _write_shard(data.dir, manifest, (split, index), records, progress=progress)

    folder = claim.work_folder(data.dir)
    whole = folder.wait_for_parts(
        work, lambda: _present(data.dir, manifest, work), 'the shards of other processes'
    )
    if whole:
        _finish(data.dir, manifest, encoders)


def _present(
    data_dir: str, manifest: Manifest, work: Sequence[tuple[str, int]]
) -> set[tuple[str, int]]:
    """The shards (split, index) of `work` that are written.

    An image shard stands for both: the captions' shard is written first.
    """
    names = files.sizes_and_times(epath.Path(data_dir) / 'images')
    return {
        shard for shard in work if _path(data_dir, manifest, shard, dataset='images').name in names
    }


def _write_shard(
    data_dir: str,
    manifest: Manifest,
    shard: tuple[str, int],
    records: Iterator[tuple[list[Record], list[Record]]],
    *,
    progress: Progress,
) -> None:
    """Writes a shard (split, index): its captions as they come, then its images."""
    image_records = []

    # Captions are large and stream to the disk; the records of images are kept for afterwards.
    def captions():
        for own_images, own_captions in records:
            image_records.extend(own_images)
            progress.add(len(own_images))
            yield from own_captions

    path = _path(data_dir, manifest, shard, dataset='captions')
    shards.write_shard(path, _features(manifest)['captions'], captions())
    path = _path(data_dir, manifest, shard, dataset='images')
    shards.write_shard(path, _features(manifest)['images'], image_records)


def _features(manifest: Manifest) -> dict[str, Any]:
    """What the records of both data sets hold."""
    autoencoder, text = manifest.autoencoder, manifest.text
    return {
        'images': shards.image_features(
            autoencoder.latent_shape, autoencoder.has_variance, manifest.stored_map_side
        ),
        'captions': shards.caption_features(text.tokens, text.features),
    }


def _check_disk(data_dir: str, manifest: Manifest, images: int) -> None:
    """Says how much of the disk `images` images of each process take.

    Raises:
      ValueError: so much is not free.
    """
    splits = manifest.splits.values()
    captions = sum(sizes.captions for sizes in splits)
    captions_per_image = captions / sum(sizes.images for sizes in splits)
    text_bytes = _FLOAT16 * manifest.text.tokens * manifest.text.features
    autoencoder = manifest.autoencoder
    moments = 2 if autoencoder.has_variance else 1
    image_bytes = _FLOAT16 * moments * int(np.prod(autoencoder.latent_shape))
    if manifest.stored_map_side:
        image_bytes += 2 * _UINT8 * manifest.stored_map_side**2  # category and instance
    needed = images * jax.process_count() * (image_bytes + captions_per_image * text_bytes)
    if not files.is_remote(data_dir) and needed > (free := shutil.disk_usage(data_dir).free):
        raise ValueError(
            f'data.dir {str(data_dir)!r} has {free / 1e9:.1f} GB free, and about '
            f'{needed / 1e9:.1f} GB are needed; choose another data.dir.'
        )
    logging.info('%s takes %.1f GB more of disk.', data_dir, needed / 1e9)


def _estimate(
    manifest: Manifest,
    images: int,
    source: Sequence[Example],
    encoders: Encoders,
    *,
    pool: futures.Executor,
) -> None:
    """Says how long `images` images take, by reading one batch and encoding it twice.

    The times of reading and encoding are added: on a CPU both share the cores. An accelerator is
    faster than the estimate.
    """

    def read(i):
        example = source[i]
        return example.captions, geometry.fit(example)[0]

    start = time.monotonic()
    examples = [*pool.map(read, range(min(batch_size(), len(source))))]
    reading = time.monotonic() - start
    stack = np.stack([image for _, image in examples])
    captions = [caption for own, _ in examples for caption in own]
    copies = manifest.splits['train'].copies
    for _ in range(2):  # the first time includes compilation
        start = time.monotonic()
        for _ in range(copies):
            encoders.autoencoder.encode(stack)
        encoders.text.encode(captions)
        encoding = time.monotonic() - start
    count = copies * len(examples)
    rate = count / (reading + encoding)
    logging.info(
        '%s images: about %s (devices: %d, processes: %d); %s images/s measured on %d images.',
        f'{images:,}', duration(images / rate), jax.local_device_count(), jax.process_count(),
        readable(rate), count,
    )  # fmt: skip


def _path(data_dir: str, manifest: Manifest, shard: tuple[str, int], *, dataset: str) -> epath.Path:
    split, index = shard
    count = len(manifest.splits[split].image_shards)
    return shards.shard_path(
        data_dir=data_dir, dataset=dataset, split=split, index=index, count=count
    )


def _finish(data_dir: str, manifest: Manifest, encoders: Encoders) -> None:
    """Adds what makes two data sets of the shards, and seals the folder."""
    for dataset, features in _features(manifest).items():
        lengths = {
            split: getattr(sizes, f'{dataset[:-1]}_shards')
            for split, sizes in manifest.splits.items()
        }
        description = f'{dataset.capitalize()} prepared by panoptic_jax; see ../manifest.json.'
        shards.write_metadata(
            data_dir=data_dir,
            dataset=dataset,
            features=features,
            shard_lengths=lengths,
            description=description,
        )
    empty_text = io.BytesIO()
    np.save(empty_text, encoders.text.encode([''])[0])
    files.write_whole(epath.Path(data_dir) / 'empty_text.npy', empty_text.getvalue())
    claim.finish(data_dir, manifest)
