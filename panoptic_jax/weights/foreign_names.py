"""From the names and layouts of U-ViT's and the PDM authors' PyTorch checkpoints to ours.

Arrays in, arrays out: reading .pth files is `import_weights.py`'s, so no PyTorch is needed here.
"""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_INNER = {
    'norm1': 'norm1',
    'qkv': 'attn.qkv',
    'proj': 'attn.proj',
    'norm2': 'norm2',
    'fc1': 'mlp.fc1',
    'fc2': 'mlp.fc2',
    'skip': 'skip_linear',
}
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
# Theirs without effect: a second embedding and every other zero-conv are never called, and a model
# of given maps has a map head that nothing reads.
_DEAD = r'mask_embed_0\..*|zero_convs\.\d*[02468]\..*|(decoder_pred|final_layer)_mask\..*'


class Translation(NamedTuple):
    """What became of a checkpoint.

    Attributes:
      params: {our path: array} of what was found.
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
    tensors: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], depth: int
) -> Translation:
    """Fills a model from a checkpoint.

    Args:
      tensors: By torch name.
      wanted: {path of our parameter, such as 'image/blocks_3/qkv/kernel': its shape}.
      depth: Blocks besides the middle one.
    """
    params, missing, misshapen, used = {}, [], {}, set()
    two_streams = any(path.startswith('map/blocks_') for path in wanted)
    for path, shape in wanted.items():
        name = torch_name(path, depth, two_streams)
        if name not in tensors:
            missing.append(name)
            continue
        used.add(name)
        value = _in_our_layout(path, tensors[name], wanted, two_streams)
        if value is None or value.shape != shape:
            misshapen[name] = (
                f'{name} is {tensors[name].shape}, which does not give {path} of {shape}'
            )
        else:
            params[path] = np.ascontiguousarray(value, np.float32)
    rest = sorted(set(tensors) - used)
    dead = [name for name in rest if re.fullmatch(_DEAD, name)]
    return Translation(
        params, sorted(set(missing)), [n for n in rest if n not in dead], misshapen, dead
    )


def torch_name(path: str, depth: int, two_streams: bool) -> str:
    """Where a parameter of ours comes from.

    Args:
      path: Ours.
      depth: Blocks besides the middle one.
      two_streams: The map's positions are an array of their own, not the end of the image's.
    """
    stream, module, *rest = path.split('/')
    if module == 'positions':
        return 'pos_embed_mask' if stream == 'map' and two_streams else 'pos_embed'
    kind = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}[rest[-1]]
    group, _, number = module.rpartition('_')
    if group == 'blocks':
        level, half = int(number), depth // 2
        suffix = '_mask' if stream == 'map' else ''
        block = f'in_blocks{suffix}.{level}' if level < half else f'mid_block{suffix}'
        if level > half:
            block = f'out_blocks{suffix}.{level - half - 1}'
        return f'{block}.{_INNER[rest[0]]}.{kind}'
    if group == 'zero_convs':
        return f'zero_convs.{2 * int(number) + 1}.conv.{kind}'
    return f'{_OUTER[f"{stream}/{module}"]}.{kind}'


def _in_our_layout(
    path: str, value: np.ndarray, wanted: Mapping[str, tuple[int, ...]], two_streams: bool
) -> np.ndarray | None:
    """None where the array is not what it should be; else its shape is still to be compared."""
    if path.endswith('/positions'):
        if value.ndim != 3 or len(value) != 1:
            return None
        if two_streams or 'map/positions' not in wanted:
            return value[0]
        image, map_ = (wanted[f'{stream}/positions'][0] for stream in ('image', 'map'))
        if value.shape[1] != image + map_:
            return None
        return value[0, :image] if path == 'image/positions' else value[0, image:]
    if not path.endswith('/kernel'):
        return value
    if '/zero_convs_' in path:
        return value[..., 0].T if value.shape[2:] == (1,) else None
    if path.endswith('/patch_embed/kernel'):
        if value.ndim != 4:
            return None
        return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])  # a patch is (p1 p2 c)
    return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0) if value.ndim == 4 else None


def require_complete(
    found: Translation, path: str, allow_missing: Sequence[str], allow_extra: Sequence[str]
) -> None:
    """Refuses a checkpoint that does not fit, unless by name.

    Args:
      found: From `translate`.
      path: Of the checkpoint, for messages.
      allow_missing: Patterns of torch names that may be missing or of another shape.
      allow_extra: Patterns of torch names that may be left over.

    Raises:
      ValueError: listing what is missing, left over or of another shape.
    """
    missing = refused(found.missing, allow_missing)
    extra = refused(found.extra, allow_extra)
    misshapen = [found.misshapen[name] for name in refused([*found.misshapen], allow_missing)]
    problems = [
        f'{len(names)} {what}: {listed(names)}'
        for what, names in (
            ('are missing', missing),
            ('are left over', extra),
            ('have other shapes', misshapen),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f'{path} does not fit the model. Of its weights {"; ".join(problems)}. Choose the '
            'config of its size and kind, or name what to pass over with '
            '--config.foreign.allow_missing and --config.foreign.allow_extra.'
        )


def refused(names: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """The names that no pattern allows."""
    return [n for n in names if not any(fnmatch.fnmatchcase(n, pattern) for pattern in allowed)]


def listed(names: Sequence[str], most: int = 8) -> str:
    """The names, or the first of them and how many more."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
