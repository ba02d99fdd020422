"""Features of images by frozen networks, in restartable chunks.

    FOLDER/HASH/00000500.npz    features of images 500..999; HASH stands for images and networks

One chunk is held at a time, whatever the number of images. `scoring/networks.py` loads the
networks, and `scoring/images.py` makes scores of the features.
"""

import collections
import contextlib
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from panoptic_jax.data import geometry
from panoptic_jax.encoders import clip
from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import ahead, files, hosts
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.machine.work_folder import own_share
from panoptic_jax.metrics import clip_score, fid
from panoptic_jax.scoring.networks import CHUNK, Networks

VERSION = 1  # of how pictures become what networks see; it rises where features would change
_OWNERS = {
    'inception': 'Inception (evaluate.inception)',
    'clip': 'CLIP (evaluate.clip)',
    'clip_score': 'CLIP (evaluate.clip) with the captions',
}


class Images(NamedTuple):
    """A list of images that features are computed of.

    Attributes:
      count: Images.
      image: Number of an image -> (H, W, 3) uint8.
      name: Number of an image -> its name, for messages.
      identity: JSON-able; it differs for other images. `listing_digest` is one.
      captions: Number of an image -> its captions; None where there are none.
    """

    count: int
    image: Callable[[int], np.ndarray]
    name: Callable[[int], str]
    identity: Any
    captions: Callable[[int], Sequence[str]] | None = None


def listing_digest(listing: Any) -> str:
    """A hash of names, sizes and times of picture files, which other pictures change.

    The pictures themselves are not read: 30,000 of them are gigabytes. All processes of a job have
    to call this, and they get the hash of process 0, since copies of one folder on several hosts
    may differ in their times.

    Args:
      listing: Names, sizes in bytes and times of the last change, JSON-able.
    """
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    # Numbers that travel have 31 bits.
    return ''.join(f'{hosts.of_first(int(digest[i : i + 7], 16)):07x}' for i in range(0, 28, 7))


class Features:
    """Features of a list of images, computed once and kept in files.

    Reading computes the chunks that are not there yet. After an interruption it goes on at the next
    chunk. Several processes share the chunks; all of them have to read.
    """

    def __init__(
        self,
        folders: Sequence[epath.PathLike],
        networks: Networks,
        images: Images,
        *,
        chunk: int = CHUNK,
        interruption: Interruption = UNINTERRUPTED,
    ) -> None:
        """Opens or starts the files.

        Args:
          folders: Hold the files; the first one is written, all are read.
          networks: From `load_networks`.
          images: What to compute features of.
          chunk: Images of a file.
          interruption: Asked between blocks of images.

        Raises:
          ValueError: the processes of a job have different images, captions or networks.
        """
        # Everything that the features depend on: other images, captions, networks or chunks have
        # another folder.
        captions = images.captions and [[*images.captions(i)] for i in range(images.count)]
        key = json.dumps([VERSION, images.identity, networks.hashes, captions, chunk])
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        if hosts.of_first(int(digest[:7], 16)) != int(digest[:7], 16):
            raise ValueError(
                'The processes of this job see different pictures or captions; keep them in a '
                'folder that all of them share.'
            )
        self._folders = [epath.Path(folder) / digest for folder in folders]
        self._chunk = chunk
        self._interruption = interruption
        self._progress = None  # of the chunks that are computed
        self._embedded = {}  # captions repeat where an image is drawn several times
        self.images, self.networks = images, networks

    def chunks(self, name: str, limit: int | None = None) -> Iterator[np.ndarray]:
        """Blocks of 'inception' (n, 2048), 'clip' (n, d) or 'clip_score' (n,); `limit`: of rows.

        Raises:
          Interrupted: SIGTERM came; the chunks that are done are kept.
          ValueError: features are not finite, or a file is damaged.
        """
        starts = range(0, min(self.images.count, limit or self.images.count), self._chunk)
        missing = self._missing(own_share(starts))
        self._progress = Progress('evaluate', 'pictures', sum(map(self._size, missing)))
        for start in missing:
            self.compute(start)
        hosts.wait_for(
            lambda: not self._missing(starts),
            'the pictures of other processes',
            interruption=self._interruption,
        )
        for start in starts:
            self._interruption.leave_if_asked()
            block = self._read(start, name)
            yield block[: limit - start] if limit else block

    def _missing(self, starts: Sequence[int]) -> list[int]:
        return [start for start in starts if not self._path(start).exists()]

    def _size(self, start: int) -> int:
        return min(self._chunk, self.images.count - start)

    def _path(self, start: int) -> epath.Path:
        """Where a chunk is, or where it will be."""
        paths = [folder / f'{start:08d}.npz' for folder in self._folders]
        return next((path for path in paths[1:] if path.exists()), paths[0])

    def _read(self, start: int, name: str) -> np.ndarray:
        path = self._path(start)
        content = io.BytesIO(path.read_bytes())
        try:
            with np.load(content, allow_pickle=False) as arrays:
                block = arrays[name]
        except fid.UNREADABLE as error:
            raise ValueError(
                f'{path} is damaged ({error}); delete it, and the same command makes it again.'
            ) from error
        self._require_finite(name, block, range(start, start + self._size(start)))
        return block

    def compute(self, start: int) -> None:
        """Computes and writes the chunk that begins with image number `start`."""
        blocks = collections.defaultdict(list)
        end = start + self._size(start)
        # Read ahead, also while the networks work.
        with contextlib.closing(ahead.in_order(self._seen, range(start, end))) as seen:
            for first in range(start, end, self.networks.block):
                # What is done of this chunk is lost with it.
                self._interruption.leave_if_asked()
                numbers = range(first, min(first + self.networks.block, end))
                for name, block in self._features(numbers, seen).items():
                    self._require_finite(name, block, numbers)
                    blocks[name].append(block)
                if self._progress:
                    self._progress.add(len(numbers))
        arrays = {name: np.concatenate(own) for name, own in blocks.items()}
        # Through memory, so that a kill leaves a whole file or none.
        content = io.BytesIO()
        np.savez(content, **arrays)
        self._folders[0].mkdir(parents=True, exist_ok=True)
        files.write_whole(self._folders[0] / f'{start:08d}.npz', content.getvalue())

    def _seen(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """What the networks see of an image: Inception, and CLIP if there is one."""
        # Only this is held: images of others may be large.
        image = self.images.image(number)
        return square(image), clip.fit(image) if self.networks.clip_images else None

    def _features(self, numbers: range, seen: Iterator) -> dict[str, np.ndarray]:
        """The features of a block of images, {name: (n, ...)}, the next ones of `seen`."""
        squares, fitted = zip(*itertools.islice(seen, len(numbers)), strict=True)
        # One pass over the images serves all networks: reading costs more than some of them.
        arrays = {}
        if self.networks.inception:
            arrays['inception'] = self.networks.inception(np.stack(squares))
        if self.networks.clip_images:
            arrays['clip'] = self.networks.clip_images(np.stack(fitted))
            self._require_finite('clip', arrays['clip'], numbers)
        if self.networks.clip_captions and self.images.captions:
            texts = self._embed([tuple(self.images.captions(number)) for number in numbers])
            arrays['clip_score'] = clip_score.clip_scores(arrays['clip'], texts)
        return arrays

    def _require_finite(self, name: str, block: np.ndarray, numbers: Sequence[int]) -> None:
        """Raises ValueError where features are not finite: they would make every score NaN."""
        fine = np.isfinite(block.reshape(len(block), -1)).all(axis=1)
        if not fine.all():
            first = self.images.name(numbers[int(np.argmin(fine))])
            raise ValueError(
                f'{_OWNERS[name]} gives numbers that are not finite for {int((~fine).sum())} of '
                f'{len(block)} pictures, the first {first}; its weights are damaged: import or '
                'download them again.'
            )

    def _embed(self, captions: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
        """For each image the embeddings (n, d) of its captions."""
        new = [own for own in dict.fromkeys(captions) if own not in self._embedded]
        if new:
            texts = [text for own in new for text in own]
            embedded = self.networks.clip_captions(texts)
            ends = np.cumsum([len(own) for own in new])
            self._embedded |= dict(zip(new, np.split(embedded, ends[:-1]), strict=True))
        return [self._embedded[own] for own in captions]


def square(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (256, 256, 3), cropped and resized as preparation does it."""
    side = geometry.IMAGE_SIDE
    # Our own images have the size already; resizing would blur them.
    return image if image.shape[:2] == (side, side) else geometry.fit_image(image)
