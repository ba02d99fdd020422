"""From the names and layouts of U-ViT's and the PDM authors' PyTorch checkpoints to ours.

Arrays go in and come out: `import_weights.py` reads .pth files, so no PyTorch is needed here.
"""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from panoptic_jax.encoders.torch_arrays import linen_kernel

# Parts of a block: our name, then theirs.
_INNER = {
    'norm1': 'norm1',
    'qkv': 'attn.qkv',
    'proj': 'attn.proj',
    'norm2': 'norm2',
    'fc1': 'mlp.fc1',
    'fc2': 'mlp.fc2',
    'skip': 'skip_linear',
}
# Modules outside the blocks. Theirs have one list for both streams.
_OUTER = {
    'image/patch_embed': 'patch_embed.proj',
    'image/text_embed': 'context_embed',
    'image/norm': 'norm',
    'image/head': 'decoder_pred',
    'image/final_conv': 'final_layer',
    'map/patch_embed': 'mask_embed.proj',
    'map/head': 'decoder_pred_mask',
    'map/final_conv': 'final_layer_mask',
}
# Their weights without effect: the second embedding and every other zero convolution are never
# called, and a model of given maps has a map head whose output nobody reads.
_DEAD = r'mask_embed_0\..*|zero_convs\.\d*[02468]\..*|(decoder_pred|final_layer)_mask\..*'


class Translation(NamedTuple):
    """What became of a checkpoint.

    Attributes:
      params: {our path: float32 array} of the weights that fit.
      missing: Torch names that the model needs.
      extra: Torch names that the model has no use for.
      misshapen: {torch name: what is wrong with the array's shape}.
      dead: Torch names without effect in the authors' own code, which are left out.
    """

    params: dict[str, np.ndarray]
    missing: list[str]
    extra: list[str]
    misshapen: dict[str, str]
    dead: list[str]


def translate(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    depth: int,
    map_channels: int,
) -> Translation:
    """Fills a model from a checkpoint.

    Args:
      tensors: {torch name: array}.
      shapes: {path of our parameter, such as 'image/blocks_3/qkv/kernel': its shape}.
      depth: Number of blocks besides the middle one.
      map_channels: Bits of a map's codes.
    """
    params, missing, misshapen, used = {}, set(), {}, set()
    two_streams = any(path.startswith('map/blocks_') for path in shapes)
    for path, shape in shapes.items():
        name = torch_name(path, depth, two_streams=two_streams)
        if name not in tensors:
            missing.add(name)
            continue
        used.add(name)
        value = _in_our_layout(path, tensors[name], shapes, two_streams=two_streams)
        if value is None or value.shape != shape:
            misshapen[name] = (
                f'{name} is {tensors[name].shape}, which does not give {path} of {shape}'
            )
        else:
            value = reversed_bits(path, value, map_channels)
            params[path] = np.ascontiguousarray(value, np.float32)
    unused = sorted(set(tensors) - used)
    # A name that looks dead may be in use: with a map head in the model theirs has effect.
    dead = [name for name in unused if re.fullmatch(_DEAD, name)]
    return Translation(
        params=params,
        missing=sorted(missing),
        extra=[name for name in unused if name not in dead],
        misshapen=misshapen,
        dead=dead,
    )


def reversed_bits(path: str, value: np.ndarray, map_channels: int) -> np.ndarray:
    """A parameter with the bits of map codes in the opposite order; others come back as they are.

    The PDM authors' code writes the most significant bit of a code first, `diffusion/bits.py` the
    least significant one.

    Args:
      path: Path of our parameter.
      value: The parameter, in our layout.
      map_channels: Bits of a map's codes.
    """
    if path == 'map/patch_embed/kernel':
        patches = value.reshape(-1, map_channels, value.shape[-1])  # (p p, bits, out)
        return patches[:, ::-1].reshape(value.shape)
    if path in ('map/head/kernel', 'map/head/bias'):
        patches = value.reshape(*value.shape[:-1], -1, map_channels)  # (..., p p, bits)
        return patches[..., ::-1].reshape(value.shape)
    if path == 'map/final_conv/kernel':
        return value[:, :, ::-1, ::-1]  # (3, 3, bits, bits)
    if path == 'map/final_conv/bias':
        return value[::-1]
    return value


def torch_name(path: str, depth: int, *, two_streams: bool) -> str:
    """The torch name of the array that a parameter of ours comes from.

    Args:
      path: Path of our parameter, such as 'image/blocks_3/qkv/kernel'.
      depth: Number of blocks besides the middle one.
      two_streams: Whether the map's positions are an array of their own; in one-stream models they
        are the end of the image's array.
    """
    stream, module, *rest = path.split('/')
    if module == 'positions':
        return 'pos_embed_mask' if stream == 'map' and two_streams else 'pos_embed'
    kind = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}[rest[-1]]
    group, _, number = module.rpartition('_')
    if group == 'blocks':
        suffix = '_mask' if stream == 'map' else ''
        block = _block_name(int(number), depth, suffix)
        return f'{block}.{_INNER[rest[0]]}.{kind}'
    if group == 'zero_convs':
        # Theirs with even numbers are dead.
        return f'zero_convs.{2 * int(number) + 1}.conv.{kind}'
    return f'{_OUTER[f"{stream}/{module}"]}.{kind}'


def _block_name(number: int, depth: int, suffix: str) -> str:
    # We count the blocks through. They have two lists and one block in the middle.
    half = depth // 2
    if number < half:
        return f'in_blocks{suffix}.{number}'
    if number == half:
        return f'mid_block{suffix}'
    return f'out_blocks{suffix}.{number - half - 1}'


def _in_our_layout(
    path: str, value: np.ndarray, shapes: Mapping[str, tuple[int, ...]], *, two_streams: bool
) -> np.ndarray | None:
    """The array as parameter `path`, its shape still unchecked; None if it cannot be one."""
    if path.endswith('/positions'):
        # (1, tokens, channels), and in one-stream models the image's tokens, then the map's.
        if value.ndim != 3 or len(value) != 1:
            return None
        if two_streams or 'map/positions' not in shapes:
            return value[0]
        image_tokens = shapes['image/positions'][0]
        map_tokens = shapes['map/positions'][0]
        # A U-ViT's array is the image's alone: its last positions are none of a map.
        if value.shape[1] != image_tokens + map_tokens:
            return None
        is_image = path == 'image/positions'
        return value[0, :image_tokens] if is_image else value[0, image_tokens:]
    if not path.endswith('/kernel'):
        return value
    # Their zero convolutions go along a line and their patch embeddings are convolutions. Ours are
    # linear layers.
    if '/zero_convs_' in path:
        return linen_kernel(value, flat=True) if value.shape[2:] == (1,) else None
    if path.endswith('/patch_embed/kernel'):
        return linen_kernel(value, flat=True) if value.ndim == 4 else None
    return linen_kernel(value)


def require_complete(
    translation: Translation, path: str, allow_missing: Sequence[str], allow_extra: Sequence[str]
) -> None:
    """Refuses a checkpoint that does not fit, unless patterns allow what does not fit.

    Args:
      translation: From `translate`.
      path: Path of the checkpoint, for messages.
      allow_missing: Patterns of torch names that may be missing or of another shape.
      allow_extra: Patterns of torch names that may be left over.

    Raises:
      ValueError: weights are missing, left over or of another shape; the message names them.
    """
    misshapen = refused([*translation.misshapen], allow_missing)
    named_problems = {
        'are missing': refused(translation.missing, allow_missing),
        'are left over': refused(translation.extra, allow_extra),
        'have other shapes': [translation.misshapen[name] for name in misshapen],
    }
    problems = [
        f'{len(names)} {what}: {brief(names)}' for what, names in named_problems.items() if names
    ]
    if problems:
        raise ValueError(
            f'{path} does not fit the model. Of its weights {"; ".join(problems)}. Choose the '
            'config of its size and kind, or name what to pass over with '
            '--config.foreign.allow_missing and --config.foreign.allow_extra.'
        )


def refused(names: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """The names that no pattern allows."""
    return [
        name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed)
    ]


def brief(names: Sequence[str], most: int = 8) -> str:
    """The names, or the first of them and how many more."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
