"""The looks of the training images, which pairs are compared with; made once and kept in a file.

`quality/nearest.py` searches them, `quality/looks.py` says what looks are.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.logs.progress import Progress
from panoptic_jax.machine import files
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.quality import looks, nearest

VERSION = 1  # of what looks are; files of another one are made anew
_BLOCK = 1024  # training images that are compared at once
_MEASURED = 2000  # at most: training images whose own neighbours are looked for
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class Training(NamedTuple):
    """Training images as pairs are compared with them.

    Attributes:
      looks: (m, d) float16; two kilobytes an image, which its thumbnail needs no more of.
      names: For each image what it is called, such as the source's number of it.
      near: What counts as nearly a copy.
    """

    looks: np.ndarray
    names: Sequence[int | str]
    near: nearest.Near

    def search(self, own: np.ndarray) -> nearest.Found:
        """The nearest training image, as it is or mirrored, of each row of looks (n, d)."""
        return nearest.search(own, blocks_of(self.looks), mirror=looks.mirrored)


def blocks_of(own: np.ndarray) -> Iterator[np.ndarray]:
    """Looks in blocks, as `nearest.search` takes them."""
    for first in range(0, len(own), _BLOCK):
        yield own[first : first + _BLOCK]


def training_of(own: np.ndarray, names: Sequence[int | str]) -> Training:
    """Training images by their looks; measures how near they lie to each other.

    Args:
      own: (m, d) looks of all of them.
      names: What they are called.

    Raises:
      ValueError: there are less than two.
    """
    # Evenly, since neighbours in a list may come from one place.
    step = max(1, len(own) // _MEASURED)
    numbers = np.arange(0, len(own), step)
    neighbours = nearest.search(own[numbers], blocks_of(own), own=numbers, mirror=looks.mirrored)
    return Training(own, names, nearest.near(neighbours))


def looks_of(
    read: Callable[[int], tuple[np.ndarray, np.ndarray | None]],
    count: int,
    *,
    path: epath.Path,
    provenance: Mapping[str, Any],
    interruption: Interruption = UNINTERRUPTED,
) -> np.ndarray:
    """The looks of training images: (count, 1024) float16, read from a file or made and left there.

    Args:
      read: Number of an image -> the image and its map of category ids, see `looks.look`.
      count: Images.
      path: The file, .npz.
      provenance: What the images are, JSON-able; a file with another one is made anew.
      interruption: Asked between images; what is made until then is lost.

    Raises:
      Interrupted: SIGTERM came.
    """
    origin = json.dumps({**provenance, 'count': count, 'version': VERSION}, sort_keys=True)
    kept = _kept(path, origin)
    if kept is not None:
        return kept
    made = np.zeros((count, looks.LENGTH), np.float16)
    progress = Progress('evaluate', 'training images', count)
    for number in range(count):
        interruption.leave_if_asked()
        made[number] = looks.look(*read(number))
        progress.add()
    content = io.BytesIO()
    # Most shares of categories are zero, so that packing saves a third.
    np.savez_compressed(content, looks=made, origin=origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, content.getvalue())
    logging.info('Wrote the looks of %d training images to %s.', count, path)
    return made


def _kept(path: epath.Path, origin: str) -> np.ndarray | None:
    """The looks of a file, if it is of these images; a damaged one is made anew."""
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            return content['looks'] if str(content['origin']) == origin else None
    except _UNREADABLE:
        logging.warning('%s is damaged and is made anew.', path)
        return None
