"""`--mode=prepare`: images, maps and captions of a source become encoded shards.

The shard is the unit of work. A restart repeats unfinished shards only and gives the same bytes;
several processes share the shards. `preparation/sources.py` says which sources there are,
`preparation/shard_files.py` which files.
"""

import contextlib
import io
import time
from collections.abc import Iterator, Sequence
from concurrent import futures

import jax
import ml_collections
import numpy as np
from absl import logging

from panoptic_jax import config as settings
from panoptic_jax.data import geometry, shards
from panoptic_jax.data.example import Example
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.encoders.load import Encoders, load_autoencoder
from panoptic_jax.encoders.text_encoder import load_text_encoder
from panoptic_jax.logs.progress import Progress, duration, readable
from panoptic_jax.machine import hosts
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.machine.work_folder import own_share
from panoptic_jax.machine.writer_lock import writing
from panoptic_jax.preparation import claim, shard_files
from panoptic_jax.preparation.promise import make_manifest
from panoptic_jax.preparation.shard_files import Shard
from panoptic_jax.preparation.shard_records import (
    Record,
    batch_size,
    encode_shard,
    require_finite,
)
from panoptic_jax.preparation.sources import SourceSettings, open_sources

_WORTH_AN_ESTIMATE = 20  # batches
_THREADS = 4  # that decode and resize images while others are encoded
# How long a shard may go on after a SIGTERM, so that it need not be made again.
_SECONDS_FOR_THE_SHARD = 8.0

Records = Iterator[tuple[list[Record], list[Record]]]


def prepare(
    config: ml_collections.ConfigDict,
    *,
    interruption: Interruption = UNINTERRUPTED,
    devices: Sequence[jax.Device] | None = None,
    worth_an_estimate: int = _WORTH_AN_ESTIMATE,
) -> None:
    """Writes `config.data.dir`; does nothing if it is finished already and nothing lacks.

    Each process of a job writes its share of the shards, and the first one the rest.

    Args:
      config: Checked.
      interruption: Ends the work after the shard at hand; after the batch, if the shard takes long.
      devices: What this process encodes on; None for all its devices.
      worth_an_estimate: Batches from which on the log says beforehand how long all will take.

    Raises:
      FileNotFoundError: input or weights are missing; raised before anything is written.
      ValueError: the folder holds data prepared differently, another job prepares it, the input is
        inconsistent, encoders give numbers that are not finite, or the disk is too small.
      Interrupted: the interruption was asked for; the same call goes on.
    """
    data = config.data
    sources = open_sources(SourceSettings(**settings.source(config)))
    encoders = _load_encoders(data, devices)
    promise = make_manifest(
        sources,
        autoencoder=encoders.autoencoder.facts,
        text=encoders.text.facts,
        images_per_shard=data.images_per_shard,
        void_wins=data.void_wins,
        flips=data.flips,
    )
    # Missing input and weights have been reported by now: nothing is written for them. Process 0
    # decides for all, since another job may finish the folder in between.
    if hosts.of_first(claim.is_complete(data.dir, promise)):
        return
    interruption.leave_if_asked()
    empty_text = encoders.text.encode([''])[0]
    require_finite(empty_text, 'text features', 'the empty caption')
    with writing(data.dir, 'preparation', interruption):
        manifest = claim.begin(data.dir, promise)
        work = shard_files.all_shards(manifest)
        own = own_share(work)
        there = shard_files.present(data.dir, manifest)
        remaining = [shard for shard in own if shard not in there]
        if len(remaining) < len(own):
            logging.info('%d of %d shards are there already.', len(own) - len(remaining), len(own))
        if lacking := [shard for shard in work if shard not in there]:
            shard_files.check_room(data.dir, manifest, lacking)
        with _readers() as pool:
            images = sum(manifest.splits[split].image_shards[index] for split, index in remaining)
            if remaining and images >= worth_an_estimate * batch_size():
                _estimate(manifest, images, sources['train'], encoders, pool=pool)
            progress = Progress('prepare', 'images', images)
            for split, index in remaining:
                interruption.leave_if_asked()
                records = encode_shard(
                    sources[split], manifest, split, index=index, encoders=encoders, pool=pool
                )
                counted = _counted(records, progress, interruption)
                _write_shard(data.dir, manifest, (split, index), counted)
        folder = claim.work_folder(data.dir)
        whole = folder.wait_for_parts(
            work,
            lambda: shard_files.present(data.dir, manifest),
            'the shards of other processes',
            interruption,
        )
        if whole:
            content = io.BytesIO()
            np.save(content, empty_text)
            shard_files.write_rest(data.dir, manifest, content.getvalue())
            claim.finish(data.dir, manifest)


def _load_encoders(
    data: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None
) -> Encoders:
    return Encoders(
        load_autoencoder(data.autoencoder, data.autoencoder_weights, devices=devices),
        load_text_encoder(
            data.text,
            tokens=data.text_tokens,
            features=data.text_features,
            weights=data.text_weights,
            devices=devices,
        ),
    )


@contextlib.contextmanager
def _readers() -> Iterator[futures.Executor]:
    """Threads that read examples; what they have not begun is dropped at the end."""
    pool = futures.ThreadPoolExecutor(_THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _counted(records: Records, progress: Progress, interruption: Interruption) -> Records:
    """Counts a shard's images while they are made, and ends a long shard where that is asked for.

    Raises:
      Interrupted: the interruption was asked for some seconds ago.
    """
    asked_at = None
    for own_images, own_captions in records:
        if asked_at is None and interruption.asked():
            asked_at = time.monotonic()
        if asked_at is not None and time.monotonic() - asked_at > _SECONDS_FOR_THE_SHARD:
            interruption.leave_if_asked()
        progress.add(len(own_images))
        yield own_images, own_captions


def _write_shard(data_dir: str, manifest: Manifest, shard: Shard, records: Records) -> None:
    """Writes a shard: its captions as they come, then its images."""
    image_records = []

    # Captions are large and stream to the disk; the records of images are kept for afterwards.
    def captions():
        for own_images, own_captions in records:
            image_records.extend(own_images)
            yield from own_captions

    contents = {'captions': captions(), 'images': image_records}
    features = shards.features_of(manifest)
    for dataset, examples in contents.items():
        path = shard_files.path_of(data_dir, manifest, shard, dataset)
        shards.write_shard(path, features[dataset], examples)


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
