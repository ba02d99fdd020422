"""Batches for training and random access for evaluation, from the shards that `prepare` wrote.

The order of training is a function of (seed, position) alone, so that a run resumes from one
integer whatever the number of hosts and loader processes. Putting batches on devices is
`sharding.py`'s business.
"""

import functools
import io
from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np
from etils import epath

from panoptic_jax.data import shards
from panoptic_jax.data.manifest import copies, open_manifest
from panoptic_jax.data.records import Records

_THREADS = 2  # Python's lock leaves more of them little to do
_BATCHES_AHEAD = 4


def empty_text(data_dir: str) -> np.ndarray:
    """(L, D) float16: features of the empty caption, for text dropout and guidance."""
    content = (epath.Path(data_dir) / 'empty_text.npy').read_bytes()
    return np.load(io.BytesIO(content))


class Split:
    """Random access to a prepared split, for evaluation and sampling.

    `split[i]` is a dict: 'latents' (h, w, c) or 'moments' (h, w, 2c) float16, unscaled; 'category'
    and 'instance' (128, 128) uint8, of data with maps; 'image_id'; 'captions', n sentences; 'texts'
    (n, L, D) float16.

    The mirrored copies of `data.flips` are left out: they are for training alone. `cache` is as in
    `shard_copies.local_copies`.

    Raises:
      FileNotFoundError: the data are not prepared, or a shard is missing.
      ValueError: there is no such split, or a shard is damaged.
    """

    def __init__(self, data_dir: str, split: str, cache: str = '') -> None:
        self._images, self._captions = _open(data_dir, split, cache)
        self._copies = copies(open_manifest(data_dir), split)

    def __len__(self) -> int:
        return len(self._images) // self._copies

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._images[index * self._copies]
        first, count = record.pop('first_caption'), record.pop('num_captions')
        captions = [self._captions[i] for i in range(first, first + count)]
        record['captions'] = [caption['caption'].decode() for caption in captions]
        record['texts'] = np.stack([caption['text'] for caption in captions])
        return record

    def image_ids(self) -> list[int]:
        """The source's number of each picture, in order."""
        return [int(self._images[i * self._copies]['image_id']) for i in range(len(self))]


class TrainBatches:
    """This process's share of an endless stream of global batches; an iterator.

    Process p holds rows p * b .. (p + 1) * b - 1 of each global batch, where b is the batch size
    over the number of processes: the same rows on any number of them.
    """

    def __init__(
        self,
        order: grain.MapDataset,
        read: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
        batch_size: int,
        process_index: int,
        process_count: int,
        workers: int,
    ) -> None:
        if batch_size % process_count:
            raise ValueError(
                f'batch_size is {batch_size}, which {process_count} processes cannot share; '
                f'it must be a multiple of {process_count}.'
            )
        self._order = order
        self._read = read
        self._batch_size = batch_size
        self._process_index = process_index
        self._process_count = process_count
        self._workers = workers
        self._position = 0
        self._iterator = None

    def __iter__(self) -> 'TrainBatches':
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._iterator is None:
            self._iterator = self._start()
        batch = next(self._iterator)
        self._position += self._batch_size
        if self._workers:  # out of memory shared with a process that may end before the array
            batch = {name: np.array(value) for name, value in batch.items()}
        return batch

    def _start(self) -> grain.DatasetIterator:
        # Grain decides on the numbers of records; the records of a batch are read together.
        share = self._batch_size // self._process_count
        drawn = self._order[self._position :].batch(share, drop_remainder=True)
        batches = drawn[self._process_index :: self._process_count].map(self._read)
        stream = batches.to_iter_dataset(
            grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
        )
        if self._workers:
            stream = stream.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2)
            )
        return iter(stream)

    def get_state(self) -> dict[str, int]:
        """{'position': examples consumed by all processes together}; JSON-able."""
        return {'position': self._position}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes on from a state of any number of processes, workers and any batch size."""
        self.close()
        self._position = state['position']

    def close(self) -> None:
        """Ends threads and worker processes; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def train_batches(
    data_dir: str,
    split: str,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    cache: str = '',
) -> TrainBatches:
    """An endless stream of batches, shuffled anew each epoch, without repeats inside one.

    An image comes with one of its captions, drawn at random each time.

    Args:
      data_dir: A prepared folder.
      split: 'train' or 'validation'.
      batch_size: Examples per global batch, over all processes.
      seed: Decides order and captions.
      process_index: Which share this process takes, 0 .. process_count - 1.
      process_count: How many processes share a batch.
      workers: Loader processes; 0 uses threads of this one.
      cache: Folder for copies of shards in a bucket, see `shard_copies.local_copies`.

    Yields:
      dict of b = batch_size / process_count rows: 'latents' (b, h, w, c) float16, unscaled (or
      'moments' (b, h, w, 2c)), 'category' and 'instance' (b, 128, 128) uint8, 'text' (b, L, D)
      float16.

    Raises:
      FileNotFoundError: the data are not prepared, or a shard is missing.
      ValueError: there is no such split, a shard is damaged, or the batch cannot be shared.
    """
    images, captions = _open(data_dir, split, cache)
    order = grain.MapDataset.range(len(images)).seed(seed).shuffle().repeat().random_map(_draw)
    read = functools.partial(_read, images, captions)
    return TrainBatches(order, read, batch_size, process_index, process_count, workers)


def _draw(image: int, rng: np.random.Generator) -> dict[str, Any]:
    """An image's number, and a random one that decides between its captions."""
    return {'image': image, 'draw': rng.integers(2**32, dtype=np.uint32)}


def _read(
    images: Records, captions: Records, drawn: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """A batch of the drawn images, each with one of its captions."""
    names = [name for name in images.names if name != 'image_id']
    batch = images.rows(drawn['image'].tolist(), names)
    first, count = batch.pop('first_caption'), batch.pop('num_captions')
    # draw / 2^32 of the way through the captions
    chosen = first + (drawn['draw'].astype(np.int64) * count >> 32)
    return batch | captions.rows(chosen.tolist(), ['text'])


def _open(data_dir: str, split: str, cache: str) -> tuple[Records, Records]:
    manifest = open_manifest(data_dir)
    if split not in manifest['splits']:
        raise ValueError(
            f'The data in {data_dir} have no split {split!r}, only '
            f'{", ".join(map(repr, manifest["splits"]))}; take one of these, or prepare the data '
            'again with data.validation_split or data.validation_images set.'
        )
    lengths = manifest['splits'][split]
    autoencoder, text = manifest['autoencoder'], manifest['text']
    images = shards.image_features(
        autoencoder['latent_shape'], autoencoder['has_variance'], manifest['map_size']
    )
    captions = shards.caption_features(text['tokens'], text['features'])
    return (
        Records(data_dir, 'images', split, lengths['image_shards'], images, cache),
        Records(data_dir, 'captions', split, lengths['caption_shards'], captions, cache),
    )
