"""Which job of several processes the environment names."""

import http.server
import os
import socket
import threading

import pytest

from panoptic_jax.machine import jobs

PREFIXES = ('JAX_', 'TPU_', 'MEGASCALE_', 'SLURM_', 'OMPI_', 'CUDA_')
EIGHT = '0,1,2,3,4,5,6,7'


@pytest.fixture
def find(monkeypatch):
    """A function: environment variables -> the job that they name."""

    def find_job(**variables):
        for name in [name for name in os.environ if name.startswith(PREFIXES)]:
            monkeypatch.delenv(name)
        # As JAX leaves it on a machine without TPU.
        for name, value in ({'TPU_SKIP_MDS_QUERY': '1'} | variables).items():
            if value:
                monkeypatch.setenv(name, value)
        return jobs.find(retry_seconds=0)

    return find_job


def test_a_machine_by_itself_is_no_job(find):
    assert find() is None
    assert find(TPU_WORKER_HOSTNAMES='localhost') is None
    assert find(OMPI_COMM_WORLD_SIZE='1') is None


def test_a_shell_in_an_allocation_is_no_job(find):
    # An allocation of 16 tasks, before and in `srun --pty`.
    shell = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '16', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0'}
    assert find(**shell) is None
    assert find(**shell, SLURM_STEP_NUM_TASKS='1', SLURM_STEP_NODELIST='node1') is None


NAMED = dict(zip(jobs.NAMES, ('10.0.0.1:1234', '4', '2'), strict=True))


def test_variables_name_a_job(find):
    job = find(**NAMED)
    assert job.count == 4
    assert job.arguments == {
        'coordinator_address': '10.0.0.1:1234', 'num_processes': 4, 'process_id': 2
    }  # fmt: skip


@pytest.mark.parametrize(
    ('count', 'index', 'sentence'),
    [
        ('four', '2', "JAX_NUM_PROCESSES is 'four'; it must be a whole number"),
        ('4', '-1', "JAX_PROCESS_ID is '-1'; it must be a whole number"),
        ('4', '4', 'JAX_PROCESS_ID is 4 and JAX_NUM_PROCESSES is 4; it must be from 0 to'),
    ],
)
def test_numbers_that_name_no_job_are_refused(find, count, index, sentence):
    with pytest.raises(ValueError, match=sentence):
        find(**NAMED | {'JAX_NUM_PROCESSES': count, 'JAX_PROCESS_ID': index})


def test_a_named_job_under_srun_takes_the_whole_host(find):
    gpus = {'SLURM_STEP_NUM_TASKS': '4', 'CUDA_VISIBLE_DEVICES': EIGHT}
    job = find(**NAMED, **gpus, SLURM_STEP_TASKS_PER_NODE='1(x4)', SLURM_LOCALID='0')
    assert job.arguments['local_device_ids'] == [*range(8)]  # JAX alone would take one


def test_hosts_of_kubernetes_tpus_are_a_job(find):
    assert find(TPU_WORKER_HOSTNAMES='a,b,c,d').count == 4
    job = find(TPU_WORKER_HOSTNAMES='a,b,c,d', MEGASCALE_NUM_SLICES='2')
    assert (job.count, job.arguments) == (8, {})
    assert '--worker=all' in job.command
    assert find(TPU_WORKER_HOSTNAMES='a', MEGASCALE_NUM_SLICES='2').count == 2


def test_work_for_the_cpu_of_a_tpus_host_is_no_job(find):
    assert find(TPU_WORKER_HOSTNAMES='a,b', JAX_PLATFORMS='cpu') is None
    assert find(TPU_WORKER_HOSTNAMES='a,b', JAX_PLATFORMS='tpu,cpu').count == 2


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


WITH_CHIPS = {'TPU_SKIP_MDS_QUERY': ''}
TWO_HOSTS = {
    'worker-network-endpoints': 'x:0:10.0.0.1,y:1:10.0.0.2',
    'tpu-env': "ACCELERATOR_TYPE: 'v5litepod-8'\nWORKER_ID: '0'\n",
}


def test_hosts_of_a_cloud_tpu_are_a_job(find, metadata):
    metadata.update(TWO_HOSTS)
    assert find(**WITH_CHIPS).count == 2
    metadata['tpu-env'] += "MEGASCALE_NUM_SLICES: '4'\n"
    assert find(**WITH_CHIPS).count == 8


def test_a_cloud_tpu_of_one_host_is_no_job(find, metadata):
    assert find(**WITH_CHIPS) is None  # no attribute: no TPU VM of a pod
    metadata['worker-network-endpoints'] = '10.0.0.1'
    assert find(**WITH_CHIPS) is None


def test_a_machine_without_chips_is_not_asked(find, metadata):
    metadata.update(TWO_HOSTS)
    metadata['tpu-env'] += "MEGASCALE_NUM_SLICES: '4'\n"
    assert find() is None


def test_a_tpu_whose_hosts_are_not_to_be_found_out_is_refused(find, monkeypatch):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{port}')
    with pytest.raises(ValueError, match=r'does not say of how many hosts .* TPU_SKIP_MDS_QUERY=1'):
        find(**WITH_CHIPS)


STEP = {'SLURM_JOB_ID': '7', 'SLURM_STEP_NUM_TASKS': '16', 'SLURM_LOCALID': '3'}


def test_tasks_of_slurm_are_a_job(find):
    job = find(**STEP, SLURM_STEP_TASKS_PER_NODE='8(x2)')
    assert (job.count, job.name, job.arguments) == (16, 'Slurm job 7', {'local_device_ids': None})


@pytest.mark.parametrize(
    ('tasks', 'visible', 'more', 'expected'),
    [
        ('8(x2)', EIGHT, {}, [3]),
        ('4(x4)', EIGHT, {}, [6, 7]),
        ('1(x16)', EIGHT, {'SLURM_LOCALID': '0'}, [*range(8)]),
        ('8(x2)', '3', {'SLURM_GPUS_ON_NODE': '8'}, [0]),  # each task is shown its own
        ('8(x2)', EIGHT, {'JAX_LOCAL_DEVICE_IDS': '5'}, None),
    ],
)
def test_tasks_of_slurm_share_a_nodes_gpus(find, tasks, visible, more, expected):
    node = {'SLURM_STEP_TASKS_PER_NODE': tasks, 'CUDA_VISIBLE_DEVICES': visible}
    assert find(**(STEP | node | more)).arguments['local_device_ids'] == expected


def test_processes_of_mpirun_are_a_job(find):
    mpi = {'OMPI_COMM_WORLD_SIZE': '4', 'OMPI_COMM_WORLD_LOCAL_SIZE': '2'}
    job = find(**mpi, OMPI_COMM_WORLD_LOCAL_RANK='1', CUDA_VISIBLE_DEVICES='0,1')
    assert (job.count, job.arguments) == (4, {'local_device_ids': [1]})
