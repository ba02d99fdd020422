"""The circumstances of a run: its settings, its software and devices, and its compiled programs.

`config.json`, `environment.json` and the folder `compiled` in the run's folder keep them.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath

from panoptic_jax.machine import files

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')

_WORTH_KEEPING = 0.1  # seconds that a program took to compile


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{'data.dir': ..., 'model.depth': ...}: nested settings with dotted names."""
    leaves = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            leaves |= {f'{name}.{key}': inner for key, inner in flat(value).items()}
        else:
            leaves[name] = value
    return leaves


def record(workdir: str, settings: Mapping[str, Any]) -> None:
    """Writes both files, on process 0; logs which settings have changed since the last start.

    Args:
      workdir: The run's folder; made if missing.
      settings: The whole config as nested dicts, JSON-able.
    """
    # Where it is used: `flat` serves --help and refusals, which need no JAX.
    import jax

    if jax.process_index():
        return
    folder = epath.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'config.json'
    if path.exists():
        changed = _changed(json.loads(path.read_text()), settings)
        # A warning and no error: a longer run, say, goes on from the same checkpoint. What must
        # not change is checked against the checkpoint itself.
        if changed:
            logging.warning('Settings have changed since the last start: %s.', ', '.join(changed))
    files.write_json(path, settings)
    details = {
        'commit': commit(),
        'python': platform.python_version(),
        'packages': {name: importlib.metadata.version(name) for name in _PACKAGES},
        'devices': [f'{device.device_kind} {device.id}' for device in jax.devices()],
        'processes': jax.process_count(),
    }
    files.write_json(folder / 'environment.json', details)


def _changed(before: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Lines 'name: old -> new' for settings that both have; `before` comes from JSON."""
    # JSON has lists in the place of tuples, so both sides pass through it.
    now = json.loads(json.dumps(settings))
    old_values = flat(before)
    return [
        f'{name}: {old_values[name]!r} -> {value!r}'
        for name, value in flat(now).items()
        if name in old_values and old_values[name] != value
    ]


def keep_compiled(workdir: str) -> None:
    """Keeps programs that took over a tenth of a second to compile in `workdir/compiled`.

    The same command then starts at once, after a preemption or as another mode. Call it before
    anything is compiled. `JAX_COMPILATION_CACHE_DIR` names another folder.
    """
    import jax

    # JAX reads the variable itself.
    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        folder = epath.Path(workdir) / 'compiled'
        jax.config.update('jax_compilation_cache_dir', os.fspath(folder))
    # JAX's second leaves out programs that take a start of a few seconds a good part of it.
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', _WORTH_KEEPING)


def commit() -> str | None:
    """The git commit of this code, with '+' where files have changed; None outside a repository."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ['git', 'describe', '--always', '--abbrev=40', '--dirty=+'],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
    # No git, or code that was installed without its repository.
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
