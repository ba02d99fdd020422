"""A folder of captioned images without maps as a source of examples, for the image-only U-ViT.

Layout: `{split}/*.jpg` (or png, webp) and their captions. The captions are either in
`{split}/captions.jsonl`, one line {"file_name", "caption" or "captions"} per image, or in a `.txt`
file beside each image, with the image's name and one caption per line. A line's `file_name` may
lead into folders below the split's; texts are looked for in the split's own folder alone. Where two
images differ in their endings alone, the one text of that name holds the captions of both.
"""

import collections
import hashlib
import json
from collections.abc import Collection, Sequence

import msgspec
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import picture_files, pictures, text_files
from panoptic_jax.data.example import Example, taken
from panoptic_jax.machine import files


class _Line(msgspec.Struct):
    """A line of `captions.jsonl`; where it has both, `captions` counts."""

    file_name: str
    caption: str | msgspec.UnsetType = msgspec.UNSET
    # A text is one caption: as a list it would be captions of one letter.
    captions: str | list[str] | msgspec.UnsetType = msgspec.UNSET


class CaptionedFolder:
    """The captioned images of one split, in the order of their names; random access.

    Attributes:
      categories: (), since there are no maps.
      source_ids: {}.
      available: How many images have a caption, whatever the limit.
      num_captions: (n,) int64, captions per image.
      description: What determines the examples, JSON-able: a hash of names and captions, the split
        and the count. The hash does not cover the picture files.

    Raises:
      FileNotFoundError: the folder is missing, or an image that `captions.jsonl` names.
      ValueError: no image has a caption, or a captions file is not what it should be.
    """

    categories = ()

    def __init__(self, root: str, split: str, limit: float = 0) -> None:
        """Reads the captions of a split.

        Args:
          root: The folder that holds a folder of images for each split.
          split: The name of the split's folder.
          limit: How many images to take, from the first; see `taken`.
        """
        self._folder = epath.Path(root) / split
        if not root or not self._folder.is_dir():
            raise FileNotFoundError(
                f'data.root is {root!r}, which has no folder {split}/; it must hold a folder of '
                'images for each split.'
            )
        # One listing answers all questions below; in a bucket each question would be a request. It
        # leaves out folders, whatever their names.
        names = files.sizes_and_times(self._folder)
        images = sorted(filter(pictures.is_picture, names))
        if 'captions.jsonl' in names:
            captions = _read_entries(self._folder, names)
        else:
            captions = _read_texts(self._folder, images, names)
        captioned = [name for name in sorted(captions) if captions[name]]
        if not captioned:
            raise ValueError(
                f'No image of {self._folder} has a caption; give a captions.jsonl, or beside each '
                'image a .txt of its name.'
            )
        without = len(set(images) - set(captioned))
        if without:
            logging.info('%d of %d images of %s have no caption.', without, len(images), split)
        # The limit counts captioned images, so it is what the data set will hold.
        self.available = len(captioned)
        self._names = captioned[: taken(self.available, limit)]
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

    @property
    def image_paths(self) -> list[epath.Path]:
        """The files of the images, in order; the evaluation looks at their sizes and times."""
        return [self._folder / name for name in self._names]

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


def _read_texts(
    folder: epath.Path, images: Sequence[str], names: Collection[str]
) -> dict[str, list[str]]:
    """{image's name: captions} of the text files beside the images."""
    exact, alike = {}, {}
    # Sorted, so that of 'a.TXT' and 'a.txt' always the same one counts: the latter.
    for name in sorted(names):
        path = epath.Path(name)
        # macOS puts a '._a.txt' beside the 'a.txt' that it copies.
        if path.suffix.lower() == '.txt' and not name.startswith('.'):
            exact[path.stem] = alike[picture_files.compose(path.stem)] = name
    captions = {}
    for image in images:
        stem = epath.Path(image).stem
        name = exact.get(stem) or alike.get(picture_files.compose(stem))
        if name:
            captions[image] = _clean(text_files.read_lines(folder / name))
    return captions


def _read_entries(folder: epath.Path, names: Collection[str]) -> dict[str, list[str]]:
    """{image's path below the folder: captions} of the file with a JSON object per line."""
    path = folder / 'captions.jsonl'
    needs = 'file_name and caption (or captions, a list of texts)'
    told = collections.defaultdict(list)
    for number, line in text_files.read_entries(path, _Line, needs):
        own = line.caption if line.captions is msgspec.UNSET else line.captions
        if own is msgspec.UNSET:
            raise ValueError(
                f'{path}, line {number}: it has no caption; each line must be a JSON object with '
                f'{needs}.'
            )
        # Several lines may name one image, each with one of its captions.
        told[line.file_name] += _clean([own] if isinstance(own, str) else own)
    fix = f'add them or correct {path.name}'
    found = picture_files.find_files(folder, [*told], named_in=path, fix=fix)
    folders = [place for place in found if '/' not in place and place not in names]
    if folders:
        raise ValueError(f'{path}: {folders[0]} is a folder of {folder} and no picture.')
    return dict(zip(found, told.values(), strict=True))


def _clean(captions: Sequence[str]) -> list[str]:
    """The captions without line breaks and double spaces, and without empty captions."""
    texts = [' '.join(caption.split()) for caption in captions]
    # An empty caption would mean the dropped text.
    return [text for text in texts if text]
