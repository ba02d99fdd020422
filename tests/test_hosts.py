"""Several processes on one machine: sharing a preparation, and ends that others can read."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_prepare import contents, make_config

from panoptic_jax import hosts, prepare

ROOT = Path(__file__).parents[1]


def start_process(index, port, code):
    environment = {
        'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}',
        'JAX_PLATFORMS': 'cpu',
        'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
        'JAX_NUM_PROCESSES': '2',
        'JAX_PROCESS_ID': str(index),
    }
    code = f'from panoptic_jax import hosts; {code}'
    return subprocess.Popen(
        [sys.executable, '-c', code], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def test_two_processes_leave_the_bytes_of_one(tmp_path, port):
    prepare.prepare(make_config(tmp_path / 'alone'))
    code = (
        'hosts.start(); from test_prepare import *; '
        f'prepare.prepare(make_config(Path({str(tmp_path / "data")!r})))'
    )
    processes = [start_process(index, port, code) for index in (0, 1)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert contents(tmp_path / 'data') == contents(tmp_path / 'alone')


@pytest.mark.parametrize('index', [0, 1])
def test_a_process_that_stays_alone_ends_with_a_sentence(index, port):
    process = start_process(index, port, 'hosts._JOIN_SECONDS = 2; hosts.start()')
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    last = error.strip().splitlines()[-1]
    assert last.startswith(f'error: The 2 processes of the job did not meet at 127.0.0.1:{port}')


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
