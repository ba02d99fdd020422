"""Which job of several processes the environment names: by hand, on TPUs, of Slurm or of Open MPI.

What `jax.distributed.initialize` would find out by itself, known beforehand: it waits for hosts
without saying how many, and takes a shell inside an allocation for a part of a job. Joining is
`hosts.py`'s.
"""

import os
import time
import urllib.request
from http import HTTPStatus
from typing import Any, NamedTuple

NAMES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
_METADATA_TRIES = 3


class Job(NamedTuple):
    """A job of several processes.

    Attributes:
      count: Processes.
      name: For messages.
      command: What starts all of them, for messages.
      arguments: Of `jax.distributed.initialize`, which finds the others out by itself.
    """

    count: int
    name: str
    command: str
    arguments: dict[str, Any]


def find() -> Job | None:
    """The job that this process is part of; None where it is alone.

    In this order: the variables `NAMES` (address: host:port of process 0); the hosts of Cloud TPU
    slices, also on Kubernetes; the tasks of a Slurm step; the processes of Open MPI.

    Raises:
      ValueError: Some of `NAMES` are set and others not, or a TPU's metadata cannot be read.
    """
    return _named() or _tpu() or _slurm() or _open_mpi()


def _named() -> Job | None:
    found = [os.environ.get(name) for name in NAMES]
    if not any(found):
        return None
    if not all(found):
        missing = ', '.join(name for name, value in zip(NAMES, found, strict=True) if not value)
        raise ValueError(f'{missing} is not set; set all of {", ".join(NAMES)}, or none.')
    address, count, index = found[0], int(found[1]), int(found[2])
    arguments = {'coordinator_address': address, 'num_processes': count, 'process_id': index}
    if 'SLURM_STEP_NUM_TASKS' in os.environ:
        arguments['local_device_ids'] = _slurm_gpus()
    command = 'start the same command on every host'
    return Job(count, f'the job at {address}', command, arguments)


def _tpu() -> Job | None:
    """The hosts of a TPU slice, or of several; JAX finds them by the same names."""
    if 'tpu' not in (os.environ.get('JAX_PLATFORMS') or 'tpu'):
        return None
    names = os.environ.get('TPU_PROCESS_ADDRESSES') or os.environ.get('TPU_WORKER_HOSTNAMES')
    slices = os.environ.get('MEGASCALE_NUM_SLICES')
    # JAX has set the variable when it was imported on a machine without TPU chips.
    if not names and 'TPU_SKIP_MDS_QUERY' not in os.environ:
        names = _metadata('worker-network-endpoints')
        for line in _metadata('tpu-env').splitlines() if names and not slices else ():
            key, _, value = line.partition(':')
            if key.strip() == 'MEGASCALE_NUM_SLICES':
                slices = value.strip().strip("'")
    count = len(names.split(',')) * int(slices or 1) if names else 1
    command = 'run the same command on all its hosts at once (gcloud: --worker=all)'
    return Job(count, 'this TPU', command, {}) if count > 1 else None


def _metadata(key: str) -> str:
    """An attribute of this Cloud TPU VM; '' where it has none such."""
    server = os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')
    request = urllib.request.Request(
        f'http://{server}/computeMetadata/v1/instance/attributes/{key}',
        headers={'Metadata-Flavor': 'Google'},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for left in reversed(range(_METADATA_TRIES)):
        try:
            with direct.open(request, timeout=10) as reply:
                return reply.read().decode()
        except OSError as error:
            if getattr(error, 'code', None) == HTTPStatus.NOT_FOUND:
                return ''
            if not left:
                raise ValueError(
                    f'This machine has a TPU, but {server} does not say of how many hosts '
                    f'({error}); set TPU_SKIP_MDS_QUERY=1 if it is alone, else {", ".join(NAMES)}.'
                ) from error
            time.sleep(1)
    return ''


def _slurm() -> Job | None:
    """The tasks of `srun`. A shell inside an allocation is one task, whatever was allocated."""
    count = int(os.environ.get('SLURM_STEP_NUM_TASKS', 1))
    if count == 1:
        return None
    name = f'Slurm job {os.environ.get("SLURM_JOB_ID")}'
    return Job(count, name, 'start them with srun', {'local_device_ids': _slurm_gpus()})


def _slurm_gpus() -> list[int] | None:
    # '8(x2)' on nodes alike, '8,4' on others.
    here = os.environ.get('SLURM_STEP_TASKS_PER_NODE', '1').partition('(')[0].partition(',')[0]
    return _gpus(int(os.environ.get('SLURM_LOCALID', 0)), int(here))


def _open_mpi() -> Job | None:
    """The processes of Open MPI's `mpirun`."""
    count = int(os.environ.get('OMPI_COMM_WORLD_SIZE', 1))
    if count == 1:
        return None
    here = int(os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE', 1))
    gpus = _gpus(int(os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', 0)), here)
    return Job(count, 'mpirun', 'start them with mpirun', {'local_device_ids': gpus})


def _gpus(rank: int, tasks: int) -> list[int] | None:
    """The GPUs of one of several tasks on a host; JAX by itself would take the one of its rank."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if not visible or os.environ.get('JAX_LOCAL_DEVICE_IDS'):
        return None
    count = len(visible.split(','))
    if count < int(os.environ.get('SLURM_GPUS_ON_NODE', count)):
        return [*range(count)]  # each task is shown its own alone
    first = rank * count // tasks
    return [*range(first, max(first + 1, (rank + 1) * count // tasks))]
