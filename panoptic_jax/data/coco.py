"""A COCO-panoptic folder as a source of examples, checked for completeness before any work.

Layout: `annotations/panoptic_{split}.json`, `annotations/panoptic_{split}/*.png`,
`annotations/captions_{split}.json` and `{split}/*.jpg`. Any split name and any category list of up
to 254 will do. Cropping, resizing and encoding are `prepare.py`'s.
"""

import collections
import hashlib
import json
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import category_captions, panoptic_png
from panoptic_jax.data.categories import remap
from panoptic_jax.data.example import Category, Example
from panoptic_jax.data.pictures import read_picture


class CocoPanoptic:
    """The captioned images of one split, in the order of the panoptic JSON; random access.

    Images without a caption are left out (the log says how many). Crowd segments keep their
    category and have no instance number.

    Attributes:
      categories: From the panoptic JSON, ids within 1..254.
      source_ids: {our category id: the JSON's}.
      num_captions: (n,) int64, captions per image.
      description: What determines the examples, JSON-able: hashes of both JSONs, split, count. The
        pictures themselves are not hashed.

    Raises:
      FileNotFoundError: a JSON, image or PNG is missing; names the first and how to get it.
      ValueError: a JSON is not what it should be.
    """

    def __init__(
        self,
        root: str,
        split: str,
        limit: int = 0,
        categories: str = '',
        captions: str = 'file',
    ) -> None:
        """Reads the split's JSONs.

        Args:
          root: The folder.
          split: Its name in the file names.
          limit: Only the first images; 0: all.
          categories: JSON file with a list of categories; '': the panoptic JSON's own.
          captions: 'file': of captions_{split}.json; 'categories': one made of what the map shows,
            for data sets without captions.
        """
        self._root, self._split = epath.Path(root), split
        annotations = self._root / 'annotations'
        if not root or not annotations.exists():
            raise FileNotFoundError(
                f'data.root is {root!r}, which has no folder annotations/; it must be the folder '
                "into which COCO's zip files were unpacked."
            )
        panoptic_path = annotations / f'panoptic_{split}.json'
        archive = f'panoptic_annotations_trainval2017.zip inside {self._root}'
        panoptic, panoptic_hash = _read_json(
            panoptic_path,
            ('images', 'annotations') if categories else ('images', 'annotations', 'categories'),
            f'unzip {archive}',
        )
        listed, list_path = panoptic.get('categories'), panoptic_path
        if categories:
            list_path = epath.Path(categories)
            listed, list_hash = _read_json(list_path, (), 'give the path of a list of categories')
            panoptic_hash = f'{panoptic_hash} {list_hash}'
        self.categories, self._category_ids = _categories(listed, list_path)
        self.source_ids = {ours: theirs for theirs, ours in self._category_ids.items()}
        self._things = frozenset(entry.id for entry in self.categories if entry.is_thing)
        if captions == 'categories':
            captions_path, captions_hash = panoptic_path, 'categories'
            names = {self.source_ids[category.id]: category.name for category in self.categories}
            self._captions = {
                entry['image_id']: [category_captions.caption(entry['segments_info'], names)]
                for entry in panoptic['annotations']
            }
        else:
            captions_path = _captions_path(annotations, split)
            self._captions, captions_hash = _read_captions(captions_path, self._root)

        self._files = {image['id']: image['file_name'] for image in panoptic['images']}
        annotated = panoptic['annotations']
        _check_ids(annotated, self._files, panoptic_path)
        self._annotations = [entry for entry in annotated if entry['image_id'] in self._captions]
        if without := len(annotated) - len(self._annotations):
            logging.info('%d of %d images of %s have no caption.', without, len(annotated), split)
        if not self._annotations:
            raise ValueError(
                f'None of the {len(annotated)} images of {panoptic_path} has a caption in '
                f'{captions_path}; both must be of the same split.'
            )
        if limit:
            self._annotations = self._annotations[:limit]
        self.num_captions = np.array(
            [len(self._captions[entry['image_id']]) for entry in self._annotations]
        )
        self._png_folder = annotations / f'panoptic_{split}'
        self._image_folder = self._root / split
        self._check_pictures()
        self.description = {
            'source': 'coco',
            'split': split,
            'count': len(self._annotations),
            'panoptic_sha256': panoptic_hash,
            'captions_sha256': captions_hash,
        }

    def _check_pictures(self) -> None:
        _check_complete(
            self._png_folder,
            [entry['file_name'] for entry in self._annotations],
            f'unzip annotations/{self._png_folder.name}.zip inside {self._png_folder.parent}',
        )
        _check_complete(
            self._image_folder,
            [self._files[entry['image_id']] for entry in self._annotations],
            f'unzip {self._split}.zip inside {self._root}',
        )

    def __len__(self) -> int:
        return len(self._annotations)

    def __getitem__(self, index: int) -> Example:
        """The picture with its maps, at full size.

        Its number is the JSON's image id, or `index` where ids are no numbers (ADE20K, Cityscapes).

        Raises:
          ValueError: a picture is unreadable, or does not fit its annotation.
        """
        entry = self._annotations[index]
        image_path = self._image_folder / self._files[entry['image_id']]
        png_path = self._png_folder / entry['file_name']
        image, colours = read_picture(image_path), read_picture(png_path)
        if image.shape != colours.shape:
            raise ValueError(
                f'{image_path} has {image.shape[1]}x{image.shape[0]} pixels and {png_path} '
                f'{colours.shape[1]}x{colours.shape[0]}; both must be originals of one release.'
            )
        try:
            category, instance = panoptic_png.to_maps(
                panoptic_png.segment_ids(colours),
                entry['segments_info'],
                self._category_ids,
                self._things,
            )
        except ValueError as error:
            raise ValueError(f'{png_path}: {error}') from error
        number = entry['image_id'] if isinstance(entry['image_id'], int) else index
        captions = list(self._captions[entry['image_id']])
        return Example(image, category, instance, captions, number)


def _read_captions(path: epath.Path, root: epath.Path) -> tuple[dict[int, list[str]], str]:
    """{image id: captions} of a captions JSON, and its SHA-256."""
    fix = f'unzip annotations_trainval2017.zip inside {root}'
    content, sha256 = _read_json(path, ('annotations',), fix)
    captions = collections.defaultdict(list)
    for annotation in content['annotations']:
        # Line breaks and double spaces occur; an empty caption would mean the dropped text.
        if caption := ' '.join(annotation['caption'].split()):
            captions[annotation['image_id']].append(caption)
    if not captions:
        raise ValueError(
            f'{path} holds no captions; training needs at least one per image: use '
            "COCO's captions file of the same split."
        )
    return captions, sha256


def _captions_path(annotations: epath.Path, split: str) -> epath.Path:
    """The split's captions file; one with something after the split's name will do."""
    path = annotations / f'captions_{split}.json'
    if path.exists():
        return path
    others = sorted(annotations.glob(f'captions_{split}*.json'))
    if len(others) > 1:
        raise ValueError(
            f'{annotations} holds {", ".join(other.name for other in others)}; rename the one to '
            f'use to {path.name}.'
        )
    return others[0] if others else path


def _read_json(path: epath.Path, keys: tuple[str, ...], fix: str) -> tuple[dict[str, Any], str]:
    """Content and SHA-256 of a JSON file that must have these keys."""
    if not path.exists():
        raise FileNotFoundError(f'{path} is missing; {fix}.')
    text = path.read_bytes()
    try:
        content = json.loads(text)
        lacking = [key for key in keys if key not in content]
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON ({error}); {fix} again.') from error
    if lacking:
        raise ValueError(f'{path} lacks {lacking[0]!r}; it must be an annotation file of COCO.')
    return content, hashlib.sha256(text).hexdigest()


def _categories(
    entries: list[dict[str, Any]], path: epath.Path
) -> tuple[tuple[Category, ...], dict[int, int]]:
    try:
        return remap(
            [Category(entry['id'], entry['name'], bool(entry['isthing'])) for entry in entries]
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: not a list of categories ({error!r}); each needs id, name and isthing.'
        ) from error
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def _check_ids(annotated: list[dict[str, Any]], files: dict[int, str], path: epath.Path) -> None:
    unknown = [entry['image_id'] for entry in annotated if entry['image_id'] not in files]
    if unknown:
        raise ValueError(
            f'{path}: {len(unknown)} annotations, the first of image {unknown[0]}, have no entry '
            "in 'images'; restore the original file."
        )


def _check_complete(folder: epath.Path, names: list[str], fix: str) -> None:
    # One listing rather than a question per file: 118,287 of them on a network disk take long.
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if missing := sorted(set(names) - present):
        raise FileNotFoundError(
            f'{folder} lacks {len(missing)} of {len(names)} files, the first {missing[0]}; {fix}.'
        )
