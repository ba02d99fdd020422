"""PyTorch's files as tensors by name; `weights/foreign_names.py` knows what the names mean.

This is the one place that imports PyTorch. A file is never loaded in a way that could run code from
it: objects of classes that PyTorch does not hold for safe become empty stand-ins.
`weights/torch_contents.py` finds the weights in what a file holds.
"""

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_jax.encoders import file_kinds, safetensors_files, weights_files
from panoptic_jax.weights import foreign_names, torch_contents

# Preferred first: U-ViT's training writes a folder with both.
_FOLDER_FILES = ('nnet_ema.pth', 'nnet.pth')
# Kinds of numbers that NumPy has; bfloat16 becomes float32.
_KINDS = ('float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8',
          'bool')  # fmt: skip
_BLOCK = 1 << 20  # bytes
_MOST_STRANGERS = 100  # classes; more are no checkpoint's


def read_torch(
    path: str, allow_extra: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], str, str]:
    """The tensors of a state dict by name, in their own precision.

    Args:
      path: Local path or hf:// address, see `weights_files.locate`; or the folder of a checkpoint
        of U-ViT's training, with nnet_ema.pth.
      allow_extra: Patterns of names that are passed over where they are no tensors.

    Returns:
      The tensors, the file's SHA-256, and the part of the file that they are, '' for all of it.

    Raises:
      FileNotFoundError, ValueError: no such file, no PyTorch, something else than weights, or
        numbers that are not finite.
    """
    path = weights_files.locate(_in_folder(path), 'foreign.path', 'a .pth file')
    content = _content(path)
    items, part = torch_contents.state_dict(content, path)
    tensors = _arrays(items, path, allow_extra)
    safetensors_files.require_finite(tensors, path)
    with open(path, 'rb') as file:
        return tensors, hashlib.file_digest(file, 'sha256').hexdigest(), part


def _in_folder(path: str) -> str:
    """The file of weights in a folder; other paths come back as they are."""
    if not path or not Path(path).is_dir():
        return path
    for name in _FOLDER_FILES:
        if (Path(path) / name).is_file():
            return str(Path(path) / name)
    raise ValueError(
        f'foreign.path is {path!r}, a folder without {" or ".join(_FOLDER_FILES)}; give the path '
        'of the .pth file itself.'
    )


def _content(path: str) -> Any:
    """What a file of PyTorch's holds."""
    with open(path, 'rb') as file:
        start = file.read(file_kinds.START)
    if what := _refusal(path, start):
        raise ValueError(f'{path} {what}.')
    # Imported here: nothing else in the package needs PyTorch.
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            '--mode=import reads .pth files with PyTorch, which is missing; pip install torch.'
        ) from error
    strangers = {}
    while True:
        try:
            stand_ins = torch.serialization.safe_globals([(t, n) for n, t in strangers.items()])
            # Old formats of pickles bring warnings that ask for nothing.
            with stand_ins, warnings.catch_warnings(action='ignore'):
                # weights_only: a pickle could run any code.
                return torch.load(path, map_location='cpu', weights_only=True)
        except Exception as error:  # pickle, zip and torch errors of many kinds
            name, kind = _stranger_named(error)
            known = issubclass(strangers.get(name, object), kind)
            if not name or known or len(strangers) == _MOST_STRANGERS:
                raise ValueError(
                    f'{path} is no file of weights that can be read ({_reason(error)}); copy or '
                    'download it again, or save its state dict alone where it was made: '
                    'torch.save(model.state_dict(), NEW_PATH).'
                ) from error
            module, _, own_name = name.rpartition('.')
            strangers[name] = type(own_name, (kind,), {'__module__': module})


def _refusal(path: str, start: bytes) -> str | None:
    """What a file is that is none of PyTorch's, and what to do; None for one that may be."""
    if what := file_kinds.refusal(start):
        return what
    if file_kinds.is_safetensors(start):
        return (
            'is a safetensors file, which needs no import as a tower (an encoder, Inception or '
            'CLIP); a U-ViT or PDM in it needs its original names in a .pth file: '
            'torch.save(safetensors.torch.load_file(PATH), NEW_PATH)'
        )
    if not start.startswith(b'PK'):
        return None
    if not zipfile.is_zipfile(path):
        return 'is cut off: the end of its archive is missing; copy or download it again'
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = _damaged_parts(archive)
    # The archive's lists may be damaged in many ways.
    except Exception as error:
        return f'is a damaged archive ({error}); copy or download it again'
    # A writer can be told to leave checksums out, and then none is right.
    if 0 < len(damaged) < len(names):
        return (
            f'is damaged: {foreign_names.brief(damaged)} in it are not what was written; copy or '
            'download it again'
        )
    if any(name.endswith('/constants.pkl') for name in names):
        return (
            'is a program of TorchScript, not a state dict; take the weights alone, for FID '
            'pt_inception-2015-12-05-6726825d.pth of pytorch-fid'
        )
    if not any(name.endswith('data.pkl') for name in names):
        return 'is a zip archive of something else than PyTorch; unpack it first'
    return None


def _damaged_parts(archive: zipfile.ZipFile) -> list[str]:
    """The parts of an archive whose checksum is not right, which PyTorch does not look at."""
    damaged = []
    for name in archive.namelist():
        try:
            with archive.open(name) as part:
                while part.read(_BLOCK):
                    pass
        except zipfile.BadZipFile:
            damaged.append(name)
    return damaged


def _stranger_named(error: Exception) -> tuple[str, type]:
    """The class that PyTorch's unpickler stumbles over, and what stands in for it.

    The name is '' where that is not the trouble.
    """
    message = str(error) if isinstance(error, pickle.UnpicklingError) else ''
    if found := re.search(r'GLOBAL (\S+) was not an allowed global', message):
        name = found[1] if '.' in found[1] else f'builtins.{found[1]}'
        return name, torch_contents.Stranger
    # Only now it shows that the class is a kind of dict.
    if found := re.search(r"Can only SETITEMS? for .* got <class '(\S+)'>", message):
        return found[1], torch_contents.StrangeDict
    return '', object


def _reason(error: Exception) -> str:
    """PyTorch's message in one line, without colours and without its advice on loading anyhow."""
    text = re.sub(r'\x1b\[[0-9;]*[A-Za-z]', '', str(error))
    text = text.rpartition('WeightsUnpickler error:')[2]
    advice = ('weights_only', 'Weights only', 'add_safe_globals', 'Check the documentation')
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not any(word in line for word in advice)]
    return told[0].rstrip('.') if told else type(error).__name__


def _arrays(items: dict[str, Any], path: str, allow_extra: Sequence[str]) -> dict[str, np.ndarray]:
    """The tensors among the items as arrays; others must be allowed."""
    import torch

    odd = [name for name, value in items.items() if not isinstance(value, torch.Tensor)]
    not_allowed = foreign_names.refused(odd, allow_extra)
    if not_allowed:
        raise ValueError(
            f'{path} holds more than weights: {foreign_names.brief(not_allowed)}; save its state '
            'dict alone, or name what to pass over with --config.foreign.allow_extra.'
        )
    arrays = {}
    for name, value in items.items():
        if name in odd:
            continue
        kind = str(value.dtype).removeprefix('torch.')
        if kind not in _KINDS or value.layout != torch.strided or value.is_meta:
            what = kind if kind not in _KINDS else 'meta' if value.is_meta else str(value.layout)
            raise ValueError(
                f'{path}: {name!r} is of type {what}, which is not read; take the weights in half '
                'or full precision (float16, bfloat16, float32).'
            )
        # Parameters ask for gradients, and NumPy has no bfloat16.
        plain = value.detach()
        plain = plain.float() if kind == 'bfloat16' else plain
        arrays[name] = plain.contiguous().numpy()
    return arrays
