"""A COCO-panoptic folder as a source of examples, checked for completeness before any work.

Layout: `annotations/panoptic_{split}.json`, `annotations/panoptic_{split}/*.png`,
`annotations/captions_{split}.json` and `{split}/*.jpg`. Split names and category lists (up to 254
categories) other than COCO's work as well. `data/coco_annotations.py` reads the JSON files,
`data/picture_files.py` finds the pictures, and `data/geometry.py` crops and resizes.
"""

import msgspec
import numpy as np
from absl import logging
from etils import epath

from panoptic_jax.data import (
    annotation_checks,
    category_captions,
    coco_annotations,
    geometry,
    panoptic_png,
    picture_files,
    pictures,
)
from panoptic_jax.data.categories import things_of
from panoptic_jax.data.coco_entries import Annotation, Panoptic
from panoptic_jax.data.example import Example, taken

# Names the captions in the manifest. Until version 0.2 they named what the crop cuts away, too.
_OF_STORED_MAPS = 'categories of the stored maps'


class CocoPanoptic:
    """The captioned images of one split, in the order of the panoptic JSON; random access.

    Images without a caption are left out, and the log says how many. Crowd segments keep their
    category and have no instance number.

    Attributes:
      categories: The category list, with ids within 1..254.
      source_ids: {our category id: the id in the JSON}.
      available: How many images have a map and a caption, whatever the limit.
      num_captions: (n,) int64, captions per image.
      description: What determines the examples, JSON-able: hashes of both JSON files, the split and
        the count. The hashes do not cover the picture files.

    Raises:
      FileNotFoundError: a JSON, image or PNG file is missing. The message names the first missing
        file and how to get it.
      ValueError: a JSON file is not what it should be. The message names the entry.
    """

    def __init__(
        self,
        root: str,
        split: str,
        *,
        limit: float = 0,
        categories: str = '',
        captions: str = 'file',
        void_wins: bool = False,
    ) -> None:
        """Reads the JSON files of a split.

        Args:
          root: The folder.
          split: The split's name, which is part of the file names.
          limit: How many images to take, from the first; see `taken`.
          categories: A JSON file with a list of categories; '' takes the panoptic JSON's list.
          captions: 'file' reads `captions_{split}.json`; 'categories' makes one caption of what
            each stored map shows, for data sets without captions.
          void_wins: How maps are pooled, see `fit_map`; what a stored map shows depends on it.
        """
        self._root = epath.Path(root)
        self._split = split
        self._void_wins = void_wins
        annotations = self._root / 'annotations'
        if not root or not annotations.is_dir():
            raise FileNotFoundError(
                f'data.root is {root!r}, which has no folder annotations/; it must be the folder '
                "into which COCO's zip files were unpacked."
            )
        # Everything that is missing or wrong is named here: preparation can take hours, and it must
        # not stop midway.
        panoptic_path = annotations / f'panoptic_{split}.json'
        panoptic, panoptic_hash = self._read_panoptic(panoptic_path, categories)
        annotation_checks.check_images(panoptic, panoptic_path)
        captioned, captions_hash = panoptic.annotations, _OF_STORED_MAPS
        # None: the captions are made of the maps, one of each.
        self._captions: dict[int | str, list[str]] | None = None
        if not captioned:
            raise ValueError(f"{panoptic_path}: 'annotations' is empty; restore the original file.")
        if captions == 'file':
            captions_path = coco_annotations.find_captions(annotations, split)
            self._captions, captions_hash = coco_annotations.read_captions(
                captions_path, self._root
            )
            captioned = self._with_captions(panoptic, panoptic_path, captions_path)
        # The limit counts captioned images, so it is what the data set will hold.
        self.available = len(captioned)
        self._annotations = captioned[: taken(self.available, limit)]
        self.num_captions = np.ones(len(self._annotations), np.int64)
        if self._captions is not None:
            counts = [len(self._captions[entry.image_id]) for entry in self._annotations]
            self.num_captions = np.array(counts)
        annotation_checks.check_segments(self._annotations, self._category_ids, panoptic_path)
        self._find_pictures(panoptic, panoptic_path)
        self._lying: set[int] = set()  # images that are kept as stored, see `_log_lying`
        # A manifest holds these keys: other names would make prepared data look foreign.
        self.description = {
            'source': 'coco',
            'split': split,
            'count': len(self._annotations),
            'panoptic_sha256': panoptic_hash,
            'captions_sha256': captions_hash,
        }

    def _read_panoptic(self, path: epath.Path, categories: str) -> tuple[Panoptic, str]:
        """The panoptic JSON and the hash of all that was read; also sets the categories."""
        archive = f'panoptic_annotations_trainval2017.zip inside {self._root}'
        # A list of one's own serves data sets whose panoptic JSON has none.
        panoptic, sha256 = coco_annotations.read_panoptic(
            path, has_categories=not categories, fix=f'unzip {archive}'
        )
        list_path = path
        if categories:
            list_path = epath.Path(categories)
            entries, list_sha256 = coco_annotations.read_categories(list_path)
            # Another list gives other ids, so it belongs to what determines the examples.
            sha256 = f'{sha256} {list_sha256}'
        else:
            entries = panoptic.categories
        self.categories, self._category_ids = coco_annotations.to_categories(entries, list_path)
        self.source_ids = {ours: theirs for theirs, ours in self._category_ids.items()}
        self._names = {category.id: category.name for category in self.categories}
        self._things = things_of(self.categories)
        return panoptic, sha256

    def _with_captions(
        self, panoptic: Panoptic, panoptic_path: epath.Path, captions_path: epath.Path
    ) -> list[Annotation]:
        """The annotations of the images that have a caption; the paths are for the messages."""
        annotations = panoptic.annotations
        image_ids = {entry.image_id for entry in annotations}
        annotation_checks.check_captioned(
            image_ids, self._captions.keys(), (panoptic_path, captions_path)
        )
        captioned = [entry for entry in annotations if entry.image_id in self._captions]
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

    def _find_pictures(self, panoptic: Panoptic, path: epath.Path) -> None:
        """Finds all picture files, some of which a partial unzip leaves out."""
        self._png_folder = self._root / 'annotations' / f'panoptic_{self._split}'
        maps = [entry.file_name for entry in self._annotations]
        fix = f'unzip annotations/{self._png_folder.name}.zip inside {self._png_folder.parent}'
        self._maps = picture_files.find_files(self._png_folder, maps, named_in=path, fix=fix)
        self._image_folder = self._root / self._split
        names = {image.id: image.file_name for image in panoptic.images}
        images = [names[entry.image_id] for entry in self._annotations]
        fix = f'unzip {self._split}.zip inside {self._root}'
        self._images = picture_files.find_files(self._image_folder, images, named_in=path, fix=fix)

    @property
    def image_paths(self) -> list[epath.Path]:
        """The files of the images, in order; the evaluation looks at their sizes and times."""
        return [self._image_folder / name for name in self._images]

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
        png_path = self._png_folder / self._maps[index]
        colours = pictures.read_colours(png_path)  # (H, W, 3)
        image_path = self._image_folder / self._images[index]
        image, is_lying = pictures.read_image_of_map(image_path, colours.shape, png_path)
        if is_lying:
            self._log_lying(index, image_path)
        segments = panoptic_png.segment_ids(colours)  # (H, W)
        infos = msgspec.to_builtins(entry.segments_info)
        try:
            category, instance = panoptic_png.to_maps(
                segments, infos, self._category_ids, self._things
            )
        except ValueError as error:
            raise ValueError(f'{png_path}: {error}') from error
        if self._captions is None:
            stored, _ = geometry.fit_map(category, instance, self._void_wins)
            captions = [category_captions.caption(stored, self._names)]
        else:
            captions = list(self._captions[entry.image_id])
        # Records store ids as int64, so a name cannot be stored.
        image_id = entry.image_id if isinstance(entry.image_id, int) else index
        return Example(image, category, instance, captions, image_id)

    def _log_lying(self, index: int, path: epath.Path) -> None:
        """Counts the images whose map was drawn before turning; the log tells of ten times more."""
        if index in self._lying:
            return
        self._lying.add(index)
        count = len(self._lying)
        if str(count).strip('0') == '1':
            logging.warning(
                '%d images of %s so far, the last %s, are to be turned by their EXIF orientation, '
                'but their maps fit them as they are stored: they are kept so.',
                count, self._split, path,
            )  # fmt: skip
