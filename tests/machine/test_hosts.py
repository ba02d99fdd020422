"""Several processes on one machine: sharing work, and ends that others can read."""

import json
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import QUICKLY, ROOT
from test_prepare import contents, make_config, prepared  # noqa: F401 - a fixture

from panoptic_jax.machine import hosts, jobs


def start_process(index, port, code):
    """Process `index` of two, which runs `code` with `hosts` imported."""
    environment = {
        'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}',
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': QUICKLY,
        'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
        'JAX_NUM_PROCESSES': '2',
        'JAX_PROCESS_ID': str(index),
    }
    code = f'from panoptic_jax.machine import hosts\n{code}'
    return subprocess.Popen(
        [sys.executable, '-c', code], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def run_both(port, code, exit_code=0):
    """Runs `code` in both processes, which have to succeed, or to leave as is expected."""
    processes = [start_process(index, port, code) for index in (0, 1)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [exit_code] * 2, errors


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture
def port():
    return free_port()


# A preparation of two processes, of which the second may get a SIGTERM with its first shard.
PREPARE = """
import json, os, signal, sys
import ml_collections
from panoptic_jax import main
from panoptic_jax.data import scenes
get = scenes.Scenes.__getitem__
def tell(self, i):
    if i == 4 and TOLD:
        os.kill(os.getpid(), signal.SIGTERM)
    return get(self, i)
scenes.Scenes.__getitem__ = tell
sys.exit(main.run_mode('prepare', ml_collections.ConfigDict(json.loads(CONFIG)), None))
"""


def test_two_processes_end_together_go_on_and_leave_the_bytes_of_one(
    prepared,  # noqa: F811 - the fixture
    tmp_path,
    port,
):
    settings = json.dumps(make_config(tmp_path / 'data').to_dict())
    code = PREPARE.replace('CONFIG', repr(settings))
    run_both(port, code.replace('TOLD', 'True'), exit_code=75)
    assert not [*tmp_path.rglob('*.tmp')]
    assert not (tmp_path / 'data' / 'manifest.json').exists()
    run_both(free_port(), code.replace('TOLD', 'False'))
    assert contents(tmp_path / 'data') == contents(prepared)


@pytest.mark.parametrize('index', [0, 1])
def test_a_process_that_stays_alone_ends_with_a_sentence(index, port):
    process = start_process(index, port, 'hosts.start(join_seconds=2)')
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    last = error.strip().splitlines()[-1]
    assert last.startswith(f'error: The 2 processes of the job at 127.0.0.1:{port} did not meet')


def test_a_process_that_fails_does_not_wait_for_the_others(port):
    waiting = start_process(0, port, 'hosts.start(); import time; time.sleep(300)')
    failing = start_process(1, port, 'hosts.start(); hosts.leave_failed_job()')
    started = time.monotonic()
    assert failing.wait(timeout=60) == 1
    assert time.monotonic() - started < 30
    waiting.kill()
    waiting.communicate()


def test_half_an_environment_of_a_job_is_refused(monkeypatch):
    monkeypatch.setenv('JAX_NUM_PROCESSES', '2')
    with pytest.raises(ValueError, match='JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID is not set'):
        hosts.start()


def test_a_process_of_its_own_goes_on_after_an_error():
    assert hosts.leave_failed_job() is None


def test_a_job_that_cannot_be_joined_says_so(monkeypatch):
    for name in jobs.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')  # without the address that JAX would look for
    monkeypatch.setattr(jax.distributed, 'initialize', refuse)
    with pytest.raises(
        ValueError, match=r'could not join the 2 of mpirun \(coordinator_address .*NUM_'
    ):
        hosts.start()


def refuse(**arguments):
    assert arguments['shutdown_timeout_seconds'] >= 3600
    raise ValueError('coordinator_address should be defined.')


# Runs in both processes of a job; what they get goes to FOLDER/0.npz and FOLDER/1.npz.
DEAL = """
hosts.start()
import jax
import numpy as np
calls = []
def row(i):
    calls.append(i)
    return np.array([i / 3, np.pi * 1e-300])
rows, single = hosts.deal(row, 5), hosts.deal(lambda i: i + 0.1, 1)
first = hosts.of_first(7 + jax.process_index())
path = f'FOLDER/{jax.process_index()}.npz'
np.savez(path, rows=rows, single=single, calls=calls, first=first)
"""
ROWS = np.array([[i / 3, np.pi * 1e-300] for i in range(5)])


@pytest.fixture(scope='module')
def dealt(tmp_path_factory):
    """What each of two processes got."""
    folder = tmp_path_factory.mktemp('dealt')
    run_both(free_port(), DEAL.replace('FOLDER', str(folder)))
    return [dict(np.load(folder / f'{index}.npz')) for index in (0, 1)]


def test_all_processes_get_all_rows_to_the_bit(dealt):
    for arrays in dealt:
        np.testing.assert_array_equal(arrays['rows'], ROWS)


def test_a_process_without_a_share_gets_the_rows_too(dealt):
    for arrays in dealt:
        np.testing.assert_array_equal(arrays['single'], [0.1])


def test_each_process_computes_its_own_share(dealt):
    assert [arrays['calls'].tolist() for arrays in dealt] == [[0, 2, 4], [1, 3]]


def test_all_processes_take_the_number_of_the_first(dealt):
    assert [arrays['first'] for arrays in dealt] == [7, 7]


def test_one_process_computes_all_rows():
    np.testing.assert_array_equal(hosts.deal(lambda i: ROWS[i], 5), ROWS)


def test_the_number_of_a_single_process_stays():
    assert hosts.of_first(3) == 3
