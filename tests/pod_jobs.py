"""Jobs of one or two processes for `test_pods.py`: several tasks each, as starting one is slow.

A task is a name in `TASKS` with its arguments. The log of each process names a task before it
begins, so a failure says which one it was.
"""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import layouts
import ml_collections
from absl import logging
from conftest import QUICKLY, ROOT
from layouts import SAVED, configured, is_saved

from panoptic_jax import evaluate, main
from panoptic_jax.machine import hosts, sharding

KILLED, TOLD = 13, 6  # the batches that end two of the trainings
LIMIT = 600  # s, of a process; on a busy machine a job takes minutes


# --- In the processes.


def life(tasks, scenes, devices):
    """What a process does from its start to its end."""
    os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={devices} {QUICKLY}'
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    hosts.start()
    for name, folder, *arguments in json.loads(tasks):
        print(f'== {name} {folder} {arguments}', flush=True)
        TASKS[name](scenes, Path(folder), *arguments)


def train(scenes, folder, layout, steps=layouts.STEPS, watched=False):
    assert layouts.run(configured(scenes, layout, steps, watched), folder, layout)


def train_until_killed(scenes, folder, layout):
    at_batch(KILLED + 1, functools.partial(kill, folder))
    layouts.run(configured(scenes, layout), folder, layout)


def train_until_told(scenes, folder, layout):
    """Trains until a SIGTERM comes, and ends the process as `panoptic-jax` would."""
    at_batch(TOLD, tell)
    options = {'devices': layouts.devices_of(layout), 'peak_flops': layouts.PEAK_FLOPS}
    with layouts.splitting():
        sys.exit(main._run_in(str(folder), 'train', configured(scenes, layout), options))


def score(scenes, folder, devices=None):
    """Samples and evaluates as `settings.json` there says: two pairs and two real images a file."""
    config = ml_collections.ConfigDict(json.loads((folder / 'settings.json').read_text()))
    evaluate.evaluate(config, str(folder), devices=devices, chunk=4)


def take_image_stream(scenes, folder, layout, weights):
    assert layouts.image_stream_alone(scenes, folder, layout, weights)


TASKS = {
    'train': train,
    'train until killed': train_until_killed,
    'train until told': train_until_told,
    'score': score,
    'take image stream': take_image_stream,
}


def at_batch(number, act):
    """Calls `act(batches)` when the training puts this batch on its devices, and at each later."""
    put_batch, calls = sharding.put_batch, []

    def put(*arguments):
        calls.append(0)
        if len(calls) >= number:
            act(len(calls))
        return put_batch(*arguments)

    sharding.put_batch = put


def kill(folder, _):
    """kill -9 of this process, with the checkpoint complete and steps after it done."""
    while not is_saved(folder, SAVED):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def tell(batches):
    """SIGTERM to the second process; the steps after it are slow enough to hear of it."""
    if batches == TOLD and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)


# --- In the process of the tests.


def do(folder, scenes, tasks, *, processes, code):
    """Runs a job, all of whose processes must end with an exit code; `folder` gets their logs."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = json.dumps([[name, str(place), *others] for name, place, *others in tasks])
    call = f'pod_jobs.life({tasks!r}, {str(scenes)!r}, {8 // processes})'
    environment = os.environ | {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'}
    if processes > 1:
        environment |= {
            'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{free_port()}',
            'JAX_NUM_PROCESSES': str(processes),
        }
    started = []
    for index in range(processes):
        own = {'JAX_PROCESS_ID': str(index)} if processes > 1 else {}
        with open(log_of(folder, index), 'w') as log:
            command = [sys.executable, '-c', f'import pod_jobs; {call}']
            started.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment | own, stdout=log, stderr=subprocess.STDOUT
                )
            )
    try:
        codes = [process.wait(timeout=LIMIT) for process in started]
    finally:
        for process in started:
            process.kill()
    logs = [log_of(folder, index).read_text() for index in range(processes)]
    ends = '\n\n'.join(f'{log.rpartition("== ")[2][:200]}\n...{log[-3000:]}' for log in logs)
    assert codes == [code] * processes, ends


def log_of(folder, index):
    """The file with all that a process of a job has said."""
    return folder / f'log{index}'


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]
