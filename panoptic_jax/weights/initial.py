"""What a model starts from when it does not start from nothing. Files are `weights/file.py`'s."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict

from panoptic_jax.models import two_stream
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import foreign_names


def load_into(
    fresh: Mapping[str, Any], path: str, manifest: Mapping[str, Any], partial: bool
) -> dict[str, Any]:
    """Starts a model from a weights file, and says where that was made for other categories.

    Args:
      fresh: Parameters of the model to be trained.
      path: Of the file.
      manifest: Of the data to be trained on, made with the same encoders.
      partial: Whether `fill_matching` or `fill` decides.

    Raises:
      FileNotFoundError, ValueError: no such file, other encoders, or weights that do not fit.
    """
    loaded, _, origin = weights_file.load(path)
    weights_file.check_encoders(origin, manifest, path)
    if 'map' in loaded and origin['categories'] != manifest['categories']:
        logging.warning(
            '%s was trained on other categories (%d, now %d): what a map code means is learnt '
            'anew, from the same weights.',
            path, len(origin['categories']), len(manifest['categories']),
        )  # fmt: skip
    return fill_matching(fresh, loaded, path) if partial else fill(fresh, loaded, path)


def fill_matching(params: Mapping[str, Any], loaded: Mapping[str, Any], path: str) -> dict:
    """Takes every parameter of equal name and shape; the rest stays fresh.

    Logs what is kept, what is fresh and what of the file is not used. A file without a map stream
    also starts a two-stream model's map blocks, as in `fill`.

    Raises:
      ValueError: nothing fits.
    """
    ours, theirs = flatten_dict(params, sep='/'), flatten_dict(loaded, sep='/')
    kept = [n for n in ours if n in theirs and theirs[n].shape == ours[n].shape]
    if not kept:
        raise ValueError(f'{path} and the model have no parameter in common; choose another file.')
    filled = {n: np.asarray(theirs[n], ours[n].dtype) if n in kept else ours[n] for n in ours}
    fresh = [
        f'{n} {tuple(ours[n].shape)}'
        + (f', there {tuple(theirs[n].shape)}' if n in theirs else ', not there')
        for n in ours
        if n not in kept
    ]
    two_streams = any(n.startswith('map/blocks_') for n in ours)
    copied = two_streams and 'map' not in loaded
    if copied:
        fresh = [line for line in fresh if not line.startswith('map/blocks_')]
    logging.info(
        'Kept from %s: %d of %d parameters%s.',
        path, len(kept), len(ours), ', and map blocks as copies of image blocks' if copied else '',
    )  # fmt: skip
    logging.info('Fresh: %s.', foreign_names.listed(fresh) or 'none')
    unused = [n for n in theirs if n not in ours]
    if unused:
        logging.info('In the file, but not part of the model: %s.', foreign_names.listed(unused))
    stuck = [n for n in ours if two_streams and n not in kept and two_stream.is_frozen(n)]
    if stuck:
        logging.warning(
            'Random for good, since two streams do not train them: %s.', foreign_names.listed(stuck)
        )
    tree = unflatten_dict(filled, sep='/')
    return two_stream.copy_image_blocks(tree) if copied else tree


def fill(params: dict, loaded: Mapping[str, Any], path: str) -> dict:
    """Replaces fresh parameters by loaded ones: a whole model's, or those of its image stream.

    A two-stream model whose map stream is not in the file gets map blocks copied from the loaded
    image blocks.

    Args:
      params: Fresh parameters of the model to be trained.
      loaded: From `load`.
      path: Where from, for messages.

    Raises:
      ValueError: naming the first parameters that are missing, left over or of another shape.
    """
    if 'map' not in loaded and 'map' in params:
        image = fill({'image': params['image']}, loaded, path)
        filled = {**params, **image}
        has_blocks = any(name.startswith('blocks_') for name in params['map'])
        return two_stream.copy_image_blocks(filled) if has_blocks else filled
    ours = flatten_dict({stream: params[stream] for stream in params}, sep='/')
    theirs = flatten_dict(
        {stream: loaded[stream] for stream in params if stream in loaded}, sep='/'
    )
    wrong = [f'{name} is missing' for name in ours if name not in theirs]
    wrong += [f'{name} is not part of the model' for name in theirs if name not in ours]
    wrong += [
        f'{name} is {theirs[name].shape}, the model has {ours[name].shape}'
        for name in ours
        if name in theirs and theirs[name].shape != ours[name].shape
    ]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise ValueError(f'{path} does not fit the model: {"; ".join(wrong[:3])}{more}.')
    return unflatten_dict(
        {name: np.asarray(theirs[name], ours[name].dtype) for name in ours}, sep='/'
    )
