"""A folder of captioned images without maps as a source of examples, for the image-only U-ViT.

Layout: `{split}/*.jpg` (or png, webp) and their captions, either `{split}/captions.jsonl`, a line
{"file_name", "caption" or "captions"} per image, or a `.txt` of the image's name with one a line.
"""

import hashlib
import json

import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import pictures
from panoptic_jax.data.example import Example


class CaptionedFolder:
    """The captioned images of one split, in the order of their names; random access.

    Attributes:
      categories: None: ().
      num_captions: (n,) int64, captions per image.
      description: What determines the examples, JSON-able: a hash of names and captions, split,
        count. The pictures themselves are not hashed.

    Raises:
      FileNotFoundError: no such folder, or an image that captions.jsonl names is missing.
      ValueError: no captions, or a captions.jsonl that is not what it should be.
    """

    categories = ()

    def __init__(self, root: str, split: str, limit: int = 0) -> None:
        self._folder = epath.Path(root) / split
        if not root or not self._folder.is_dir():
            raise FileNotFoundError(
                f'data.root is {root!r}, which has no folder {split}/; it must hold a folder of '
                'images for each split.'
            )
        files = {path.name: path for path in self._folder.iterdir()}
        names = sorted(
            name for name in files if epath.Path(name).suffix.lower() in pictures.SUFFIXES
        )
        listed = self._folder / 'captions.jsonl'
        if listed.name in files:
            captions = _read_lines(listed)
            if missing := sorted(captions.keys() - files.keys()):
                raise FileNotFoundError(
                    f'{self._folder} lacks {len(missing)} of the {len(captions)} images of '
                    f'{listed.name}, the first {missing[0]}.'
                )
        else:
            texts = {name: epath.Path(name).with_suffix('.txt').name for name in names}
            captions = {
                name: _clean(_read_text(files[text]).splitlines())
                for name, text in texts.items()
                if text in files
            }
        captioned = [name for name in sorted(captions) if captions[name]]
        if not captioned:
            raise ValueError(
                f'No image of {self._folder} has a caption; give a captions.jsonl, or beside each '
                'image a .txt of its name.'
            )
        if without := len(names) - len(captioned):
            logging.info('%d of %d images of %s have no caption.', without, len(names), split)
        self._names = captioned[:limit] if limit else captioned
        self._captions = [captions[name] for name in self._names]
        self.num_captions = np.array([len(own) for own in self._captions])
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
        """The picture at full size, without maps; its id is its place in the order of names.

        Raises:
          ValueError: the picture is unreadable.
        """
        image = pictures.read_picture(self._folder / self._names[index], upright=True)
        return Example(image, None, None, list(self._captions[index]), index)


def _read_lines(path: epath.Path) -> dict[str, list[str]]:
    captions = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            own = entry['captions'] if 'captions' in entry else [entry['caption']]
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


def _clean(captions: list[str]) -> list[str]:
    """Without line breaks, double spaces and empty captions, which would mean the dropped text."""
    return [text for caption in captions if (text := ' '.join(caption.split()))]
