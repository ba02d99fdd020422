"""The folder that a preparation fills: whose it is, and whether it is complete.

`data/manifest.py` says what the folder holds, `machine/work_folder.py` how jobs claim folders.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from etils import epath

from panoptic_jax.data.manifest import CLAIM, DATASETS, SEAL, Manifest, read_manifest
from panoptic_jax.machine import files, hosts
from panoptic_jax.machine.work_folder import WorkFolder
from panoptic_jax.machine.writer_lock import OWN_FILES
from panoptic_jax.preparation import shard_files

_SIZES = 'shard_bytes'  # in the finished manifest: {name: bytes} of the shards
_NOT_COMPARED = ('fingerprint', 'version', _SIZES)
_MOST_DIFFERENCES = 4  # that one message names


def work_folder(data_dir: str) -> WorkFolder:
    """The folder as one that a job fills: claimed by `prepare.json`, sealed by `manifest.json`."""
    return WorkFolder(epath.Path(data_dir), claim=CLAIM, seal=SEAL)


def is_finished(data_dir: str) -> bool:
    """Whether a folder was finished."""
    return work_folder(data_dir).is_finished()


def is_complete(data_dir: str, manifest: Manifest) -> bool:
    """Whether a folder was finished by this preparation and still holds all that it should.

    Nothing is written, so that a folder which others own can be asked about.

    Raises:
      ValueError: the folder holds anything but this preparation's work.
    """
    folder = work_folder(data_dir)
    with files.explaining(data_dir):
        if not folder.is_begun():
            _require_empty(folder.path)
        _check(data_dir, folder.promise(), manifest)
        if not folder.is_finished():
            return False
        there = read_manifest(folder.path / SEAL)
        complete = (
            shard_files.present(data_dir, there) == {*shard_files.all_shards(there)}
            and not shard_files.damaged(data_dir, there, _noted_sizes(data_dir))
            and shard_files.has_rest(data_dir, there)
        )
    if complete:
        logging.info('%s is finished already: %s.', data_dir, _counts(manifest))
    else:
        logging.warning('%s was finished, but files are missing; they are made again.', data_dir)
    return complete


def begin(data_dir: str, manifest: Manifest) -> Manifest:
    """Claims a folder for a preparation, or takes up unfinished work of the same manifest.

    Process 0 removes what killed processes left, and damaged shards. Call it with the writer lock.

    Returns:
      The folder's own manifest, which says where its records lie.

    Raises:
      ValueError: the folder holds anything but this preparation's work.
    """
    folder = work_folder(data_dir)
    # Asked before `begin`, which claims the folder.
    begun = folder.is_begun()
    folder.begin(manifest.to_json(), lambda promised: _check(data_dir, promised, manifest))
    there = read_manifest(folder.path / (SEAL if folder.is_finished() else CLAIM))
    if jax.process_index() == 0:
        for place in ('', *map(there.folder_of, DATASETS)):
            files.remove_unfinished(folder.path / place)
        shard_files.remove(shard_files.damaged(data_dir, there, _noted_sizes(data_dir)))
        if begun and not folder.is_finished():
            logging.info('Going on with the unfinished preparation in %s.', data_dir)
    # The others wait, so that nothing of theirs is removed.
    hosts.of_first(0)
    return there


def _check(data_dir: str, promised: Mapping[str, Any] | None, manifest: Manifest) -> None:
    """Raises ValueError if a folder with this promise is not the work of the manifest."""
    if promised is None:
        _require_empty(epath.Path(data_dir))
        return
    expected = manifest.to_json()
    # The fingerprint covers sources, encoders, pooling and sizes: equal ones give equal bytes.
    if promised.get('fingerprint') != expected['fingerprint']:
        raise ValueError(
            f'data.dir {str(data_dir)!r} holds data that were prepared differently '
            f'({_differences(promised, expected)}); choose another data.dir or delete this one.'
        )


def _require_empty(directory: epath.Path) -> None:
    # A killed write leaves a file with this end, and a job that was refused its lock.
    if not directory.exists():
        return
    names = {path.name for path in directory.iterdir()}
    if any(not name.endswith(files.UNFINISHED) for name in names - OWN_FILES):
        raise ValueError(
            f'data.dir {str(directory)!r} is not empty and no preparation was started there; '
            'choose another data.dir or empty it.'
        )


def finish(data_dir: str, manifest: Manifest) -> None:
    """Declares the folder complete: the manifest gets its final name, and the shards' sizes."""
    directory = epath.Path(data_dir)
    sizes = shard_files.sizes_on_disk(data_dir, manifest)
    files.write_json(directory / SEAL, manifest.to_json() | {_SIZES: dict(sorted(sizes.items()))})
    # A kill before this line leaves both files, which then say the same.
    (directory / CLAIM).unlink(missing_ok=True)
    logging.info('%s is finished: %s.', data_dir, _counts(manifest))


def _noted_sizes(data_dir: str) -> dict[str, int]:
    """{name: bytes} of the shards, as they were when the folder was finished; {} before that."""
    seal = epath.Path(data_dir) / SEAL
    # Releases before 0.3.0 did not note sizes.
    return json.loads(seal.read_text()).get(_SIZES, {}) if seal.exists() else {}


def _counts(manifest: Manifest) -> str:
    return ', '.join(
        f'{split} {sizes.images} images and {sizes.captions} captions'
        for split, sizes in manifest.splits.items()
    )


def _differences(promised: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The first differing leaves of two nested dicts, with both values."""
    there, here = (
        _leaves({key: value for key, value in tree.items() if key not in _NOT_COMPARED})
        for tree in (promised, expected)
    )
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ', '.join(
        f'{name}: {_brief(there.get(name))} there, {_brief(here.get(name))} in this config'
        for name in names[:_MOST_DIFFERENCES]
    )


def _brief(value: Any) -> str:
    return text if len(text := repr(value)) <= 50 else text[:47] + '...'


def _leaves(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves.update(_leaves(value, f'{prefix}{key}.'))
        else:
            leaves[prefix + key] = value
    return leaves
