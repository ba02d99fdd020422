"""Which image of a prepared split a pair belongs to, and which captions it has.

`scoring/maps.py` and `scoring/features.py` compare pairs with these images and captions.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from panoptic_jax.data import loader


def indices_of(entries: Sequence[Mapping[str, Any]], split: loader.Split) -> list[int] | None:
    """For each pair the index in the split of the image that its caption belongs to.

    Args:
      entries: The pairs' entries, see `export/pairs.py`.
      split: A prepared split.

    Returns:
      The indices; None where a pair names no image of the split.
    """
    # Our own samples name the record; others name the source's image.
    if all('record' in entry for entry in entries):
        return [entry['record'] for entry in entries]
    if all('image_id' in entry for entry in entries):
        index_of = {image_id: index for index, image_id in enumerate(split.image_ids())}
        if all(entry['image_id'] in index_of for entry in entries):
            return [index_of[entry['image_id']] for entry in entries]
    logging.info('Not all pairs name a picture of the split, so there is no score against those.')
    return None


def captions_of(
    entries: Sequence[Mapping[str, Any]], indices: Sequence[int] | None, split: loader.Split
) -> Callable[[int], Sequence[str]] | None:
    """A function from a pair's number to its captions.

    Args:
      entries: The pairs' entries, see `export/pairs.py`.
      indices: From `indices_of`; with indices a pair has all captions of its image.
      split: The prepared split.

    Returns:
      The function; None where a pair has neither an image of the split nor a caption of its own.
    """
    if indices:
        # Images repeat, and reading a record with its text features costs far more.
        of_index = functools.cache(lambda index: split[index]['captions'])
        return lambda i: of_index(indices[i])
    if all('captions' in entry or 'caption' in entry for entry in entries):
        return lambda i: entries[i].get('captions') or [entries[i]['caption']]
    return None
