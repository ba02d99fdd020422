"""The maps that a job is given of a prepared split.

Lists of categories are compared by name. `data/map_pictures.py` reads the maps of files,
and `programs/line_parts.py` those that lines name.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from panoptic_jax.data import geometry
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.loader import Split
from panoptic_jax.data.manifest import Manifest
from panoptic_jax.data.map_pictures import Form, few
from panoptic_jax.data.requests import Request

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
    requests: Mapping[int, Request], split: Split, manifest: Manifest, *, form: Form, data_dir: str
) -> Maps:
    """The maps of a prepared split's images that requests name, in the model's categories.

    Args:
      requests: {number: request}; each has 'record', the index of its image.
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
