"""What a model starts from when it does not start from nothing: the weights of a file.

`weights/file.py` reads the file.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from panoptic_jax.data.manifest import Manifest
from panoptic_jax.models import two_stream
from panoptic_jax.programs.same_model import check_encoders
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import foreign_names


def load_into(
    fresh: Mapping[str, Any], path: str, manifest: Manifest, *, partial: bool
) -> dict[str, Any]:
    """Starts a model from a weights file, and says where that was made for other categories.

    Args:
      fresh: Fresh parameters of the model to be trained.
      path: The weights file.
      manifest: The manifest of the data to be trained on, made with the same encoders.
      partial: True: `fill_matching` decides what the model takes; False: `fill`.

    Raises:
      FileNotFoundError, ValueError: no such file, other encoders, or weights that do not fit.
    """
    loaded, _, origin = weights_file.load(path)
    check_encoders(origin, manifest, path)
    # A code means another category now: allowed, but never silent.
    if 'map' in loaded and origin.categories != manifest.categories:
        logging.warning(
            '%s was trained on other categories (%d, now %d): what a map code means is learnt '
            'anew, from the same weights.',
            path, len(origin.categories.entries), len(manifest.categories.entries),
        )  # fmt: skip
    return fill_matching(fresh, loaded, path) if partial else fill(fresh, loaded, path)


def check_bit_order(meta: Mapping[str, Any], workdir: str) -> None:
    """Refuses a checkpoint whose training started from maps in another order of bits.

    Args:
      meta: What the checkpoint says besides its state; 'bit_order' is in all but old ones.
      workdir: The run's folder, whose config.json names the weights that it started from.

    Raises:
      ValueError: the training started from imported maps before imports turned the bits.
    """
    recorded = epath.Path(workdir) / 'config.json'
    if 'bit_order' in meta or not recorded.exists():
        return
    path = json.loads(recorded.read_text()).get('init_weights')
    if not path or not epath.Path(path).is_file():
        return
    try:
        origin = weights_file.load_description(path)
    except ValueError as error:
        # What lies there now says nothing about the training that began long ago.
        logging.warning(
            'Whether the training in %s started from maps in the opposite order of bits cannot be '
            'told: %s', workdir, error,
        )  # fmt: skip
        return
    # Also where the file has been imported anew: the checkpoint is older than its order of bits.
    if origin.has_map and 'source' in origin.origin:
        raise ValueError(
            f'The checkpoints in {workdir} started from {path}, which an earlier --mode=import '
            'wrote with the bits of map codes in the opposite order, so their maps mean other '
            'categories; import the source again and train in another --workdir.'
        )


def fill_matching(params: Mapping[str, Any], loaded: Mapping[str, Any], path: str) -> dict:
    """Takes every parameter of equal name and shape; the other parameters stay fresh.

    Logs what is kept, what is fresh and what of the file is not used. A file without a map stream
    also starts a two-stream model's map blocks, as in `fill`.

    Args:
      params: Fresh parameters of the model to be trained.
      loaded: Parameters of the file.
      path: The file, for messages.

    Raises:
      ValueError: nothing fits.
    """
    # By name and shape: sizes that differ cannot be carried over.
    ours, theirs = flatten_dict(params, sep='/'), flatten_dict(loaded, sep='/')
    kept = {
        name for name, value in ours.items() if name in theirs and theirs[name].shape == value.shape
    }
    if not kept:
        raise ValueError(f'{path} and the model have no parameter in common; choose another file.')
    filled = {
        name: np.asarray(theirs[name], value.dtype) if name in kept else value
        for name, value in ours.items()
    }
    two_streams = any(name.startswith('map/blocks_') for name in ours)
    copies_blocks = two_streams and 'map' not in loaded
    _log_parts(ours, theirs, kept=kept, copies_blocks=copies_blocks, path=path)
    # Two-stream training leaves its frozen parameters as they start.
    stuck = [name for name in ours if name not in kept and two_stream.is_frozen(name)]
    if two_streams and stuck:
        logging.warning(
            'Random for good, since two streams do not train them: %s.', foreign_names.brief(stuck)
        )
    tree = unflatten_dict(filled, sep='/')
    return two_stream.copy_image_blocks(tree) if copies_blocks else tree


def _log_parts(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    kept: Collection[str],
    copies_blocks: bool,
    path: str,
) -> None:
    """Says what is kept, what is fresh and what is not used."""
    logging.info(
        'Kept from %s: %d of %d parameters%s.',
        path, len(kept), len(ours),
        ', and map blocks as copies of image blocks' if copies_blocks else '',
    )  # fmt: skip
    fresh = []
    for name, value in ours.items():
        if name in kept or (copies_blocks and name.startswith('map/blocks_')):
            continue
        there = f'there {tuple(theirs[name].shape)}' if name in theirs else 'not there'
        fresh.append(f'{name} {tuple(value.shape)}, {there}')
    logging.info('Fresh: %s.', foreign_names.brief(fresh) or 'none')
    unused = [name for name in theirs if name not in ours]
    if unused:
        logging.info('In the file, but not part of the model: %s.', foreign_names.brief(unused))


def fill(params: dict, loaded: Mapping[str, Any], path: str) -> dict:
    """Replaces fresh parameters by loaded ones: a whole model's, or those of its image stream.

    A two-stream model whose map stream is not in the file gets map blocks copied from the loaded
    image blocks.

    Args:
      params: Fresh parameters of the model to be trained.
      loaded: Parameters of the file.
      path: The file, for messages.

    Raises:
      ValueError: nothing in common; or naming the first parameters that are missing, left over or
        of another shape.
    """
    if 'map' not in loaded and 'map' in params:
        image = fill({'image': params['image']}, loaded, path)
        filled = {**params, **image}
        has_blocks = any(name.startswith('blocks_') for name in params['map'])
        # One-stream models have no map blocks: their blocks serve both streams.
        return two_stream.copy_image_blocks(filled) if has_blocks else filled
    if loaded and not set(params) & set(loaded):
        raise ValueError(
            f'{path} holds a network of another kind: its parts are {", ".join(sorted(loaded))}, '
            f'those of the model {", ".join(sorted(params))}; take weights of the same model.name.'
        )
    ours = flatten_dict(params, sep='/')
    streams = {stream: loaded[stream] for stream in params if stream in loaded}
    theirs = flatten_dict(streams, sep='/')
    # All differences are collected first: one message is enough to see which config it was.
    wrong = [f'{name} is missing' for name in ours if name not in theirs]
    wrong += [f'{name} is not part of the model' for name in theirs if name not in ours]
    wrong += [
        f'{name} is {theirs[name].shape}, the model has {value.shape}'
        for name, value in ours.items()
        if name in theirs and theirs[name].shape != value.shape
    ]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise ValueError(f'{path} does not fit the model: {"; ".join(wrong[:3])}{more}.')
    # Files may be in half precision; training parameters are float32.
    filled = {name: np.asarray(theirs[name], value.dtype) for name, value in ours.items()}
    return unflatten_dict(filled, sep='/')
