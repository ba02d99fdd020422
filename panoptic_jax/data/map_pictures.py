"""A picture of a map -> the map that a model is given: checked, translated, cropped and pooled.

Pictures of category ids and COCO-panoptic PNGs with their JSON. `data/geometry.py` crops and pools,
and `data/given_maps.py` says which maps a job is given.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np
from etils import epath

from panoptic_jax.data import geometry, panoptic_json, panoptic_png, pictures
from panoptic_jax.data.categories import things_of
from panoptic_jax.data.facts import CategoryList

_FIX = 'give the JSON file that belongs to the map'
_VOID = (0, 255)  # what pictures of ids write where there is no category
_NAMED = 5  # names in a sentence


class Form(NamedTuple):
    """What a model wants of a map.

    Attributes:
      categories: The model's categories.
      side: Side of its maps in pixels.
      void_wins: Whether void wins the pooling, see `bits.min_pool`.
    """

    categories: CategoryList
    side: int
    void_wins: bool


def reader(form: Form) -> Callable[[epath.Path, epath.Path | None], np.ndarray]:
    """A function (picture, its JSON or None) -> (side, side) uint8 ids of the model's categories.

    A PNG with a palette or grey values is a picture of ids: those of the data set that the model
    learned, as its own files have them; 0 and 255 are void where they are no category. A coloured
    PNG is one of COCO-panoptic. Its JSON is the one that is given, else NAME.json beside NAME.png,
    else FOLDER.json beside the FOLDER of the PNG; its categories are found by their names.

    Each JSON is read once. The function raises FileNotFoundError or ValueError, with the file's
    name, where a file is missing or cannot be read, or a category is none of the model's.
    """
    read_json = functools.cache(_read_json)

    def read(path: epath.Path, json_path: epath.Path | None = None) -> np.ndarray:
        annotations = _find_json(path, json_path, read_json)
        if annotations is not None:
            return _of_colours(path, annotations, form)
        try:
            ids = pictures.read_ids(path)
        except ValueError as error:
            raise ValueError(
                f'{error} A coloured PNG of COCO-panoptic needs its JSON, {path.stem}.json or '
                f'{path.parent.name}.json, or named in the line as "json".'
            ) from error
        try:
            return of_ids(ids, form)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error

    return read


def of_ids(ids: np.ndarray, form: Form) -> np.ndarray:
    """(H, W) integers, ids as the files of the model's data set have them -> (side, side) uint8.

    0 and 255 are void where they are no category.

    Raises:
      ValueError: an id is none of the model's categories.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f'A map is an array of {ids.dtype} of shape {ids.shape}; it must be (height, width) '
            'integers, category ids.'
        )
    our_ids = form.categories.our_ids()
    present, places = np.unique(ids, return_inverse=True)
    unknown = [i for i in present.tolist() if i not in our_ids and i not in _VOID]
    if unknown:
        raise ValueError(
            f'{few(unknown)} is no category id of the model, which has {few(sorted(our_ids))}; '
            'write its ids, and 0 where there is none.'
        )
    table = np.array([our_ids.get(i, 0) for i in present.tolist()], np.uint8)
    category = table[places].reshape(ids.shape)
    return _fit(category, np.zeros_like(category), form)


class _Json(NamedTuple):
    """A COCO-panoptic JSON: {name of a PNG: its segments}, and {category id: name}."""

    segments: dict[str, list[panoptic_json.Segment]]
    names: dict[int, str]


def _read_json(path: epath.Path) -> _Json | None:
    """The content of a COCO-panoptic JSON; None for a JSON of another kind."""
    # Other programs put JSON files beside pictures, too.
    if path.exists() and b'"segments_info"' not in path.read_bytes():
        return None
    content = panoptic_json.read(path, _FIX)
    # Annotations may name their PNG with a folder.
    segments = {epath.Path(a.file_name).name: a.segments_info for a in content.annotations}
    return _Json(segments, {entry.id: entry.name for entry in content.categories})


def _find_json(
    path: epath.Path,
    json_path: epath.Path | None,
    read_json: Callable[[epath.Path], _Json | None],
) -> _Json | None:
    """The JSON that has the annotation of a PNG; None for a picture of ids, which needs none."""
    if json_path is not None:
        found = read_json(json_path)
        if found is None or path.name not in found.segments:
            raise ValueError(
                f'{json_path} has no segments_info of {path.name}; name the JSON that has.'
            )
        return found
    for beside in (path.with_suffix('.json'), path.parent.parent / f'{path.parent.name}.json'):
        found = read_json(beside) if beside.exists() else None
        if found is not None and path.name in found.segments:
            return found
    return None


def _of_colours(path: epath.Path, annotations: _Json, form: Form) -> np.ndarray:
    """The map of a coloured PNG; raises ValueError where it and its JSON or the model differ."""
    segments = panoptic_png.segment_ids(pictures.read_colours(path))  # (H, W)
    infos = annotations.segments[path.name]
    entries = {entry.name: entry for entry in form.categories.entries}
    used = {annotations.names.get(info.category_id, info.category_id) for info in infos}
    unknown = [name for name in sorted(used, key=str) if name not in entries]
    if unknown:
        raise ValueError(
            f'{path} shows {few(unknown)}, which the model has not learned; it knows '
            f'{few(entries)}.'
        )
    our_ids = {
        number: entries[name].id for number, name in annotations.names.items() if name in entries
    }
    things = things_of(entries.values())
    try:
        category, instance = panoptic_png.to_maps(
            segments, msgspec.to_builtins(infos), our_ids, things
        )
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    return _fit(category, instance, form)


def _fit(category: np.ndarray, instance: np.ndarray, form: Form) -> np.ndarray:
    """(H, W) uint8 each -> (side, side) uint8, as preparation and training make it."""
    category, instance = geometry.fit_map(category, instance, form.void_wins)
    stored = {'category': category, 'instance': instance}
    return geometry.true_ids(stored, form.side, form.void_wins)


def few(names: Iterable[Any]) -> str:
    """The first names of many, for a sentence."""
    names = [*names]
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return ', '.join(map(str, names[:_NAMED])) + more
