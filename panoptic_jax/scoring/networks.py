"""The frozen networks that score images: Inception for FID, CLIP for its score and CMMD.

The networks are in `encoders/`; `scoring/features.py` computes and keeps their features.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from panoptic_jax.encoders import clip_folder as clip_folders
from panoptic_jax.encoders import inception, rows, weights_files
from panoptic_jax.machine import hosts

CHUNK = 500  # images whose features are kept together; the unit of work that a restart repeats
_ADD_INCEPTION = (
    '--config.evaluate.inception=FILE adds it, with the weights that --mode=import makes of '
    "pytorch-fid's Inception"
)
_ADD_CLIP = (
    '--config.evaluate.clip=DIR adds them, with the files of openai/clip-vit-base-patch32 in DIR'
)
_IMAGES_PER_DEVICE = 32
_CAPTIONS_PER_DEVICE = 40


class Networks(NamedTuple):
    """Frozen networks over any number of rows; None for a network that is not there.

    Attributes:
      inception: (n, 256, 256, 3) uint8 -> (n, 2048).
      clip_images: (n, 224, 224, 3) uint8 -> (n, d).
      clip_captions: n captions -> (n, d).
      hashes: For 'inception' and 'clip', where they are there, a hash of all that decides the
        features: weights, form and, for captions, the vocabulary.
      missing: For those that are not there, why, and how to add the network.
      block: Images that all devices together work on at a time, some seconds on a CPU.
    """

    inception: Callable[[np.ndarray], np.ndarray] | None
    clip_images: Callable[[np.ndarray], np.ndarray] | None
    clip_captions: Callable[[Sequence[str]], np.ndarray] | None
    hashes: dict[str, str]
    missing: dict[str, str]
    block: int


def load_networks(
    inception_weights: str,
    clip_folder: str,
    *,
    devices: Sequence[jax.Device] | None = None,
    chunk: int = CHUNK,
) -> Networks:
    """Loads the networks that are named and there; the others are missing, and scores of theirs.

    Args:
      inception_weights: Local or hf:// path of a safetensors file, see `encoders/inception.py`.
      clip_folder: Local or hf:// address of a folder, see `encoders/clip_folder.py`.
      devices: What the networks run on; None for all devices of this process.
      chunk: Images that come at a time, see `features.Features`.

    Raises:
      ValueError: a file holds something else, or the processes of a job do not have the same files.
    """
    inception_features = clip_images = clip_captions = None
    hashes, missing = {}, {}
    # A block of more images than ever come would be filled up with zeros.
    per_device = min(chunk, inception.IMAGES_PER_DEVICE)
    try:
        _require_named(inception_weights)
        inception_features, hashes['inception'] = _load_inception(
            inception_weights, per_device, devices
        )
    except FileNotFoundError as error:
        missing['inception'] = _reason(error, inception_weights, _ADD_INCEPTION)
    try:
        _require_named(clip_folder)
        clip_images, clip_captions, hashes['clip'] = _load_clip(
            clip_folder, min(chunk, _IMAGES_PER_DEVICE), devices
        )
    except FileNotFoundError as error:
        missing['clip'] = _reason(error, clip_folder, _ADD_CLIP)
    _require_same(hashes)
    return Networks(
        inception=inception_features,
        clip_images=clip_images,
        clip_captions=clip_captions,
        hashes=hashes,
        missing=missing,
        block=_IMAGES_PER_DEVICE * len(devices or jax.local_devices()),
    )


def _load_inception(
    path: str, per_device: int, devices: Sequence[jax.Device] | None
) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    what = "Inception's weights, which --mode=import makes of pytorch-fid's"
    located = weights_files.locate(path, 'evaluate.inception', what)
    return inception.on_devices(located, images_per_device=per_device, devices=devices)


def _load_clip(
    folder: str, per_device: int, devices: Sequence[jax.Device] | None
) -> tuple[Callable, Callable, str]:
    """Functions of images and of captions, and the hash of all that they depend on."""
    clip = clip_folders.load(folder, 'evaluate.clip')
    if not clip.image_embeddings:
        raise ValueError(
            f'evaluate.clip is {folder!r}, which holds a text tower alone; scores need a '
            'whole CLIP, such as ViT-B/32.'
        )
    images = rows.on_devices(clip.image_embeddings, clip.params, per_device, devices)
    embed = rows.on_devices(clip.text_embeddings, clip.params, _CAPTIONS_PER_DEVICE, devices)

    def captions(texts: Sequence[str]) -> np.ndarray:
        return embed(clip.tokenize(texts))

    # The weights' own hash says nothing of the vocabulary beside them, which makes the tokens.
    digest = hashlib.sha256(clip.sha256.encode())
    for name in clip_folders.FILES[1:]:
        path = weights_files.locate(f'{folder}/{name}', 'evaluate.clip', f"CLIP's {name}")
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return images, captions, digest.hexdigest()


def _require_named(path: str) -> None:
    if not path:
        raise FileNotFoundError('No file is named.')


def _reason(error: FileNotFoundError, path: str, add: str) -> str:
    """Why a network is not there, and how to add it; part of a sentence."""
    return str(error).rstrip('.') if path else add


def _require_same(hashes: dict[str, str]) -> None:
    """Raises ValueError unless all processes of a job have the networks that process 0 has."""
    for name in ('inception', 'clip'):
        # 28 bits of the hash: two different files have the same ones once in 3e8 times.
        own = int(hashes.get(name, '0')[:7], 16)
        if hosts.of_first(own) != own:
            raise ValueError(
                f'This process has another file of evaluate.{name} than process 0, or one of them '
                'has none; give all processes the same file.'
            )
