"""What a run was: `config.json` and `environment.json` in its folder, and its compiled programs."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath

from panoptic_jax.machine import files

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """{'data.dir': ..., 'model.depth': ...}: the config with dotted names."""
    leaves = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            leaves |= {f'{name}.{key}': inner for key, inner in flat(value).items()}
        else:
            leaves[name] = value
    return leaves


def record(workdir: str, config: ml_collections.ConfigDict) -> None:
    """Writes both files, on process 0; says which settings have changed since the last start."""
    if jax.process_index():
        return
    folder = epath.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'config.json'
    if path.exists():
        before = flat(ml_collections.ConfigDict(json.loads(path.read_text())))
        now = flat(ml_collections.ConfigDict(json.loads(json.dumps(config.to_dict()))))
        changed = [
            f'{name}: {before[name]!r} -> {value!r}'
            for name, value in now.items()
            if name in before and before[name] != value
        ]
        if changed:
            logging.warning('Settings have changed since the last start: %s.', ', '.join(changed))
    files.write_json(path, config.to_dict())
    details = {
        'commit': _commit(),
        'python': platform.python_version(),
        'packages': {name: importlib.metadata.version(name) for name in _PACKAGES},
        'devices': [f'{device.device_kind} {device.id}' for device in jax.devices()],
        'processes': jax.process_count(),
    }
    files.write_json(folder / 'environment.json', details)


def keep_compiled(workdir: str) -> None:
    """Programs that took over a second to compile are kept in `workdir/compiled`.

    The same command then starts at once, after a preemption or as another mode. Call it before
    anything is compiled. `JAX_COMPILATION_CACHE_DIR` names another folder.
    """
    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        folder = epath.Path(workdir) / 'compiled'
        jax.config.update('jax_compilation_cache_dir', os.fspath(folder))


def _commit() -> str | None:
    """The git commit of this code, with '+' where files have changed; None outside a repository."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ['git', 'describe', '--always', '--abbrev=40', '--dirty=+'],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
