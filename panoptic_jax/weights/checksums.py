"""Checksums of a checkpoint's files, which say whether it is still what was saved.

Every checkpoint holds a list: each file of its arrays and of its JSON parts, with size and SHA-256.
`weights/orbax_files.py` writes the list before a checkpoint counts as complete, and
`weights/recovery.py` compares. Checkpoints of before version 0.3.0 have no list.
"""

import base64
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from panoptic_jax.machine import files

LIST = 'state/checksums.json'  # below a checkpoint's folder
_PARTS = ('data', 'meta', 'state')  # folders of a checkpoint
# Orbax writes it last, and its being there says nothing about the arrays.
_MARKER = 'commit_success.txt'
# A bucket tells the MD5 of its objects, so nothing is read there.
_LOCAL, _IN_BUCKETS = 'sha256', 'md5'
_THREADS = 8


def write(folder: epath.Path, state: epath.Path) -> None:
    """Writes the list of a checkpoint that is all there but for its name.

    Args:
      folder: The checkpoint's folder; `data` and `meta` in it are complete.
      state: The folder of the arrays, which has another name until it is complete.

    Raises:
      OSError: the disk is full, say.
    """
    remote, found = files.is_remote(folder), {}
    for part in _PARTS:
        place = state if part == 'state' else folder / part
        sizes = _sizes(place)
        names = [name for name in sizes if os.path.basename(name) != _MARKER]
        sums = _sums_of_bucket(place, names) if remote else _sums(place, names, _LOCAL)
        found |= {f'{part}/{name}': [sizes[name], sums[name]] for name in names}
    content = {'algorithm': _IN_BUCKETS if remote else _LOCAL, 'files': found}
    files.write_json(state / os.path.basename(LIST), content)


def has_list(folder: epath.Path) -> bool:
    """Whether a checkpoint's folder holds a list."""
    return (folder / LIST).exists()


def fault(
    folder: epath.Path, *, contents: bool = True, share: tuple[int, int] = (0, 1)
) -> str | None:
    """What is wrong with a checkpoint, in words; None where its files are as they were saved.

    Args:
      folder: The checkpoint's folder.
      contents: Whether to compare the bytes, too, and not the sizes alone.
      share: (index, count): this process compares the bytes of every `count`-th file.

    Raises:
      OSError: the files cannot be read, which says nothing about the checkpoint.
    """
    for part in _PARTS:
        if not (folder / part).is_dir():
            return f'its folder {part} is missing'
    if not has_list(folder):
        # Old checkpoints never had one; a newer one says in `meta` that it has.
        return 'its list of checksums is missing' if _promised(folder) else None
    try:
        algorithm, listed = _read_list(folder)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f'{LIST} cannot be understood'
    sizes = _sizes(folder)
    for name, (size, _) in listed.items():
        if name not in sizes:
            return f'its file {name} is missing'
        if sizes[name] != size:
            return f'its file {name} has {sizes[name]:,} of {size:,} bytes'
    if not contents:
        return None
    index, count = share
    names = sorted(listed)[index::count]
    if not files.is_remote(folder):
        found = _sums(folder, names, algorithm)
    # A bucket knows the one kind of sums alone. Of what was copied into it, the sizes must do.
    elif algorithm == _IN_BUCKETS:
        found = _sums_of_bucket(folder, names)
    else:
        return None
    for name, digest in found.items():
        if digest != listed[name][1] and listed[name][1]:
            return f'the content of its file {name} is not what was saved'
    return None


def _read_list(folder: epath.Path) -> tuple[str, dict[str, tuple[int, str]]]:
    """(algorithm, {file: (bytes, digest)}); raises errors of many kinds for what is no list."""
    content = json.loads((folder / LIST).read_text())
    algorithm = content['algorithm']
    if algorithm not in (_LOCAL, _IN_BUCKETS):
        raise ValueError(algorithm)
    listed = {name: (int(size), str(digest)) for name, (size, digest) in content['files'].items()}
    lengths = {len(digest) for _, digest in listed.values() if algorithm == _LOCAL}
    if not listed or not lengths <= {hashlib.new(algorithm).digest_size * 2}:
        raise ValueError(algorithm)
    return algorithm, listed


def _promised(folder: epath.Path) -> bool:
    """Whether `meta` names the list."""
    try:
        return 'checksums' in json.loads((folder / 'meta' / 'metadata').read_text())
    # What is wrong with `meta` shows when it is read.
    except (ValueError, TypeError, FileNotFoundError):
        return False


def _sizes(folder: epath.Path) -> dict[str, int]:
    """{path below the folder: bytes} of all files, in order."""
    if files.is_remote(folder):
        return {name: details['size'] for name, details in sorted(_objects(folder).items())}
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            # As a list of another system names it, also where paths are written otherwise.
            sizes[os.path.relpath(path, folder).replace(os.sep, '/')] = os.path.getsize(path)
    return dict(sorted(sizes.items()))


def _objects(folder: epath.Path) -> dict[str, dict]:
    """{path below the folder: what the bucket says about it} of all objects, by one request."""
    storage, name = files.storage_of(folder)
    found = storage.find(name, detail=True)
    return {path[len(name) :].strip('/'): details for path, details in found.items()}


def _sums(folder: epath.Path, names: list[str], algorithm: str) -> dict[str, str]:
    """{name: digest} of files below a local folder, read by some threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: _digest(os.path.join(folder, name), algorithm), names)
        return dict(zip(names, found, strict=True))


def _digest(path: str, algorithm: str) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _sums_of_bucket(folder: epath.Path, names: list[str]) -> dict[str, str]:
    """{name: MD5} as the bucket tells; '' for an object that was put together of parts."""
    objects = _objects(folder)
    encoded = {name: objects[name].get('md5Hash', '') for name in names}
    return {name: base64.b64decode(text).hex() for name, text in encoded.items()}
