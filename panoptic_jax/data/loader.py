"""Batches for training and random access for evaluation, from the shards that `prepare.py` wrote.

The order of training is a function of (seed, position) alone, so that a run resumes from one
integer whatever the number of hosts and loader processes. `machine/sharding.py` puts batches on
devices, `data/records.py` reads single records.
"""

import functools
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epath

from panoptic_jax.data.manifest import open_manifest

# Imported where they are used: drawing pairs of own captions needs neither grain nor TFDS.
if TYPE_CHECKING:
    import grain

    from panoptic_jax.data.records import Records

EMPTY_TEXT = 'empty_text.npy'
_THREADS = 2  # more threads wait for Python's lock
_BATCHES_AHEAD = 4


def empty_text(data_dir: str) -> np.ndarray:
    """(L, D) float16: features of the empty caption, for text dropout and guidance.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is damaged.
    """
    path = epath.Path(data_dir) / EMPTY_TEXT
    if not path.exists():
        raise FileNotFoundError(f'{path} is missing; --mode=prepare makes it again.')
    try:
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f'{path} is damaged; --mode=prepare makes it again.') from error


class Split:
    """Random access to a prepared split, for evaluation and sampling.

    `split[i]` is a dict: 'latents' (h, w, c) or 'moments' (h, w, 2c) float16, unscaled; 'category'
    and 'instance' (128, 128) uint8, where the data have maps; 'image_id'; 'captions', n sentences;
    'texts' (n, L, D) float16.

    Indices skip the mirrored copies of `data.flips`, which are for training alone. The attributes
    `images` and `captions` are all records, mirrored copies included.
    """

    def __init__(self, data_dir: str, split: str, cache: str = '') -> None:
        """Opens a split.

        Args:
          data_dir: A prepared folder.
          split: 'train' or 'validation'.
          cache: Folder for copies of shards in a bucket, see `shard_copies.local_copies`.

        Raises:
          FileNotFoundError: the data are not prepared, or a shard is missing.
          ValueError: there is no such split, or a shard is damaged.
        """
        self.images, self.captions = _open(data_dir, split, cache)
        self._copies = open_manifest(data_dir).splits[split].copies

    def __len__(self) -> int:
        return len(self.images) // self._copies

    def __getitem__(self, index: int) -> dict[str, Any]:
        # The mirrored copy follows its original.
        record = self.images[index * self._copies]
        first, count = record.pop('first_caption'), record.pop('num_captions')
        captions = [self.captions[i] for i in range(first, first + count)]
        record['captions'] = [caption['caption'].decode() for caption in captions]
        record['texts'] = np.stack([caption['text'] for caption in captions])  # (n, L, D)
        return record

    def image_ids(self) -> list[int]:
        """The source's number of each image, in the order of the split."""
        return [int(self.images[i * self._copies]['image_id']) for i in range(len(self))]


class Share(NamedTuple):
    """The part of every batch that one process reads: process `index` of `count` processes."""

    index: int = 0
    count: int = 1


class TrainBatches:
    """This process's share of an endless stream of global batches; an iterator.

    Process p holds rows p * b .. (p + 1) * b - 1 of each global batch, where b is the batch size
    over the number of processes. So a global batch has the same rows on any number of processes.
    """

    def __init__(
        self,
        order: 'grain.MapDataset',
        read: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
        *,
        batch_size: int,
        share: Share,
        workers: int,
    ) -> None:
        """Plans the stream; `train_batches` explains the arguments.

        Args:
          order: Endless: each element holds an image's index and a random number.
          read: Reads a batch of such elements.
          batch_size: Examples per global batch.
          share: This process's share.
          workers: Loader processes; 0 uses threads of this process.
        """
        if batch_size % share.count:
            raise ValueError(
                f'batch_size is {batch_size}, which {share.count} processes cannot share; '
                f'it must be a multiple of {share.count}.'
            )
        self._order = order
        self._read = read
        self._batch_size = batch_size
        self._share = share
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
        if self._workers:
            # The arrays lie in memory shared with a process that may end before they do.
            batch = {name: np.array(value) for name, value in batch.items()}
        return batch

    def _start(self) -> 'grain.DatasetIterator':
        import grain

        # Grain shuffles indices only; the records of a batch are then read together.
        rows = self._batch_size // self._share.count
        drawn = self._order[self._position :].batch(rows, drop_remainder=True)
        own = drawn[self._share.index :: self._share.count]
        ahead = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
        stream = own.map(self._read).to_iter_dataset(ahead)
        if self._workers:
            processes = grain.MultiprocessingOptions(
                num_workers=self._workers, per_worker_buffer_size=2
            )
            stream = stream.mp_prefetch(processes)
        return iter(stream)

    def get_state(self) -> dict[str, int]:
        """{'position': examples consumed by all processes together}; JSON-able."""
        return {'position': self._position}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes on from a state, whatever processes, workers and batch size it was saved with."""
        # Batches read ahead belong to the old position.
        self.close()
        self._position = state['position']

    def close(self) -> None:
        """Ends threads and worker processes; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def train_batches(
    split: Split, *, batch_size: int, seed: int, share: Share | None = None, workers: int = 0
) -> TrainBatches:
    """An endless stream of batches, shuffled anew each epoch, without repeats inside an epoch.

    An image comes with one of its captions, drawn at random each time.

    Args:
      split: Its records, mirrored copies included, are the examples.
      batch_size: Examples per global batch, over all processes.
      seed: Decides order and captions.
      share: Which rows this process reads; None for all rows.
      workers: Loader processes; 0 uses threads of this process.

    Yields:
      dict of b = batch_size / share.count rows: 'latents' (b, h, w, c) float16, unscaled (or
      'moments' (b, h, w, 2c)), 'category' and 'instance' (b, 128, 128) uint8, 'text' (b, L, D)
      float16.

    Raises:
      ValueError: a shard is damaged, or the processes cannot share the batch.
    """
    import grain

    indices = grain.MapDataset.range(len(split.images))
    order = indices.seed(seed).shuffle().repeat().random_map(_draw)
    read = functools.partial(_read, split.images, split.captions)
    return TrainBatches(order, read, batch_size=batch_size, share=share or Share(), workers=workers)


def _draw(image: int, rng: np.random.Generator) -> dict[str, Any]:
    """An image's index, and a random number that decides between the image's captions."""
    return {'image': image, 'draw': rng.integers(2**32, dtype=np.uint32)}


def _read(images: 'Records', captions: 'Records', drawn: Mapping) -> dict[str, np.ndarray]:
    """A batch of the images drawn, {'image': (b,), 'draw': (b,)}, each with one of its captions."""
    names = [name for name in images.names if name != 'image_id']
    batch = images.rows(drawn['image'].tolist(), names)
    first, count = batch.pop('first_caption'), batch.pop('num_captions')
    # The caption that lies draw / 2^32 of the way through the image's captions.
    caption_indices = first + (drawn['draw'].astype(np.int64) * count >> 32)  # (b,)
    return batch | captions.rows(caption_indices.tolist(), ['text'])


def _open(data_dir: str, split: str, cache: str) -> tuple['Records', 'Records']:
    """The image records and the caption records of a split."""
    from panoptic_jax.data import shards
    from panoptic_jax.data.records import Records

    manifest = open_manifest(data_dir)
    # Asked here, so that the message can name the splits that there are.
    if split not in manifest.splits:
        raise ValueError(
            f'The data in {data_dir} have no split {split!r}, only '
            f'{", ".join(map(repr, manifest.splits))}; take one of these, or prepare the data '
            'again with data.validation_split or data.validation_images set.'
        )
    sizes = manifest.splits[split]
    lengths = {'images': sizes.image_shards, 'captions': sizes.caption_shards}
    images, captions = (
        Records(
            data_dir=data_dir,
            dataset=manifest.folder_of(dataset),
            split=split,
            shard_lengths=lengths[dataset],
            features=features,
            cache=cache,
        )
        for dataset, features in shards.features_of(manifest).items()
    )
    return images, captions
