"""The recommended flags: known to the compilers of these versions, and not what they do anyway."""

import os
import re
import subprocess
import sys

import pytest
from launch_tools import ROOT, flags_for

TOPOLOGY = (
    'from jax.experimental import topologies\n'
    "found = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')\n"
    'print(len(found.devices))'
)
AHEAD_OF_TIME = {  # libtpu without a TPU, and beside other processes that have it loaded
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def python(code, **environment):
    """What a Python of its own prints in this environment; XLA's flags are those given."""
    inherited = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')}
    return subprocess.run(
        [sys.executable, '-c', code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_libtpu_accepts_the_flags_for_tpu():
    pytest.importorskip('libtpu', reason='libtpu is not installed: pip install libtpu')
    recommended = flags_for('tpu')
    assert set(recommended) == {'LIBTPU_INIT_ARGS'}
    done = python(TOPOLOGY, **AHEAD_OF_TIME, **recommended)
    assert (done.returncode, done.stdout) == (0, '4\n'), done.stderr
    misspelt = recommended['LIBTPU_INIT_ARGS'].replace('xla_', 'xls_', 1)
    done = python(TOPOLOGY, **AHEAD_OF_TIME, LIBTPU_INIT_ARGS=misspelt)
    assert done.returncode != 0
    assert 'Unknown command line flag' in done.stderr


def test_xla_accepts_the_flags_for_gpu_and_does_not_have_them_anyway(tmp_path):
    recommended = flags_for('gpu')
    flags = recommended['XLA_FLAGS']
    names = re.findall(r'--(\w+)=', flags)
    assert names
    code = 'import jax; jax.jit(lambda a: a + 1)(1.0)'
    dump = f'{flags} --xla_dump_to={tmp_path} --xla_dump_hlo_as_text'
    done = python(code, JAX_PLATFORMS='cpu', XLA_FLAGS=dump, JAX_ENABLE_COMPILATION_CACHE='0')
    assert done.returncode == 0, done.stderr
    # The dump lists what is not as XLA has it by default.
    options = next(tmp_path.glob('*.debug_options')).read_text()
    assert all(f'{name}: ' in options for name in names)
    done = python(code, JAX_PLATFORMS='cpu', XLA_FLAGS=flags.replace('xla_', 'xls_', 1))
    assert done.returncode != 0
    assert 0.75 < float(recommended['XLA_PYTHON_CLIENT_MEM_FRACTION']) < 1


def test_what_the_environment_holds_wins():
    own = '--xla_gpu_enable_latency_hiding_scheduler=false'
    assert flags_for('gpu', XLA_FLAGS=own)['XLA_FLAGS'].split()[-1] == own
    assert 'XLA_PYTHON_CLIENT_MEM_FRACTION' not in flags_for(
        'gpu', XLA_PYTHON_CLIENT_MEM_FRACTION='0.5'
    )
    assert flags_for('tpu', LIBTPU_INIT_ARGS='--v=1')['LIBTPU_INIT_ARGS'].split()[-1] == '--v=1'


def test_each_flag_has_its_reason_and_stands_in_one_place():
    lines = (ROOT / 'launch' / 'xla_flags.sh').read_text().splitlines()
    flags = [number for number, line in enumerate(lines) if line.lstrip().startswith('--')]
    for number in flags:
        above = lines[number - 1].lstrip()
        assert above.startswith(('#', '--')), f'{lines[number]} has no reason above it'
    for path in ROOT.glob('launch/*'):
        if path.name != 'xla_flags.sh':
            assert '--xla_' not in path.read_text(), path.name
