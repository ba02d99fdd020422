"""Several processes on one machine: which job they are, sharing work, ends that others can read."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_prepare import contents, make_config

from panoptic_jax import prepare
from panoptic_jax.machine import hosts, jobs

ROOT = Path(__file__).parents[2]


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


# --- Which job the environment names.

PREFIXES = ('JAX_', 'TPU_', 'MEGASCALE_', 'SLURM_', 'OMPI_', 'CUDA_')


@pytest.fixture
def found(monkeypatch):
    """A function: environment variables -> the job that they name."""

    def find(**variables):
        for name in [name for name in os.environ if name.startswith(PREFIXES)]:
            monkeypatch.delenv(name)
        # As JAX leaves it on a machine without TPU.
        for name, value in ({'TPU_SKIP_MDS_QUERY': '1'} | variables).items():
            if value:
                monkeypatch.setenv(name, value)
        return jobs.find()

    return find


def test_a_machine_by_itself_is_no_job(found):
    assert found() is None
    assert found(TPU_WORKER_HOSTNAMES='localhost') is None
    # A shell in an allocation of 16 tasks, before and in `srun --pty`.
    shell = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '16', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0'}
    assert found(**shell) is None
    assert found(**shell, SLURM_STEP_NUM_TASKS='1', SLURM_STEP_NODELIST='node1') is None
    assert found(OMPI_COMM_WORLD_SIZE='1') is None


def test_variables_name_a_job(found):
    named = dict(zip(jobs.NAMES, ('10.0.0.1:1234', '4', '2'), strict=True))
    job = found(**named)
    assert job.count == 4
    assert job.arguments == {
        'coordinator_address': '10.0.0.1:1234', 'num_processes': 4, 'process_id': 2
    }  # fmt: skip
    gpus = {'SLURM_STEP_NUM_TASKS': '4', 'CUDA_VISIBLE_DEVICES': '0,1,2,3,4,5,6,7'}
    job = found(**named, **gpus, SLURM_STEP_TASKS_PER_NODE='1(x4)', SLURM_LOCALID='0')
    assert job.arguments['local_device_ids'] == [*range(8)]  # JAX alone would take one


def test_hosts_of_kubernetes_tpus_are_a_job(found):
    assert found(TPU_WORKER_HOSTNAMES='a,b,c,d').count == 4
    job = found(TPU_WORKER_HOSTNAMES='a,b,c,d', MEGASCALE_NUM_SLICES='2')
    assert (job.count, job.arguments) == (8, {})
    assert '--worker=all' in job.command
    assert found(TPU_WORKER_HOSTNAMES='a', MEGASCALE_NUM_SLICES='2').count == 2
    assert found(TPU_WORKER_HOSTNAMES='a,b', JAX_PLATFORMS='cpu') is None
    assert found(TPU_WORKER_HOSTNAMES='a,b', JAX_PLATFORMS='tpu,cpu').count == 2


@pytest.fixture
def metadata(monkeypatch):
    """A dict of attributes that a metadata server of a TPU VM serves."""
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = attributes.get(
                self.path.removeprefix('/computeMetadata/v1/instance/attributes/')
            )
            asked = self.headers['Metadata-Flavor'] == 'Google'
            self.send_response(200 if content is not None and asked else 404)
            self.end_headers()
            self.wfile.write((content or '').encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{server.server_port}')
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield attributes
        server.shutdown()
        thread.join()


def test_hosts_of_a_cloud_tpu_are_a_job(found, metadata):
    tpu = {'TPU_SKIP_MDS_QUERY': ''}
    assert found(**tpu) is None  # no attribute: no TPU VM of a pod
    metadata['worker-network-endpoints'] = '10.0.0.1'
    assert found(**tpu) is None
    metadata['worker-network-endpoints'] = 'x:0:10.0.0.1,y:1:10.0.0.2'
    metadata['tpu-env'] = "ACCELERATOR_TYPE: 'v5litepod-8'\nWORKER_ID: '0'\n"
    assert found(**tpu).count == 2
    metadata['tpu-env'] += "MEGASCALE_NUM_SLICES: '4'\n"
    assert found(**tpu).count == 8
    assert found() is None


def test_a_tpu_whose_hosts_are_not_to_be_found_out_is_refused(found, port, monkeypatch):
    monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{port}')
    monkeypatch.setattr(jobs.time, 'sleep', lambda seconds: None)
    with pytest.raises(ValueError, match=r'does not say of how many hosts .* TPU_SKIP_MDS_QUERY=1'):
        found(TPU_SKIP_MDS_QUERY='')


def test_tasks_of_slurm_and_mpirun_are_a_job(found):
    step = {'SLURM_JOB_ID': '7', 'SLURM_STEP_NUM_TASKS': '16', 'SLURM_LOCALID': '3'}
    job = found(**step, SLURM_STEP_TASKS_PER_NODE='8(x2)')
    assert (job.count, job.name, job.arguments) == (16, 'Slurm job 7', {'local_device_ids': None})

    def gpus(tasks, visible, **more):
        node = {'SLURM_STEP_TASKS_PER_NODE': tasks, 'CUDA_VISIBLE_DEVICES': visible}
        return found(**(step | node | more)).arguments['local_device_ids']

    eight = '0,1,2,3,4,5,6,7'
    assert gpus('8(x2)', eight) == [3]
    assert gpus('4(x4)', eight) == [6, 7]
    assert gpus('1(x16)', eight, SLURM_LOCALID='0') == [*range(8)]
    assert gpus('8(x2)', '3', SLURM_GPUS_ON_NODE='8') == [0]  # each task is shown its own
    assert gpus('8(x2)', eight, JAX_LOCAL_DEVICE_IDS='5') is None
    mpi = {'OMPI_COMM_WORLD_SIZE': '4', 'OMPI_COMM_WORLD_LOCAL_SIZE': '2'}
    job = found(**mpi, OMPI_COMM_WORLD_LOCAL_RANK='1', CUDA_VISIBLE_DEVICES='0,1')
    assert (job.count, job.arguments) == (4, {'local_device_ids': [1]})


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


# --- Work shared out.


def test_rows_are_shared_out_to_the_bit(port, tmp_path):
    code = (
        'hosts.start(); import numpy as np; calls = []\n'
        'def row(i):\n    calls.append(i)\n    return np.array([i / 3, np.pi * 1e-300])\n'
        'found = hosts.deal(row, 5), hosts.deal(lambda i: i + 0.1, 1)\n'
        f'np.savez({str(tmp_path)!r} + f"/{{hosts.jax.process_index()}}.npz", *found, calls)\n'
        'assert hosts.of_first(7 + hosts.jax.process_index()) == 7'
    )
    processes = [start_process(index, port, code) for index in (0, 1)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    expected = np.array([[i / 3, np.pi * 1e-300] for i in range(5)])
    for index, calls in enumerate(([0, 2, 4], [1, 3])):
        with np.load(tmp_path / f'{index}.npz') as found:
            np.testing.assert_array_equal(found['arr_0'], expected)
            np.testing.assert_array_equal(found['arr_1'], [0.1])
            assert found['arr_2'].tolist() == calls
    np.testing.assert_array_equal(hosts.deal(lambda i: expected[i], 5), expected)
    assert hosts.of_first(3) == 3
