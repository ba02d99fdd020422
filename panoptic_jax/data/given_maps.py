"""The maps that a job is given: of a prepared split, or with the captions of a file.

Lists of categories are compared by name. `data/map_pictures.py` reads the maps of files.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from panoptic_jax.data import geometry
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.loader import Split
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.data.map_pictures import Form, few, reader
from panoptic_jax.data.requests import Request

_HASH_DIGITS = 12

# Numbers of requests -> their maps (B, side, side) uint8
Maps = Callable[[Sequence[int]], np.ndarray]


def translation(theirs: CategoryList, ours: CategoryList, owner: str) -> np.ndarray | None:
    """The table that turns ids of one list into those of the model's list, by names.

    Args:
      theirs: The categories of prepared data.
      ours: The model's.
      owner: Names the data for the message.

    Returns:
      (256,) uint8, or None where the lists are the same.

    Raises:
      ValueError: a category of theirs is none of the model's, or a name stands twice in a list.
    """
    if theirs.entries == ours.entries:
        return None
    by_name = {entry.name: entry.id for entry in ours.entries}
    lacking = [entry.name for entry in theirs.entries if entry.name not in by_name]
    if lacking:
        raise ValueError(
            f'{owner} has {len(lacking)} categories that the model has not learned, such as '
            f'{few(lacking)}; the model knows {few(by_name)}. Give it maps of its own categories.'
        )
    for entries in (theirs.entries, ours.entries):
        if len({entry.name for entry in entries}) < len(entries):
            raise ValueError(
                f'{owner} and the model number their categories differently, and names that stand '
                'twice in a list cannot tell them apart; rename those.'
            )
    table = np.zeros(256, np.uint8)
    for entry in theirs.entries:
        table[entry.id] = by_name[entry.name]
    return table


def of_split(
    requests: Sequence[Request], split: Split, manifest: Manifest, *, form: Form, data_dir: str
) -> Maps:
    """The maps of a prepared split's images that requests name, in the model's categories.

    Args:
      requests: Each has 'record', the index of its image.
      split: The split.
      manifest: The data's manifest.
      form: What the model wants; the data decide `void_wins`.
      data_dir: Where the data are, for messages.

    Raises:
      ValueError: the data have no maps, or categories that the model does not know.
    """
    # Data of captioned images without maps train a U-ViT only.
    if not manifest.stored_map_side:
        raise ValueError(
            f'The data in {data_dir} have no maps, which this model is given; take other data, or '
            "a model that needs none: 'uvit'."
        )
    table = translation(manifest.categories, form.categories, f'The data in {data_dir}')

    def maps(numbers):
        records = [split[requests[number]['record']] for number in numbers]
        ids = np.stack([geometry.true_ids(r, form.side, manifest.void_wins) for r in records])
        return ids if table is None else table[ids]

    return maps


def of_requests(
    requests: Sequence[Request], folder: epath.Path, form: Form
) -> tuple[list[Request], Maps]:
    """Reads the maps that requests name, each file once, and keeps them in memory.

    Args:
      requests: Each has 'map' and may have 'json', paths that start from `folder`.
      folder: The folder of the file with the requests.
      form: What the model wants.

    Returns:
      The requests with 'map_sha256' besides, the beginning of a hash of the map; and their maps.

    Raises:
      FileNotFoundError, ValueError: the errors of `map_pictures.reader`.
    """
    read = functools.cache(reader(form))
    hashed, maps = [], []
    for request in requests:
        json_path = folder / request['json'] if 'json' in request else None
        ids = read(folder / request['map'], json_path)
        digest = hashlib.sha256(ids.tobytes()).hexdigest()[:_HASH_DIGITS]
        hashed.append(request | {'map_sha256': digest})
        maps.append(ids)
    return hashed, lambda numbers: np.stack([maps[number] for number in numbers])
