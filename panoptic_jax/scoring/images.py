"""FID, CLIP score and CMMD of pictures: their features by frozen networks, in restartable chunks.

    FOLDER/HASH/00000500.npz    features of pictures 500..999; HASH stands for pictures and networks

One chunk is held at a time, whatever the number of pictures. The metrics themselves are in
`metrics/`, the networks in `encoders/`; maps are scored in `scores.py`.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import geometry
from panoptic_jax.encoders import clip, inception, rows, weights_files
from panoptic_jax.encoders.load import load_clip
from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import files, hosts
from panoptic_jax.metrics import clip_score, cmmd, fid

_CHUNK = 500  # pictures
_CMMD_PICTURES = 5000  # at most, of each set
_IMAGES_PER_DEVICE = 32
_CAPTIONS_PER_DEVICE = 40


class Networks(NamedTuple):
    """Frozen networks over any number of rows; None where one is not wanted.

    Attributes:
      inception: (n, 256, 256, 3) uint8 -> (n, 2048).
      clip_images: (n, 224, 224, 3) uint8 -> (n, d).
      clip_captions: n captions -> (n, d).
      hashes: {'inception': SHA-256 of the weights, 'clip': likewise}, of those that there are.
    """

    inception: Callable[[np.ndarray], np.ndarray] | None
    clip_images: Callable[[np.ndarray], np.ndarray] | None
    clip_captions: Callable[[Sequence[str]], np.ndarray] | None
    hashes: dict[str, str]


def load_networks(inception_weights: str, clip_folder: str) -> Networks:
    """Loads what is named; '' leaves a network, and the scores that need it, out.

    Args:
      inception_weights: Local or hf:// path of a safetensors file, see `encoders/inception.py`.
      clip_folder: Local or hf:// address of a folder, see `encoders.load.load_clip`.
    """
    inception_features = clip_images = clip_captions = None
    hashes = {}
    if inception_weights:
        what = "Inception's weights, which --mode=import makes of pytorch-fid's"
        path = weights_files.locate(inception_weights, 'evaluate.inception', what)
        inception_features, hashes['inception'] = inception.on_devices(path)
    if clip_folder:
        params, hashes['clip'], tokenize = load_clip(clip_folder, 'evaluate.clip')
        if 'vision_model' not in params:
            raise ValueError(
                f'evaluate.clip is {clip_folder!r}, which holds a text tower alone; scores need a '
                'whole CLIP, such as ViT-B/32.'
            )
        clip_images = rows.on_devices(clip.image_embeddings, params, _IMAGES_PER_DEVICE)
        embed = rows.on_devices(clip.text_embeddings, params, _CAPTIONS_PER_DEVICE)
        clip_captions = lambda captions: embed(tokenize(captions))  # noqa: E731
    return Networks(inception_features, clip_images, clip_captions, hashes)


class Features:
    """Features of a list of pictures, computed once and kept in files.

    Reading computes the chunks that are not there yet; interrupted, it goes on at the next one.
    Several processes share the chunks out; all of them have to read.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        count: int,
        picture: Callable[[int], np.ndarray],
        identity: Any,
        networks: Networks,
        captions: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        """Opens or starts the files.

        Args:
          folder: For the files.
          count: Pictures.
          picture: Number of a picture -> (H, W, 3) uint8.
          identity: JSON-able, other for other pictures or captions.
          networks: From `load_networks`.
          captions: Number of a picture -> its captions; None where there are none.
        """
        key = json.dumps([identity, networks.hashes, captions is not None, _CHUNK])
        self._folder = epath.Path(folder) / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._picture, self._captions, self._networks = picture, captions, networks
        self._embedded = {}  # captions repeat where a picture is drawn several times
        self.count = count

    def chunks(self, name: str, limit: int | None = None) -> Iterator[np.ndarray]:
        """Blocks of 'inception' (n, 2048), 'clip' (n, d) or 'clip_score' (n,); `limit`: of rows."""
        starts = range(0, min(self.count, limit or self.count), _CHUNK)
        missing = self._missing(starts[jax.process_index() :: jax.process_count()])
        progress = Progress('evaluate', 'pictures', sum(map(self._size, missing)))
        for start in missing:
            self._compute(start)
            progress.add(self._size(start))
        hosts.wait_for(lambda: not self._missing(starts), 'the pictures of other processes')
        for start in starts:
            content = io.BytesIO(self._path(start).read_bytes())
            with np.load(content, allow_pickle=False) as found:
                block = found[name]
            yield block[: limit - start] if limit else block

    def _missing(self, starts: Sequence[int]) -> list[int]:
        return [start for start in starts if not self._path(start).exists()]

    def _size(self, start: int) -> int:
        return min(_CHUNK, self.count - start)

    def _path(self, start: int) -> epath.Path:
        return self._folder / f'{start:08d}.npz'

    def _compute(self, start: int) -> None:
        numbers = range(start, start + self._size(start))
        # Only what the networks see is held: pictures of others may be large.
        squares, fitted = [], []
        for picture in map(self._picture, numbers):
            squares.append(_square(picture))
            fitted.append(clip.fit(picture) if self._networks.clip_images else None)
        arrays = {}
        if self._networks.inception:
            arrays['inception'] = self._networks.inception(np.stack(squares))
        if self._networks.clip_images:
            arrays['clip'] = self._networks.clip_images(np.stack(fitted))
        if self._networks.clip_captions and self._captions:
            texts = self._embed([tuple(self._captions(number)) for number in numbers])
            arrays['clip_score'] = clip_score.clip_scores(arrays['clip'], texts)
        content = io.BytesIO()
        np.savez(content, **arrays)
        self._folder.mkdir(parents=True, exist_ok=True)
        files.write_whole(self._path(start), content.getvalue())

    def _embed(self, captions: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
        new = [own for own in dict.fromkeys(captions) if own not in self._embedded]
        if new:
            embedded = self._networks.clip_captions([text for own in new for text in own])
            ends = np.cumsum([len(own) for own in new])
            self._embedded |= dict(zip(new, np.split(embedded, ends[:-1]), strict=True))
        return [self._embedded[own] for own in captions]


def _square(picture: np.ndarray) -> np.ndarray:
    """As preparation makes pictures; ours are so already."""
    side = geometry.IMAGE_SIZE
    return picture if picture.shape[:2] == (side, side) else geometry.fit_image(picture)


def frechet(features: Features, reference: fid.Statistics) -> float:
    """FID of pictures against statistics; warns where there are few."""
    found = fid.statistics(features.chunks('inception'))
    if found.count < fid.FULL_RANK:
        logging.warning(
            'FID of %d images is biased upwards; it takes %d or more, the paper 30,000.',
            found.count, fid.FULL_RANK,
        )  # fmt: skip
    return fid.frechet_distance(found, reference)


def mean_clip_score(features: Features) -> float:
    """The mean of `metrics.clip_score` over all pictures."""
    return float(np.concatenate([*features.chunks('clip_score')]).mean())


def discrepancy(features: Features, reference: Features) -> tuple[float, int]:
    """CMMD of the first pictures of two sets, and of how many of the first set it is."""
    one, other = (
        np.concatenate([*each.chunks('clip', _CMMD_PICTURES)]) for each in (features, reference)
    )
    return cmmd.cmmd(one, other), len(one)


def reference_statistics(
    path: epath.PathLike, features: Features, provenance: Mapping[str, Any]
) -> fid.Statistics:
    """Statistics of real pictures, read from `path` or computed and, by process 0, left there."""
    if epath.Path(path).exists():
        found, origin = fid.read(path)
        if origin == dict(provenance):
            return found
    found = fid.statistics(features.chunks('inception'))
    if not jax.process_index():
        fid.write(path, found, provenance)
    logging.info('Wrote the statistics of %d real images to %s.', found.count, path)
    return found
