"""Reading a folder of images and maps, one pair at a time: our samples, or those of others.

    images/*.png (or .jpg)     the images, of any size
    captions.json              [{"file_name", "caption" or "captions", "image_id"}]; may be missing
    panoptic.json, panoptic/   maps in COCO's panoptic format; may be missing

`export/samples.py` writes our own folders.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from panoptic_jax.data import panoptic_png
from panoptic_jax.data.pictures import SUFFIXES, read_picture
from panoptic_jax.machine import files


class Pairs:
    """The pairs of a folder in the order of its captions, or of its file names; random access.

    Attributes:
      entries: One dict for each pair: 'file_name', and what captions.json says besides.
      has_maps: Whether the folder has maps.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        category_ids: Mapping[int, int] | None = None,
        map_side: int | None = None,
    ) -> None:
        """Opens a folder.

        Args:
          folder: The folder, local or remote.
          category_ids: {the folder's category id: our id}; None where they are the same.
          map_side: Side in pixels that the maps had before they were enlarged; None for maps that
            are to be read in their own size.

        Raises:
          FileNotFoundError: the folder or a picture is missing.
          ValueError: a JSON file has the wrong content.
        """
        self._folder = epath.Path(folder)
        self._map_side = map_side
        images = self._folder / 'images'
        if not images.is_dir():
            raise FileNotFoundError(f'{folder} has no folder images/; put the pictures there.')
        # One listing for all: in a bucket each question about a single file takes a request.
        self._sizes = {name: size for name, (size, _) in files.sizes_and_times(images).items()}
        present = {name for name in self._sizes if epath.Path(name).suffix.lower() in SUFFIXES}
        if not present:
            raise FileNotFoundError(f'{images} holds no pictures ({", ".join(SUFFIXES)}).')
        captions = self._folder / 'captions.json'
        if captions.exists():
            self.entries = _read_json(captions)
            _require_keys(self.entries, ('file_name',), captions)
        else:
            self.entries = [{'file_name': name} for name in sorted(present)]
        names = [entry['file_name'] for entry in self.entries]
        missing = [name for name in names if name not in present]
        if missing:
            raise FileNotFoundError(
                f'{images} lacks {len(missing)} of the {len(names)} pictures that '
                f'{captions.name} names, the first {missing[0]}; add them or correct the list.'
            )
        panoptic_json = self._folder / 'panoptic.json'
        self.has_maps = panoptic_json.exists()
        if self.has_maps:
            self._open_maps(panoptic_json, category_ids)

    def _open_maps(self, path: epath.Path, category_ids: Mapping[int, int] | None) -> None:
        """Finds the annotation of every image, and what the maps' category ids mean."""
        content = _read_json(path)
        if not isinstance(content, dict) or not {'annotations', 'categories'} <= content.keys():
            raise ValueError(f"{path} must hold 'annotations' and 'categories', as COCO's do.")
        annotations = content['annotations']
        _require_keys(annotations, ('file_name', 'segments_info'), path)
        self._category_ids = category_ids
        if not category_ids:
            self._category_ids = {entry['id']: entry['id'] for entry in content['categories']}
        # Maps are PNG files and images may be JPEG files, so their names differ in the ending.
        by_stem = {_stem(annotation): annotation for annotation in annotations}
        stems = [_stem(entry) for entry in self.entries]
        missing = [stem for stem in stems if stem not in by_stem]
        if missing:
            raise ValueError(
                f'{path} has no annotation for {len(missing)} of {len(stems)} pictures, the first '
                f'{missing[0]}; a map belongs to the picture of the same name.'
            )
        self._annotations = [by_stem[stem] for stem in stems]

    def __len__(self) -> int:
        return len(self.entries)

    def image(self, index: int) -> np.ndarray:
        """The image of a pair: (H, W, 3) uint8.

        Raises:
          FileNotFoundError, ValueError: the errors of `read_picture`.
        """
        return read_picture(self._folder / 'images' / self.entries[index]['file_name'])

    def ids(self, index: int) -> np.ndarray:
        """The map of a pair: (h, w) uint8 category ids, 0 for void.

        Raises:
          FileNotFoundError: the PNG is missing.
          ValueError: PNG and JSON do not fit, or a category is unknown.
        """
        annotation = self._annotations[index]
        path = self._folder / 'panoptic' / annotation['file_name']
        segments = panoptic_png.segment_ids(read_picture(path))  # (H, W)
        # Only the categories are wanted here, so no category has to count as a thing.
        thing_ids = frozenset()
        try:
            ids, _ = panoptic_png.to_maps(
                segments, annotation['segments_info'], self._category_ids, thing_ids
            )
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        # Enlarged maps repeat every pixel.
        step = ids.shape[0] // self._map_side if self._map_side else 1
        return ids[::step, ::step]  # (h, w)

    def fingerprint(self) -> list[list[str | int]]:
        """Name and size in bytes of every image, JSON-able: other images give another list."""
        names = sorted(entry['file_name'] for entry in self.entries)
        return [[name, self._sizes[name]] for name in names]


def _stem(entry: Mapping[str, Any]) -> str:
    """The file name of an entry or annotation, without its ending."""
    return epath.Path(entry['file_name']).stem


def _read_json(path: epath.Path) -> Any:
    """The content of a JSON file; raises ValueError where it is not valid."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON ({error}).') from error


def _require_keys(entries: Any, keys: tuple[str, ...], path: epath.Path) -> None:
    """Raises ValueError unless the content of a file is a list of dicts with these keys."""
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path} holds no list of pictures.')
    for number, entry in enumerate(entries):
        for key in keys:
            if not isinstance(entry, dict) or key not in entry:
                raise ValueError(f'{path}: entry {number} lacks {key!r}.')
