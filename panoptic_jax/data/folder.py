"""A folder of captioned images without maps as a source of examples, for the image-only U-ViT.

Layout: `{split}/*.jpg` (or png, webp) and their captions. The captions are either in
`{split}/captions.jsonl`, one line {"file_name", "caption" or "captions"} per image, or in a `.txt`
file beside each image, with the image's name and one caption per line.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import pictures
from panoptic_jax.data.example import Example


class CaptionedFolder:
    """The captioned images of one split, in the order of their names; random access.

    Attributes:
      categories: (), since there are no maps.
      source_ids: {}.
      num_captions: (n,) int64, captions per image.
      description: What determines the examples, JSON-able: a hash of names and captions, the split
        and the count. The hash does not cover the picture files.

    Raises:
      FileNotFoundError: the folder is missing, or an image that `captions.jsonl` names.
      ValueError: no image has a caption, or a captions file is not what it should be.
    """

    categories = ()

    def __init__(self, root: str, split: str, limit: int = 0) -> None:
        """Reads the captions of a split.

        Args:
          root: The folder that holds a folder of images for each split.
          split: The name of the split's folder.
          limit: How many images to take, from the first; 0 takes all.
        """
        self._folder = epath.Path(root) / split
        if not root or not self._folder.is_dir():
            raise FileNotFoundError(
                f'data.root is {root!r}, which has no folder {split}/; it must hold a folder of '
                'images for each split.'
            )
        # One listing answers all questions below; in a bucket each question would be a request.
        files = {path.name: path for path in self._folder.iterdir()}
        images = sorted(name for name in files if _is_image(name))
        lines = self._folder / 'captions.jsonl'
        if lines.name in files:
            captions = _read_lines(lines)
            _check_images(self._folder, lines.name, captions, files)
        else:
            captions = _read_texts(images, files)
        captioned = [name for name in sorted(captions) if captions[name]]
        if not captioned:
            raise ValueError(
                f'No image of {self._folder} has a caption; give a captions.jsonl, or beside each '
                'image a .txt of its name.'
            )
        without = len(images) - len(captioned)
        if without:
            logging.info('%d of %d images of %s have no caption.', without, len(images), split)
        # The limit counts captioned images, so it is what the data set will hold.
        self._names = captioned[:limit] if limit else captioned
        self.source_ids: dict[int, int] = {}
        self._captions = [captions[name] for name in self._names]
        self.num_captions = np.array([len(own) for own in self._captions])
        # Other captions make other text features, so a changed caption must show in the manifest.
        content = json.dumps([self._names, self._captions])
        self.description = {
            'source': 'folder',
            'split': split,
            'count': len(self._names),
            'captions_sha256': hashlib.sha256(content.encode()).hexdigest(),
        }

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """The image at full size, without a map; its id is its place in the order of names.

        Raises:
          ValueError: the picture file is unreadable.
        """
        # Cameras store how they were held. There is no map that would have to turn as well.
        image = pictures.read_picture(self._folder / self._names[index], upright=True)
        return Example(
            image=image,
            category=None,
            instance=None,
            captions=list(self._captions[index]),
            image_id=index,
        )


def _is_image(name: str) -> bool:
    return epath.Path(name).suffix.lower() in pictures.SUFFIXES


def _check_images(
    folder: epath.Path,
    captions_name: str,
    captions: Mapping[str, Sequence[str]],
    files: Mapping[str, epath.Path],
) -> None:
    # Text files need no check: they are looked up by the images that are there.
    missing = sorted(captions.keys() - files.keys())
    if missing:
        raise FileNotFoundError(
            f'{folder} lacks {len(missing)} of the {len(captions)} images of '
            f'{captions_name}, the first {missing[0]}.'
        )


def _read_texts(images: Sequence[str], files: Mapping[str, epath.Path]) -> dict[str, list[str]]:
    """{image's name: captions} of the text files beside the images."""
    captions = {}
    for image in images:
        name = epath.Path(image).with_suffix('.txt').name
        if name in files:
            captions[image] = _clean(_read_text(files[name]).splitlines())
    return captions


def _read_lines(path: epath.Path) -> dict[str, list[str]]:
    """{image's name: captions} of a file with one JSON object per line."""
    captions = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            own = entry['captions'] if 'captions' in entry else [entry['caption']]
            # Several lines may name one image, each with one of its captions.
            captions.setdefault(entry['file_name'], []).extend(_clean(own))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path}, line {number}: {error!r}; each line must be a JSON object with file_name '
                'and caption (or captions).'
            ) from error
    return captions


def _read_text(path: epath.Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is no text in UTF-8 ({error}); save it as such.') from error


def _clean(captions: Sequence[str]) -> list[str]:
    """The captions without line breaks and double spaces, and without empty captions."""
    texts = [' '.join(caption.split()) for caption in captions]
    # An empty caption would mean the dropped text.
    return [text for text in texts if text]
