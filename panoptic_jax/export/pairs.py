"""Reading a folder of images and maps, one pair at a time: our samples, or what others made.

    images/*.png (or .jpg)     the pictures, of any size
    captions.json              [{"file_name", "caption" or "captions", "image_id"}]; may be missing
    panoptic.json, panoptic/   maps in COCO's panoptic format; may be missing

How our own folders are written is `samples.py`'s.
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
      entries: One dict per pair: 'file_name', and what captions.json says besides.
      has_maps: Whether the folder has maps.

    Raises:
      FileNotFoundError: the folder, a picture or a map is missing.
      ValueError: a JSON is not what it should be.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        category_ids: Mapping[int, int] | None = None,
        map_size: int | None = None,
    ) -> None:
        """Opens a folder.

        Args:
          folder: Which.
          category_ids: {the folder's category id: our id}; None where they are the same.
          map_size: Side that maps had before they were enlarged; None reads them as they are.
        """
        self._folder, self._map_size = epath.Path(folder), map_size
        images = self._folder / 'images'
        if not images.is_dir():
            raise FileNotFoundError(f'{folder} has no folder images/; put the pictures there.')
        self._sizes = {name: size for name, (size, _) in files.listed(images).items()}
        present = {name for name in self._sizes if epath.Path(name).suffix.lower() in SUFFIXES}
        if not present:
            raise FileNotFoundError(f'{images} holds no pictures ({", ".join(SUFFIXES)}).')
        captions = self._folder / 'captions.json'
        if captions.exists():
            self.entries = _read_json(captions)
            _require(self.entries, ('file_name',), captions)
        else:
            self.entries = [{'file_name': name} for name in sorted(present)]
        missing = [e['file_name'] for e in self.entries if e['file_name'] not in present]
        if missing:
            raise FileNotFoundError(
                f'{images} lacks {len(missing)} of the {len(self.entries)} pictures that '
                f'{captions.name} names, the first {missing[0]}; add them or correct the list.'
            )
        self.has_maps = (self._folder / 'panoptic.json').exists()
        if self.has_maps:
            self._open_maps(self._folder / 'panoptic.json', category_ids)

    def _open_maps(self, path: epath.Path, category_ids: Mapping[int, int] | None) -> None:
        content = _read_json(path)
        if not isinstance(content, dict) or not {'annotations', 'categories'} <= content.keys():
            raise ValueError(f"{path} must hold 'annotations' and 'categories', as COCO's do.")
        _require(content['annotations'], ('file_name', 'segments_info'), path)
        self._category_ids = category_ids or {c['id']: c['id'] for c in content['categories']}
        by_stem = {epath.Path(a['file_name']).stem: a for a in content['annotations']}
        stems = [epath.Path(entry['file_name']).stem for entry in self.entries]
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
        """(H, W, 3) uint8."""
        return read_picture(self._folder / 'images' / self.entries[index]['file_name'])

    def ids(self, index: int) -> np.ndarray:
        """(h, w) uint8 category ids, 0 void.

        Raises:
          ValueError: PNG and JSON do not fit, or a category is unknown.
        """
        annotation = self._annotations[index]
        path = self._folder / 'panoptic' / annotation['file_name']
        segments = panoptic_png.segment_ids(read_picture(path))
        try:
            ids, _ = panoptic_png.to_maps(
                segments, annotation['segments_info'], self._category_ids, frozenset()
            )
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        step = ids.shape[0] // self._map_size if self._map_size else 1
        return ids[::step, ::step]

    def fingerprint(self) -> list:
        """Names and sizes of all pictures: another list means other pictures. JSON-able."""
        names = sorted(entry['file_name'] for entry in self.entries)
        return [[name, self._sizes[name]] for name in names]


def _read_json(path: epath.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON ({error}).') from error


def _require(entries: Any, keys: tuple[str, ...], path: epath.Path) -> None:
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path} holds no list of pictures.')
    for number, entry in enumerate(entries):
        for key in keys:
            if not isinstance(entry, dict) or key not in entry:
                raise ValueError(f'{path}: entry {number} lacks {key!r}.')
