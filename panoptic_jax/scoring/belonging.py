"""Whether what is scored belongs to the prepared data that it is compared with.

Categories are compared by name, pictures of the source by what the manifest says of them.
`scoring/truth.py` finds the image that a pair belongs to, and `docs/IDENTITY.md` lists all pairs of
artefacts that meet.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from panoptic_jax.data.example import Category
from panoptic_jax.data.facts import CategoryList

# What a source's description says of other things than pictures. Captions may have been edited
# since the preparation: pairs are compared with those of the split.
_NOT_OF_PICTURES = ('captions_sha256', 'categories_sha256')


def translation(
    theirs: Sequence[Category], used: Collection[int], ours: CategoryList, what: str
) -> np.ndarray:
    """The table that turns the ids of a list into those of the data; names decide.

    Lists of the same names may have other ids: data whose ids do not fit into 1..254 are renumbered
    when they are prepared, and others number as they like.

    Args:
      theirs: The categories of a folder or a model, ids 1..254.
      used: The ids that maps use; only these have to be found.
      ours: The categories of the prepared data.
      what: Names the list's owner for messages.

    Returns:
      (256,) uint8: our id of each id, 0 for void and for categories that are not there.

    Raises:
      ValueError: maps use a category that the data lack.
    """
    ours_by_name, theirs_by_name = _by_name(ours.entries), _by_name(theirs)
    table, unknown, moved = np.zeros(256, np.uint8), [], 0
    for entry in theirs:
        name = _plain(entry.name)
        found, same = ours_by_name.get(name, []), theirs_by_name[name]
        # A name may stand for several categories. Both lists then have to agree on how many.
        if len(found) == len(same):
            table[entry.id] = found[same.index(entry.id)]
            moved += table[entry.id] != entry.id
        elif entry.id in used:
            unknown.append(entry)
    if unknown:
        have = ', '.join(repr(entry.name) for entry in ours.entries[:3])
        raise ValueError(
            f'{what} has categories that the prepared data lack, {len(unknown)} in all, the first '
            f'{unknown[0].name!r} (id {unknown[0].id}); data.dir has {len(ours.entries)}, such as '
            f'{have}: evaluate with the data that the maps are of, or correct the names.'
        )
    if moved:
        logging.info('%s numbers %d categories otherwise than the data; names decide.', what, moved)
    return table


def _by_name(categories: Sequence[Category]) -> dict[str, list[int]]:
    """{name as it is compared: the ids that have it, in the list's order}."""
    ids: dict[str, list[int]] = {}
    for entry in categories:
        ids.setdefault(_plain(entry.name), []).append(entry.id)
    return ids


def _plain(name: str) -> str:
    """A name as it is compared: 'Person ' and 'person' are the same."""
    return ' '.join(name.split()).casefold()


def check_model(model: CategoryList, data: CategoryList, data_dir: str) -> None:
    """Refuses to score the maps of a model with data of other categories.

    Args:
      model: The categories that the model knows.
      data: The categories of the prepared data.
      data_dir: Where the data are, for the message.

    Raises:
      ValueError: naming a category of the model that the data lack.
    """
    used = {entry.id for entry in model.entries}
    translation(model.entries, used, data, f'The model, beside data.dir {data_dir!r},')


def check_sources(
    found: Mapping[str, Any], prepared: Mapping[str, Mapping[str, Any]], split: str
) -> None:
    """Refuses real images that are not those that the data were prepared from.

    Args:
      found: {split: source} of the config.
      prepared: {split: description of the source} of the manifest.
      split: The split whose images are wanted.

    Raises:
      ValueError: there is no such split, or naming what differs.
    """
    description = found[split].description if split in found else {}
    different = [
        f'{name} is {value!r} there and {description.get(name)!r} in this config'
        for name, value in prepared[split].items()
        if name not in _NOT_OF_PICTURES and description.get(name) != value
    ]
    if different:
        raise ValueError(
            f'The {split} images that this config names are not those that data.dir was prepared '
            f'from ({"; ".join(different)}); use the config that prepared the data, or name '
            'statistics with --config.evaluate.reference.'
        )
