"""A COCO-panoptic folder as a source of examples, checked for completeness before any work.

Layout: `annotations/panoptic_{split}.json`, `annotations/panoptic_{split}/*.png`,
`annotations/captions_{split}.json` and `{split}/*.jpg`. Split names and category lists (up to 254
categories) other than COCO's work as well. `data/coco_annotations.py` reads the JSON files, and
`data/geometry.py` crops and resizes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import category_captions, coco_annotations, panoptic_png
from panoptic_jax.data.example import Example
from panoptic_jax.data.pictures import read_picture


class CocoPanoptic:
    """The captioned images of one split, in the order of the panoptic JSON; random access.

    Images without a caption are left out, and the log says how many. Crowd segments keep their
    category and have no instance number.

    Attributes:
      categories: The category list, with ids within 1..254.
      source_ids: {our category id: the id in the JSON}.
      num_captions: (n,) int64, captions per image.
      description: What determines the examples, JSON-able: hashes of both JSON files, the split and
        the count. The hashes do not cover the picture files.

    Raises:
      FileNotFoundError: a JSON, image or PNG file is missing. The message names the first missing
        file and how to get it.
      ValueError: a JSON file is not what it should be.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        limit: int = 0,
        categories: str = '',
        captions: str = 'file',
    ) -> None:
        """Reads the JSON files of a split.

        Args:
          root: The folder.
          split: The split's name, which is part of the file names.
          limit: How many images to take, from the first; 0 takes all.
          categories: A JSON file with a list of categories; '' takes the panoptic JSON's list.
          captions: 'file' reads `captions_{split}.json`; 'categories' makes one caption of what
            each map shows, for data sets without captions.
        """
        self._root = epath.Path(root)
        self._split = split
        annotations = self._root / 'annotations'
        if not root or not annotations.exists():
            raise FileNotFoundError(
                f'data.root is {root!r}, which has no folder annotations/; it must be the folder '
                "into which COCO's zip files were unpacked."
            )
        # Everything that is missing or wrong is named here: preparation can take hours, and it must
        # not stop midway.
        panoptic_path = annotations / f'panoptic_{split}.json'
        panoptic, panoptic_hash = self._read_panoptic(panoptic_path, categories)
        if captions == 'categories':
            captions_path, captions_hash = panoptic_path, 'categories'
            self._captions = self._name_categories(panoptic['annotations'])
        else:
            captions_path = coco_annotations.find_captions(annotations, split)
            self._captions, captions_hash = coco_annotations.read_captions(
                captions_path, self._root
            )

        self._files = {image['id']: image['file_name'] for image in panoptic['images']}
        coco_annotations.check_images(panoptic['annotations'], self._files, panoptic_path)
        captioned = self._with_captions(panoptic['annotations'], panoptic_path, captions_path)
        # The limit counts captioned images, so it is what the data set will hold.
        self._annotations = captioned[:limit] if limit else captioned
        counts = [len(self._captions[entry['image_id']]) for entry in self._annotations]
        self.num_captions = np.array(counts)
        self._png_folder = annotations / f'panoptic_{split}'
        self._image_folder = self._root / split
        self._check_pictures()
        # A manifest holds these keys: other names would make prepared data look foreign.
        self.description = {
            'source': 'coco',
            'split': split,
            'count': len(self._annotations),
            'panoptic_sha256': panoptic_hash,
            'captions_sha256': captions_hash,
        }

    def _read_panoptic(self, path: epath.Path, categories: str) -> tuple[dict[str, Any], str]:
        """The panoptic JSON and the hash of all that was read; also sets the categories."""
        keys = ['images', 'annotations']
        # A list of one's own serves data sets whose panoptic JSON has none.
        if not categories:
            keys.append('categories')
        archive = f'panoptic_annotations_trainval2017.zip inside {self._root}'
        panoptic, sha256 = coco_annotations.read_json(path, keys, f'unzip {archive}')
        entries, list_path = panoptic.get('categories'), path
        if categories:
            list_path = epath.Path(categories)
            entries, list_sha256 = coco_annotations.read_json(
                list_path, (), 'give the path of a list of categories'
            )
            # Another list gives other ids, so it belongs to what determines the examples.
            sha256 = f'{sha256} {list_sha256}'
        self.categories, self._category_ids = coco_annotations.to_categories(entries, list_path)
        self.source_ids = {ours: theirs for theirs, ours in self._category_ids.items()}
        self._things = frozenset(entry.id for entry in self.categories if entry.is_thing)
        return panoptic, sha256

    def _name_categories(self, annotations: Sequence[Mapping[str, Any]]) -> dict[int, list[str]]:
        """{image id: [a caption made of the categories that its map shows]}."""
        # The annotations still hold the JSON's ids.
        names = {self.source_ids[category.id]: category.name for category in self.categories}
        captions = {}
        for entry in annotations:
            caption = category_captions.caption(entry['segments_info'], names)
            captions[entry['image_id']] = [caption]
        return captions

    def _with_captions(
        self,
        annotations: Sequence[Mapping[str, Any]],
        panoptic_path: epath.Path,
        captions_path: epath.Path,
    ) -> list[Mapping[str, Any]]:
        """The annotations of the images that have a caption; the paths are for the message."""
        captioned = [entry for entry in annotations if entry['image_id'] in self._captions]
        without = len(annotations) - len(captioned)
        if without:
            logging.info(
                '%d of %d images of %s have no caption.', without, len(annotations), self._split
            )
        if not captioned:
            raise ValueError(
                f'None of the {len(annotations)} images of {panoptic_path} has a caption in '
                f'{captions_path}; both must be of the same split.'
            )
        return captioned

    def _check_pictures(self) -> None:
        """Checks that all picture files are there, which a partial unzip leaves out."""
        maps = [entry['file_name'] for entry in self._annotations]
        fix = f'unzip annotations/{self._png_folder.name}.zip inside {self._png_folder.parent}'
        coco_annotations.check_files(self._png_folder, maps, fix)
        images = [self._files[entry['image_id']] for entry in self._annotations]
        fix = f'unzip {self._split}.zip inside {self._root}'
        coco_annotations.check_files(self._image_folder, images, fix)

    def __len__(self) -> int:
        return len(self._annotations)

    def __getitem__(self, index: int) -> Example:
        """The image with its map, at full size.

        The example's `image_id` is the JSON's image id, or `index` where the JSON's ids are not
        numbers (ADE20K, Cityscapes).

        Raises:
          ValueError: a picture file is unreadable, or does not fit its annotation.
        """
        entry = self._annotations[index]
        image_path = self._image_folder / self._files[entry['image_id']]
        png_path = self._png_folder / entry['file_name']
        image = read_picture(image_path)  # (H, W, 3)
        colours = read_picture(png_path)  # (H, W, 3)
        if image.shape != colours.shape:
            raise ValueError(
                f'{image_path} has {image.shape[1]}x{image.shape[0]} pixels and {png_path} '
                f'{colours.shape[1]}x{colours.shape[0]}; both must be originals of one release.'
            )
        segments = panoptic_png.segment_ids(colours)  # (H, W)
        try:
            category, instance = panoptic_png.to_maps(
                segments, entry['segments_info'], self._category_ids, self._things
            )
        except ValueError as error:
            raise ValueError(f'{png_path}: {error}') from error
        # Records store ids as int64, so a name cannot be stored.
        image_id = entry['image_id'] if isinstance(entry['image_id'], int) else index
        return Example(
            image=image,
            category=category,
            instance=instance,
            captions=list(self._captions[entry['image_id']]),
            image_id=image_id,
        )
