"""--help and refusals come at once: neither of them loads what takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Numpy is the least of them: it takes as long as all that --help needs.
HEAVY = ('jax', 'flax', 'optax', 'orbax', 'grain', 'clu', 'tensorflow', 'torch', 'PIL', 'numpy')
PROGRAM = """
import sys
from panoptic_jax import main
sys.argv = ['panoptic-jax', *sys.argv[1:]]
try:
    main.run()
finally:
    print('loaded', *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ('given', 'code', 'said'),
    [
        (['--help'], 0, 'Exit codes:'),
        (['--config=quickstart', '--help'], 0, 'learning_rate = 0.003'),
        (['--config=two_stream:size=H', '--help'], 0, 'model.hidden_size = 1152'),
        ([], 1, 'error: --config is missing'),
        (['--config=quikstart'], 1, 'error: There is no config named'),
        (['--config=quickstart:recipe=mine'], 1, 'error: The config argument recipe is'),
        (['--config=quickstart', '--config.stepz=3'], 1, "error: There is no setting 'stepz'"),
        (['--config=quickstart', '--config.steps=many'], 1, "error: steps is 'many'"),
        (['--config=quickstart', '--config.steps=-1'], 1, 'error: steps is -1'),
        (['--config=quickstart', '--config.model.num_heads=5'], 1, 'error: model.hidden_size is'),
        (['--config=quickstart', '--mode=trane'], 1, "error: --mode is 'trane'"),
        (['--config=coco_overfit', '--config.workdir='], 1, 'error: --mode=train needs --workdir'),
        (['--config=quickstart', '--workdir=README.md'], 1, 'error: The workdir is'),
    ],
)
def test_help_and_refusals_load_nothing_heavy(given, code, said):
    command = [sys.executable, '-c', PROGRAM, *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    *lines, loaded = done.stderr.splitlines()
    assert said in done.stdout + '\n'.join(lines)
    assert not set(HEAVY) & set(loaded.split()[1:])
