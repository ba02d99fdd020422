"""Reading a folder of images and maps, one pair at a time: our samples, or those of others.

The plain layout, which our own samples had in earlier versions:

    images/*.png (or .jpg)     the images, of any size, also in folders below
    captions.json              [{"file_name", "caption" or "captions", "image_id"}]; may be missing
    panoptic.json, panoptic/   maps in COCO's panoptic format; may be missing

COCO's layout, as `export/samples.py` writes it; without pairs_NAME.jsonl it may be by anyone:

    NAME/*.png (or .jpg)
    annotations/captions_NAME.json
    annotations/panoptic_NAME.json, annotations/panoptic_NAME/    may be missing
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import msgspec
import numpy as np
from etils import epath

from panoptic_jax.data import categories, panoptic_json, panoptic_png, picture_files
from panoptic_jax.data.example import Category
from panoptic_jax.data.pictures import SUFFIXES, is_picture, read_colours, read_picture
from panoptic_jax.export import pair_places
from panoptic_jax.machine import files

_FIX = 'restore it, or leave it out'


class Pairs:
    """The pairs of a folder in the order of its captions, or of its file names; random access.

    Attributes:
      entries: One dict for each pair: 'file_name', and what the list of captions says besides.
      has_maps: Whether the folder has maps.
      places: Where its files are, see `pair_places`.
      categories: The list of the panoptic JSON; ids that do not fit into 1..254 are numbered anew
        as preparation does it. () without maps.
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
          category_ids: {the folder's category id: our id}; None for those of `categories`.
          map_side: Side in pixels that the maps had before they were enlarged; None for maps that
            are to be read in their own size.

        Raises:
          FileNotFoundError: the folder or a picture is missing.
          ValueError: a JSON file has the wrong content.
        """
        self._folder = epath.Path(folder)
        self._map_side = map_side
        self.places = pair_places.find(self._folder)
        images, captions = self.places.images, self.places.captions
        if captions.exists():
            self.entries = pair_places.read_entries(self._folder, self.places)
        else:
            names = [name for name in files.sizes_and_times(images) if is_picture(name)]
            self.entries = [{'file_name': name} for name in sorted(names)]
        if not self.entries:
            raise FileNotFoundError(f'{images} holds no pictures ({", ".join(SUFFIXES)}).')
        names = [entry['file_name'] for entry in self.entries]
        self._images = _find(images, names, captions.name)
        panoptic = self.places.panoptic
        self.has_maps = panoptic.exists()
        self.categories: tuple[Category, ...] = ()
        if self.has_maps:
            self._open_maps(panoptic, category_ids)

    def _open_maps(self, path: epath.Path, category_ids: Mapping[int, int] | None) -> None:
        """Finds the annotation of every image, and what the maps' category ids mean."""
        content = panoptic_json.read(path, _FIX)
        try:
            self.categories, own_ids = categories.remap(content.listed())
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        self._category_ids = dict(category_ids or own_ids)
        things = {entry.id for entry in content.categories if entry.isthing}
        self._thing_ids = frozenset(self._category_ids[i] for i in things & {*self._category_ids})
        # Maps are PNG files and images may be JPEG files, so their names differ in the ending.
        by_stem: dict[str, panoptic_json.Annotation] = {}
        for annotation in content.annotations:
            stem = _stem(annotation.file_name)
            if stem in by_stem:
                raise ValueError(f'{path} has two annotations of {stem}; leave one out.')
            by_stem[stem] = annotation
        stems = [_stem(entry['file_name']) for entry in self.entries]
        missing = [stem for stem in stems if stem not in by_stem]
        if missing:
            raise ValueError(
                f'{path} has no annotation for {len(missing)} of {len(stems)} pictures, the first '
                f'{missing[0]}; a map belongs to the picture of the same name.'
            )
        self._annotations = [by_stem[stem] for stem in stems]
        names = [annotation.file_name for annotation in self._annotations]
        self._maps = _find(self.places.maps, names, path.name)

    def __len__(self) -> int:
        return len(self.entries)

    def image(self, index: int) -> np.ndarray:
        """The image of a pair: (H, W, 3) uint8.

        Raises:
          FileNotFoundError, ValueError: the errors of `read_picture`.
        """
        name = self.entries[index]['file_name']
        path, *_ = self._images[name]
        # A map does not turn with its image.
        return read_picture(path, upright=not self.has_maps)

    def ids(self, index: int) -> np.ndarray:
        """The map of a pair: (h, w) uint8 category ids, 0 for void; the errors of `segments`."""
        ids, _ = self.segments(index)
        return ids

    def segments(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The map of a pair, and the numbers of its things: (h, w) uint8 each, 0 for none.

        Raises:
          FileNotFoundError: the PNG is missing.
          ValueError: PNG and JSON do not fit, or a category is unknown.
        """
        annotation = self._annotations[index]
        path, *_ = self._maps[annotation.file_name]
        segments = panoptic_png.segment_ids(read_colours(path))  # (H, W)
        infos = msgspec.to_builtins(annotation.segments_info)
        try:
            maps = panoptic_png.to_maps(segments, infos, self._category_ids, self._thing_ids)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        # Enlarged maps repeat every pixel; of refined ones the middle says most.
        step = segments.shape[0] // self._map_side if self._map_side else 1
        ids, instances = (each[step // 2 :: step, step // 2 :: step] for each in maps)
        return ids, instances  # (h, w)

    def fingerprint(self) -> list[list[str | int]]:
        """Name, bytes and time of the last change of every image, JSON-able, in their order.

        Other images give another list.
        """
        names = [entry['file_name'] for entry in self.entries]
        return [[name, *self._images[name][1:]] for name in names]

    def used_ids(self) -> set[int]:
        """The ids of `categories` that the maps use."""
        used = {info.category_id for each in self._annotations for info in each.segments_info}
        return {self._category_ids[number] for number in used & self._category_ids.keys()}


def _plain(name: str) -> str:
    """A file name with / between its parts and in one Unicode form, as names are compared."""
    # Windows writes \.
    return picture_files.compose(str(PurePosixPath(name.replace('\\', '/'))))


def _stem(name: str) -> str:
    """A file name as it is compared, without its ending."""
    return str(PurePosixPath(_plain(name)).with_suffix(''))


def _find(
    folder: epath.Path, names: Iterable[str], list_name: str
) -> dict[str, tuple[epath.Path, int, int]]:
    """{name: (path, bytes, time)} of the pictures that a list names; all must be there."""
    plain = {name: PurePosixPath(_plain(name)) for name in names}
    outside = [n for n, path in plain.items() if path.is_absolute() or '..' in path.parts]
    if outside:
        raise ValueError(f'{list_name} names {outside[0]!r}, which does not lie in {folder}.')
    # One listing for each folder: in a bucket each question about a single file takes a request.
    present = {}
    for below in {path.parent for path in plain.values()}:
        place = folder / below
        for name, (size, time) in files.sizes_and_times(place).items():
            if is_picture(name):
                present[below / _plain(name)] = place / name, size, time
    missing = [name for name, path in plain.items() if path not in present]
    if missing:
        raise FileNotFoundError(
            f'{folder} lacks {len(missing)} of the {len(plain)} pictures that '
            f'{list_name} names, the first {missing[0]}; add them or correct the list.'
        )
    return {name: present[path] for name, path in plain.items()}
