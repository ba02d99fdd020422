"""The folder that a preparation fills: whose it is, and whether it is complete.

`data/manifest.py` says what the folder holds, `machine/work_folder.py` how jobs claim folders.
"""

from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from panoptic_jax.data.manifest import CLAIM, SEAL, Manifest
from panoptic_jax.machine import files
from panoptic_jax.machine.work_folder import WorkFolder

_MOST_DIFFERENCES = 4  # that one message names


def work_folder(data_dir: str) -> WorkFolder:
    """The folder as one that a job fills: claimed by `prepare.json`, sealed by `manifest.json`."""
    return WorkFolder(epath.Path(data_dir), claim=CLAIM, seal=SEAL)


def is_finished(data_dir: str) -> bool:
    """Whether a folder is complete."""
    return work_folder(data_dir).is_finished()


def begin(data_dir: str, manifest: Manifest) -> bool:
    """Claims a folder for a preparation, or takes up unfinished work of the same manifest.

    Returns:
      Whether there is work to do: False if the folder is finished.

    Raises:
      ValueError: the folder holds anything but this preparation's work.
    """
    expected = manifest.to_json()

    def check(promised: Mapping[str, Any] | None) -> None:
        if promised is None:
            _require_empty(epath.Path(data_dir))
        # The fingerprint covers sources, encoders, pooling and sizes: equal ones give equal bytes.
        elif promised['fingerprint'] != expected['fingerprint']:
            raise ValueError(
                f'data.dir {str(data_dir)!r} holds data that were prepared differently '
                f'({_differences(promised, expected)}); choose another data.dir or delete this one.'
            )

    folder = work_folder(data_dir)
    # Asked before `begin`, which claims the folder.
    begun = folder.is_begun()
    remains = folder.begin(expected, check)
    if not remains:
        logging.info('%s is finished already: %s.', data_dir, _counts(manifest))
    elif begun:
        logging.info('Going on with the unfinished preparation in %s.', data_dir)
    return remains


def _require_empty(directory: epath.Path) -> None:
    # A killed write leaves a .tmp file, which the next one replaces.
    if directory.exists() and any(path.suffix != '.tmp' for path in directory.iterdir()):
        raise ValueError(
            f'data.dir {str(directory)!r} is not empty and no preparation was started there; '
            'choose another data.dir or empty it.'
        )


def finish(data_dir: str, manifest: Manifest) -> None:
    """Declares the folder complete: the manifest gets its final name."""
    directory = epath.Path(data_dir)
    files.write_json(directory / SEAL, manifest.to_json())
    # A kill before this line leaves both files, which then say the same.
    (directory / CLAIM).unlink()
    logging.info('%s is finished: %s.', data_dir, _counts(manifest))


def _counts(manifest: Manifest) -> str:
    return ', '.join(
        f'{split} {sizes.images} images and {sizes.captions} captions'
        for split, sizes in manifest.splits.items()
    )


def _differences(promised: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The first differing leaves of two nested dicts, with both values."""
    there, here = _leaves(promised), _leaves(expected)
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    names.remove('fingerprint')
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
