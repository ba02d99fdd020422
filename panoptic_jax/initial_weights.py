"""What a model starts from when it does not start from nothing. Files are `weights.py`'s."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from panoptic_jax.models import two_stream


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
