"""Features of images by frozen networks, in restartable chunks.

    FOLDER/HASH/00000500.npz    features of images 500..999; HASH stands for images and networks

One chunk is held at a time, whatever the number of images. The networks are in `encoders/`;
`scoring/images.py` makes scores of the features.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from panoptic_jax.data import geometry
from panoptic_jax.encoders import clip, inception, rows, weights_files
from panoptic_jax.encoders.load import load_clip
from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import files, hosts
from panoptic_jax.machine.work_folder import own_share
from panoptic_jax.metrics import clip_score

CHUNK = 500  # images; the unit of work that a restart repeats
_IMAGES_PER_DEVICE = 32
_CAPTIONS_PER_DEVICE = 40


class Networks(NamedTuple):
    """Frozen networks over any number of rows; None for a network that is not wanted.

    Attributes:
      inception: (n, 256, 256, 3) uint8 -> (n, 2048).
      clip_images: (n, 224, 224, 3) uint8 -> (n, d).
      clip_captions: n captions -> (n, d).
      hashes: SHA-256 of the weights of 'inception' and 'clip', where they are wanted.
    """

    inception: Callable[[np.ndarray], np.ndarray] | None
    clip_images: Callable[[np.ndarray], np.ndarray] | None
    clip_captions: Callable[[Sequence[str]], np.ndarray] | None
    hashes: dict[str, str]


def load_networks(
    inception_weights: str,
    clip_folder: str,
    *,
    devices: Sequence[jax.Device] | None = None,
    chunk: int = CHUNK,
) -> Networks:
    """Loads what is named; '' leaves a network, and the scores that need it, out.

    Args:
      inception_weights: Local or hf:// path of a safetensors file, see `encoders/inception.py`.
      clip_folder: Local or hf:// address of a folder, see `encoders.load.load_clip`.
      devices: What the networks run on; None for all devices of this process.
      chunk: Images that come at a time, see `Features`.
    """
    inception_features = clip_images = clip_captions = None
    hashes = {}
    if inception_weights:
        what = "Inception's weights, which --mode=import makes of pytorch-fid's"
        path = weights_files.locate(inception_weights, 'evaluate.inception', what)
        # The hash goes into the names of everything that is kept.
        # A block of more images than ever come would be filled up with zeros.
        inception_features, hashes['inception'] = inception.on_devices(
            path, images_per_device=min(chunk, inception.IMAGES_PER_DEVICE), devices=devices
        )
    if clip_folder:
        params, hashes['clip'], tokenize = load_clip(clip_folder, 'evaluate.clip')
        if 'vision_model' not in params:
            raise ValueError(
                f'evaluate.clip is {clip_folder!r}, which holds a text tower alone; scores need a '
                'whole CLIP, such as ViT-B/32.'
            )
        block = min(chunk, _IMAGES_PER_DEVICE)
        clip_images = rows.on_devices(clip.image_embeddings, params, block, devices)
        embed = rows.on_devices(clip.text_embeddings, params, _CAPTIONS_PER_DEVICE, devices)

        def clip_captions(captions):
            return embed(tokenize(captions))

    return Networks(
        inception=inception_features,
        clip_images=clip_images,
        clip_captions=clip_captions,
        hashes=hashes,
    )


class Images(NamedTuple):
    """A list of images that features are computed of.

    Attributes:
      count: Images.
      image: Number of an image -> (H, W, 3) uint8.
      identity: JSON-able; it differs for other images or captions.
      captions: Number of an image -> its captions; None where there are none.
    """

    count: int
    image: Callable[[int], np.ndarray]
    identity: Any
    captions: Callable[[int], Sequence[str]] | None = None


class Features:
    """Features of a list of images, computed once and kept in files.

    Reading computes the chunks that are not there yet. After an interruption it goes on at the next
    chunk. Several processes share the chunks; all of them have to read.
    """

    def __init__(
        self, folder: epath.PathLike, networks: Networks, images: Images, *, chunk: int = CHUNK
    ) -> None:
        """Opens or starts the files.

        Args:
          folder: Holds the files.
          networks: From `load_networks`.
          images: What to compute features of.
          chunk: Images of a file.
        """
        # Everything that the features depend on: other images, networks or chunks, other folder.
        has_captions = images.captions is not None
        key = json.dumps([images.identity, networks.hashes, has_captions, chunk])
        self._folder = epath.Path(folder) / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._chunk = chunk
        self._embedded = {}  # captions repeat where an image is drawn several times
        self.images, self.networks = images, networks

    def chunks(self, name: str, limit: int | None = None) -> Iterator[np.ndarray]:
        """Blocks of 'inception' (n, 2048), 'clip' (n, d) or 'clip_score' (n,); `limit`: of rows."""
        starts = range(0, min(self.images.count, limit or self.images.count), self._chunk)
        missing = self._missing(own_share(starts))
        progress = Progress('evaluate', 'pictures', sum(map(self._size, missing)))
        for start in missing:
            self.compute(start)
            progress.add(self._size(start))
        hosts.wait_for(lambda: not self._missing(starts), 'the pictures of other processes')
        for start in starts:
            content = io.BytesIO(self._path(start).read_bytes())
            with np.load(content, allow_pickle=False) as arrays:
                block = arrays[name]
            yield block[: limit - start] if limit else block

    def _missing(self, starts: Sequence[int]) -> list[int]:
        return [start for start in starts if not self._path(start).exists()]

    def _size(self, start: int) -> int:
        return min(self._chunk, self.images.count - start)

    def _path(self, start: int) -> epath.Path:
        return self._folder / f'{start:08d}.npz'

    def compute(self, start: int) -> None:
        """Computes and writes the chunk that begins with image number `start`."""
        numbers = range(start, start + self._size(start))
        # Only what the networks see is held: images of others may be large.
        squares, fitted = [], []
        for image in map(self.images.image, numbers):
            squares.append(square(image))
            if self.networks.clip_images:
                fitted.append(clip.fit(image))
        # One pass over the images serves all networks: reading costs more than some of them.
        arrays = {}
        if self.networks.inception:
            arrays['inception'] = self.networks.inception(np.stack(squares))
        if self.networks.clip_images:
            arrays['clip'] = self.networks.clip_images(np.stack(fitted))
        if self.networks.clip_captions and self.images.captions:
            texts = self._embed([tuple(self.images.captions(number)) for number in numbers])
            arrays['clip_score'] = clip_score.clip_scores(arrays['clip'], texts)
        # Through memory, so that a kill leaves a whole file or none.
        content = io.BytesIO()
        np.savez(content, **arrays)
        self._folder.mkdir(parents=True, exist_ok=True)
        files.write_whole(self._path(start), content.getvalue())

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
