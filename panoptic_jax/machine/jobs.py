"""Which job of several processes the environment names: by hand, on TPUs, of Slurm or of Open MPI.

`jax.distributed.initialize` would find the job by itself, but it waits for hosts without saying how
many, and it takes a shell inside a Slurm allocation for a part of a job. So the job is found here
first, and `machine/hosts.py` joins it.
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
      count: Number of processes.
      name: The job in words, for messages.
      command: How to start all processes, for messages.
      arguments: Keyword arguments for `jax.distributed.initialize`, which finds the rest by itself.
    """

    count: int
    name: str
    command: str
    arguments: dict[str, Any]


def find(retry_seconds: float = 1.0) -> Job | None:
    """The job that this process is part of; None where it is alone.

    The first of these that names a job counts: the variables `NAMES` (the address is host:port of
    process 0); the hosts of Cloud TPU slices, also on Kubernetes; the tasks of a Slurm step; the
    processes of Open MPI.

    Args:
      retry_seconds: Pause before a TPU's metadata server that did not answer is asked again.

    Raises:
      ValueError: `NAMES` are set in part or to no numbers, or a TPU's metadata cannot be read.
    """
    return _named() or _tpu(retry_seconds) or _slurm() or _open_mpi()


def _named() -> Job | None:
    """The job that the user describes in the variables `NAMES`."""
    values = [os.environ.get(name) for name in NAMES]
    if not any(values):
        return None
    if not all(values):
        missing = ', '.join(name for name, value in zip(NAMES, values, strict=True) if not value)
        raise ValueError(f'{missing} is not set; set all of {", ".join(NAMES)}, or none.')
    address, count, index = values[0], *map(_number, NAMES[1:], values[1:])
    if not 0 <= index < count:
        raise ValueError(
            f'{NAMES[2]} is {index} and {NAMES[1]} is {count}; it must be from 0 to one less than '
            'the number of processes.'
        )
    arguments = {'coordinator_address': address, 'num_processes': count, 'process_id': index}
    # Under srun JAX would give each process one GPU, also where a process has the whole host.
    if 'SLURM_STEP_NUM_TASKS' in os.environ:
        arguments['local_device_ids'] = _slurm_gpus()
    return Job(
        count=count,
        name=f'the job at {address}',
        command='start the same command on every host',
        arguments=arguments,
    )


def _number(name: str, value: str) -> int:
    if not value.strip().isdecimal():
        raise ValueError(f'{name} is {value!r}; it must be a whole number.')
    return int(value)


def _tpu(retry_seconds: float) -> Job | None:
    """The hosts of one TPU slice or of several slices; JAX looks into the same variables."""
    # On a TPU's host, too, work may be meant for the CPU alone.
    if 'tpu' not in (os.environ.get('JAX_PLATFORMS') or 'tpu'):
        return None
    hosts = os.environ.get('TPU_PROCESS_ADDRESSES') or os.environ.get('TPU_WORKER_HOSTNAMES')
    slices = os.environ.get('MEGASCALE_NUM_SLICES')
    # JAX has set this variable when it was imported on a machine without TPU chips.
    has_chips = 'TPU_SKIP_MDS_QUERY' not in os.environ
    if not hosts and has_chips:
        hosts = _metadata('worker-network-endpoints', retry_seconds)
        if hosts and not slices:
            slices = _number_of_slices(_metadata('tpu-env', retry_seconds))
    count = len(hosts.split(',')) * int(slices or 1) if hosts else 1
    if count == 1:
        return None
    return Job(
        count=count,
        name='this TPU',
        command='run the same command on all its hosts at once (gcloud: --worker=all)',
        arguments={},
    )


def _number_of_slices(tpu_env: str) -> str | None:
    """The number in lines such as "MEGASCALE_NUM_SLICES: '4'"; None where there is no such line."""
    slices = None
    for line in tpu_env.splitlines():
        key, _, value = line.partition(':')
        if key.strip() == 'MEGASCALE_NUM_SLICES':
            slices = value.strip().strip("'")
    return slices


def _metadata(key: str, retry_seconds: float) -> str:
    """An attribute of this Cloud TPU VM; '' where the VM does not have it."""
    server = os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')
    request = urllib.request.Request(
        f'http://{server}/computeMetadata/v1/instance/attributes/{key}',
        headers={'Metadata-Flavor': 'Google'},
    )
    # The server answers this machine alone, so a proxy must not ask in its name.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for tries_left in reversed(range(_METADATA_TRIES)):
        try:
            with direct.open(request, timeout=10) as reply:
                return reply.read().decode()
        except OSError as error:
            if getattr(error, 'code', '') == HTTPStatus.NOT_FOUND:
                return ''
            if not tries_left:
                raise ValueError(
                    f'This machine has a TPU, but {server} does not say of how many hosts '
                    f'({error}); set TPU_SKIP_MDS_QUERY=1 if it is alone, else {", ".join(NAMES)}.'
                ) from error
            time.sleep(retry_seconds)
    return ''


def _slurm() -> Job | None:
    """The tasks of `srun`."""
    # The variables of the step, not of the allocation: a shell inside an allocation is a step of
    # one task, whatever was allocated.
    count = int(os.environ.get('SLURM_STEP_NUM_TASKS', 1))
    if count == 1:
        return None
    return Job(
        count=count,
        name=f'Slurm job {os.environ.get("SLURM_JOB_ID")}',
        command='start them with srun',
        arguments={'local_device_ids': _slurm_gpus()},
    )


def _slurm_gpus() -> list[int] | None:
    """The GPUs of this task of a Slurm step."""
    # '8(x2)' where all nodes have as many tasks, '8,4' where they differ.
    tasks = os.environ.get('SLURM_STEP_TASKS_PER_NODE', '1')
    tasks_here = tasks.partition('(')[0].partition(',')[0]
    return _gpus(rank=int(os.environ.get('SLURM_LOCALID', 0)), tasks=int(tasks_here))


def _open_mpi() -> Job | None:
    """The processes of Open MPI's `mpirun`."""
    count = int(os.environ.get('OMPI_COMM_WORLD_SIZE', 1))
    if count == 1:
        return None
    gpus = _gpus(
        rank=int(os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', 0)),
        tasks=int(os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE', 1)),
    )
    return Job(
        count=count,
        name='mpirun',
        command='start them with mpirun',
        arguments={'local_device_ids': gpus},
    )


def _gpus(rank: int, tasks: int) -> list[int] | None:
    """Numbers of the GPUs for one of a host's tasks; None leaves the choice to JAX.

    Args:
      rank: Number of the task on this host.
      tasks: Tasks on this host.
    """
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    # The user's own JAX_LOCAL_DEVICE_IDS comes first.
    if not visible or os.environ.get('JAX_LOCAL_DEVICE_IDS'):
        return None
    count = len(visible.split(','))
    # Where Slurm shows each task its own GPUs only, the task takes all that it sees.
    if count < int(os.environ.get('SLURM_GPUS_ON_NODE', count)):
        return [*range(count)]
    # JAX by itself would take one GPU, that of the task's rank. More tasks than GPUs share them.
    first = rank * count // tasks
    end = (rank + 1) * count // tasks
    return [*range(first, max(first + 1, end))]
