"""The recommended flags: known to the compilers of these versions, and not what they do anyway."""

import functools
import os
import re
import subprocess
import sys

import pytest
from launch_tools import ROOT, flags_for

# A data-parallel step of four layers for four chips: the compiled program without its source lines,
# and how many of its sums of gradients start before they are waited for.
PROGRAM = """
import hashlib, re
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

devices = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2').devices
mesh = Mesh(np.array(devices), 'data')

def loss(layers, x):
    for layer in layers:
        x = jax.nn.relu(x @ layer)
    return jnp.sum(x)

def array(shape, *axes):
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

step = jax.jit(jax.grad(loss))
arguments = [array((2048, 2048))] * 4, array((512, 2048), 'data')
text = step.lower(*arguments).compile().as_text()
program = re.sub(r', metadata=\\{[^}]*\\}', '', text.split('ENTRY')[1])
print(hashlib.md5(program.encode()).hexdigest(), text.count('%async-collective-start ='))
"""
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


TRIED = (
    '--xla_jf_crs_combiner_threshold_in_bytes=16777216',
    '--xla_enable_async_all_reduce=true',
    '--xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true',
)


@pytest.fixture(scope='module')
def compiled():
    """(program, sums that start early) for TPUs with flags."""
    pytest.importorskip('libtpu', reason='libtpu is not installed: pip install libtpu')

    @functools.cache
    def run(*flags):
        done = python(PROGRAM, **AHEAD_OF_TIME, LIBTPU_INIT_ARGS=' '.join(flags))
        assert done.returncode == 0, done.stderr
        program, count = done.stdout.split()
        return program, int(count)

    return run


def test_what_others_set_for_tpu_is_the_default(compiled):
    """Seen in a program with something to hide, which has other flags in addition."""
    names = ('latency_hiding_scheduler', 'async_collective_fusion')
    default = compiled(*TRIED)
    assert compiled(*TRIED, *(f'--xla_tpu_enable_{name}=true' for name in names)) == default
    for name in names:
        assert compiled(*TRIED, f'--xla_tpu_enable_{name}=false') != default


def test_sums_of_gradients_start_early_with_three_flags_together(compiled):
    assert compiled()[1] == 0
    assert compiled(*TRIED)[1] > 0
    for left_out in TRIED:
        assert compiled(*(flag for flag in TRIED if flag != left_out))[1] == 0, left_out


def test_flags_for_tpu_are_known_to_libtpu(compiled):
    """One that is unknown would end it: so do these, misspelt."""
    recommended = flags_for('tpu')
    assert set(recommended) <= {'LIBTPU_INIT_ARGS'}
    compiled(*recommended.get('LIBTPU_INIT_ARGS', '').split())
    done = python(PROGRAM, **AHEAD_OF_TIME, LIBTPU_INIT_ARGS=TRIED[0].replace('xla', 'xls'))
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


def test_each_flag_has_its_reason_and_stands_in_one_place():
    lines = (ROOT / 'launch' / 'xla_flags.sh').read_text().splitlines()
    flags = [number for number, line in enumerate(lines) if line.lstrip().startswith('--')]
    for number in flags:
        above = lines[number - 1].lstrip()
        assert above.startswith(('#', '--')), f'{lines[number]} has no reason above it'
    for path in ROOT.glob('launch/*'):
        if path.name != 'xla_flags.sh':
            assert '--xla_' not in path.read_text(), path.name
