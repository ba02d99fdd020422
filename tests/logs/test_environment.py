"""Settings are written down and compared; compiled programs outlive the process."""

import json
import os
import subprocess
import sys
from pathlib import Path

from panoptic_jax.logs import environment

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, jax
from panoptic_jax.logs import environment
environment.keep_compiled(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.jit(lambda x: x @ x.T + 1)(jax.numpy.ones((17, 17))).block_until_ready()
print(sum(event.endswith('compilation_cache/cache_hits') for event in hits))
"""


def test_compiled_programs_are_kept_in_the_workdir(tmp_path):
    variables = {k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'}
    variables['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

    def hits(**more):
        command = [sys.executable, '-c', PROGRAM, str(tmp_path / 'run')]
        done = subprocess.run(
            command, cwd=ROOT, env=variables | more, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert hits() == 0
    assert list((tmp_path / 'run' / 'compiled').iterdir())
    assert hits() > 0
    assert hits(JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'elsewhere')) == 0


SETTINGS = {'steps': 8, 'model': {'depth': 2, 'sizes': (3, 4)}}


def test_settings_are_flat_with_dotted_names():
    assert environment.flat(SETTINGS) == {'steps': 8, 'model.depth': 2, 'model.sizes': (3, 4)}


def test_settings_are_written_as_json(tmp_path):
    environment.record(str(tmp_path), SETTINGS)
    written = json.loads((tmp_path / 'config.json').read_text())
    assert written == {'steps': 8, 'model': {'depth': 2, 'sizes': [3, 4]}}


def test_the_same_settings_pass_without_a_word(tmp_path, caplog):
    for _ in range(2):
        environment.record(str(tmp_path), SETTINGS)
    assert not caplog.text  # though JSON has made a list of the tuple


def test_changed_settings_are_named(tmp_path, caplog):
    environment.record(str(tmp_path), SETTINGS)
    environment.record(str(tmp_path), SETTINGS | {'model': {'depth': 4, 'sizes': (3, 5)}})
    assert 'model.depth: 2 -> 4, model.sizes: [3, 4] -> [3, 5].' in caplog.text
