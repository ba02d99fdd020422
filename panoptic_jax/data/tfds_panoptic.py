"""A TFDS data set with the features of `coco/2017_panoptic` as a source of examples.

TFDS stores the files of images and maps as they are, so that the examples equal those of COCO's
folder (`data/coco.py`), in the order of the records. It stores neither captions, nor categories'
ids, nor which categories are things: captions come from COCO's JSON by image id or from the maps,
and the list of categories is COCO's or a file. `data/tfds_folders.py` opens the data set.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from panoptic_jax.data import (
    category_captions,
    coco_annotations,
    geometry,
    panoptic_png,
    pictures,
    tfds_folders,
)
from panoptic_jax.data.categories import COCO, remap, things_of
from panoptic_jax.data.example import Example, taken

_OBJECTS = ('id', 'label', 'is_crowd')
_FEATURES = {'image': (), 'image/id': (), 'panoptic_image': (), 'panoptic_objects': _OBJECTS}
# COCO's names of the splits, which its captions files have.
_COCO_SPLITS = {'train': 'train2017', 'validation': 'val2017'}


class TfdsPanoptic:
    """The captioned images of one split, in the order of the records; random access.

    Images without a caption are left out, and the log says how many.

    Attributes:
      categories: The category list, with ids within 1..254.
      source_ids: {our category id: the list's id}.
      available: How many images could be taken, whatever the limit.
      num_captions: (n,) int64, captions per image.
      description: What determines the examples, JSON-able: name and version of the data set, hashes
        of its `dataset_info.json`, of the category list and of the captions, the split and the
        count.

    Raises:
      FileNotFoundError: the data set, one of its files or the captions file is missing.
      ValueError: the data set has another form or other features, or a category that the list
        lacks.
    """

    def __init__(
        self,
        data_set: tfds_folders.DataSet,
        split: str,
        *,
        limit: float = 0,
        categories: str = '',
        captions: str = 'file',
        void_wins: bool = False,
    ) -> None:
        """Opens a split.

        Args:
          data_set: Where it lies.
          split: TFDS's name of the split; slices such as 'train[:10%]' as well.
          limit: How many images to take, from the first; see `taken`.
          categories: A JSON file with a list of categories; '' is COCO's list. The data set's own
            names of its categories must be in it.
          captions: 'file' reads `annotations/captions_train2017.json` below the root for the split
            'train' and `captions_val2017.json` for 'validation'; other splits have files of their
            own names. All records are read once for their image ids. 'categories' makes one
            caption of what each stored map shows.
          void_wins: How maps are pooled, see `fit_map`; what a stored map shows depends on it.
        """
        self._split = split
        self._void_wins = void_wins
        self._builder = tfds_folders.open_builder(data_set)
        labels = _label_names(self._builder)
        categories_hash = self._set_categories(labels, categories)
        self._records = tfds_folders.open_split(
            self._builder, split, undecoded=('image', 'panoptic_image')
        )
        self._captions = None
        captions_hash = 'categories of the stored maps'
        if captions == 'file':
            path = _captions_path(epath.Path(data_set.root) / 'annotations', split)
            self._captions, captions_hash = coco_annotations.read_captions(path, data_set.root)
            captioned = self._find_captioned(path)
        else:
            captioned = np.arange(len(self._records))
        self.available = len(captioned)
        self._indices = captioned[: taken(self.available, limit)]
        self.num_captions = np.ones(len(self._indices), np.int64)
        if self._captions is not None:
            ids = self._image_ids[self._indices].tolist()
            self.num_captions = np.array([len(self._captions[image_id]) for image_id in ids])
        info = epath.Path(self._builder.data_path) / 'dataset_info.json'
        self.description = {
            'source': 'tfds',
            'name': data_set.name.partition(':')[0],
            'version': str(self._builder.version),
            'split': split,
            'count': len(self._indices),
            'info_sha256': hashlib.sha256(info.read_bytes()).hexdigest(),
            'categories_sha256': categories_hash,
            'captions_sha256': captions_hash,
        }

    def _set_categories(self, labels: list[str], path: str) -> str:
        """Sets the categories and what the data set's labels mean; returns the list's hash."""
        if path:
            entries, sha256 = coco_annotations.read_categories(epath.Path(path))
            self.categories, ours = coco_annotations.to_categories(entries, epath.Path(path))
        else:
            self.categories, ours = remap(COCO)
            sha256 = hashlib.sha256(json.dumps(COCO).encode()).hexdigest()
        self.source_ids = {our_id: their_id for their_id, our_id in ours.items()}
        self._names = {category.id: category.name for category in self.categories}
        self._things = things_of(self.categories)
        ids = {name: number for number, name in self._names.items()}
        of_list = f'the list {path}' if path else "COCO's list"
        if len(ids) < len(self._names):
            raise ValueError(
                f'Two categories of {of_list} have one name, and labels of TFDS are known by name; '
                'rename one of them.'
            )
        unknown = [name for name in labels if name not in ids]
        if unknown:
            raise ValueError(
                f'{self._builder.data_path} has {len(unknown)} of {len(labels)} categories that '
                f'{of_list} lacks, the first {unknown[0]!r}; set data.categories to a JSON list of '
                'them, each with id, name and isthing.'
            )
        self._ids = {label: ids[name] for label, name in enumerate(labels)}
        return sha256

    def _find_captioned(self, path: epath.Path) -> np.ndarray:
        """(n,) int64: the indices of the records that have a caption; also sets the image ids."""
        self._image_ids = tfds_folders.read_numbers(self._builder, self._split, 'image/id')
        has_caption = [image_id in self._captions for image_id in self._image_ids.tolist()]
        captioned = np.flatnonzero(has_caption)
        without = len(has_caption) - len(captioned)
        if without:
            logging.info(
                '%d of %d images of %s have no caption.', without, len(has_caption), self._split
            )
        if not len(captioned):
            raise ValueError(
                f'None of the {len(has_caption)} images of the split {self._split!r} of '
                f'{self._builder.data_path} has a caption in {path}; both must be of one split.'
            )
        return captioned

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        """The image with its map, at full size; its `image_id` is TFDS's 'image/id'.

        Raises:
          ValueError: a record or its picture is damaged, or image and map do not fit.
        """
        number = int(self._indices[index])
        name = f'{self._builder.data_path}, split {self._split!r}, record {number}'
        try:
            record = self._records[number]
        except Exception as error:
            raise ValueError(f'{name} cannot be read ({error}); restore the file.') from error
        name = f'{name} (image {record["image/id"]})'
        colours = pictures.decode_colours(record['panoptic_image'], f'The map of {name}')
        image, is_lying = pictures.decode_image_of_map(
            record['image'], f'The image of {name}', colours.shape, 'its map'
        )
        if is_lying:
            logging.log_first_n(
                logging.WARNING,
                'The image of %s is to be turned by its EXIF orientation, but its map fits it as '
                'it is stored: it is kept so.',
                3,
                name,
            )
        try:
            category, instance = panoptic_png.to_maps(
                panoptic_png.segment_ids(colours),
                _segments_info(record['panoptic_objects']),
                self._ids,
                self._things,
            )
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
        image_id = int(record['image/id'])
        if self._captions is None:
            stored, _ = geometry.fit_map(category, instance, self._void_wins)
            captions = [category_captions.caption(stored, self._names)]
        else:
            captions = list(self._captions[image_id])
        return Example(image, category, instance, captions, image_id)


def _label_names(builder: tfds.core.DatasetBuilder) -> list[str]:
    """The names of the categories, by label; refuses features that are not those of COCO's maps."""
    tfds_folders.require_features(builder, _FEATURES, like='coco/2017_panoptic')
    objects = builder.info.features['panoptic_objects'].feature
    names = getattr(objects['label'], 'names', None)
    if not names:
        raise ValueError(
            f'{builder.data_path}: panoptic_objects/label has no names of categories; it must be a '
            'ClassLabel, as in coco/2017_panoptic.'
        )
    return names


def _captions_path(annotations: epath.Path, split: str) -> epath.Path:
    """The captions file of a split, by TFDS's name of it or by COCO's."""
    name = split.partition('[')[0]
    own = annotations / f'captions_{name}.json'
    if own.exists():
        return own
    return coco_annotations.find_captions(annotations, _COCO_SPLITS.get(name, name))


def _segments_info(objects: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The segments of a record in the form that COCO's annotations have, with labels for ids."""
    columns = [np.asarray(objects[name]).tolist() for name in _OBJECTS]
    return [
        {'id': number, 'category_id': label, 'iscrowd': int(is_crowd)}
        for number, label, is_crowd in zip(*columns, strict=True)
    ]
