"""One run on many layouts: 1 and 8 devices, split parameters, two processes; kills and moves.

What takes a process of its own is done by `child`, a few things a process: starting one is slow.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from absl import logging
from conftest import ROOT, once, tiny_config
from flax.traverse_util import flatten_dict
from test_evaluate import towers, with_towers  # noqa: F401 - a fixture

from panoptic_jax import evaluate, export_weights, main, sample, train
from panoptic_jax.export import samples
from panoptic_jax.logs import clock, json_lines
from panoptic_jax.machine import hosts, sharding
from panoptic_jax.scoring import images as image_scores
from panoptic_jax.scoring import preview
from panoptic_jax.weights import file as weights_file

# (data, fsdp). 'pods' is two processes of four devices, and each two that share a copy of the
# parameters are of both processes.
LAYOUTS = {'one': (1, 1), 'data': (8, 1), 'fsdp': (1, 8), 'both': (4, 2), 'pods': (4, 2)}
HERE = [name for name in LAYOUTS if name != 'pods']
MOVED = ('data', 'fsdp', 'both', 'pods')  # each to each of the others
STEPS, SAVED, KILLED = 20, 10, 13
LIMIT = 300  # s, of a process


# --- In any process.


@contextlib.contextmanager
def laid_out(name):
    """The code sees the devices of a layout, and splits a tiny model's kernels."""
    make_mesh = sharding.make_mesh

    def mesh_of_layout(data=-1, fsdp=1, devices=None):
        if devices:  # of this process alone
            return make_mesh(data, fsdp, devices)
        found = jax.devices()[: np.prod(LAYOUTS[name])]
        mixed = [*found[::4], *found[1::4], *found[2::4], *found[3::4]]
        return make_mesh(*LAYOUTS[name], mixed if name == 'pods' else found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, 'make_mesh', mesh_of_layout)
        patch.setattr(sharding, 'SMALL', 1024)
        patch.setattr(clock, 'matmul_peak', lambda devices: 1e11)
        yield


def configured(scenes, steps=STEPS, watched=False):
    config = tiny_config(scenes)
    config.steps = steps
    config.log_every = 1
    config.checkpoint_every = SAVED
    config.keep_last = 2
    config.validate_every = SAVED if watched else 0
    config.preview_every = STEPS if watched else 0
    config.preview_count = 8
    return config


def run(scenes, folder, name, steps=STEPS, watched=False):
    """Trains on a layout of the devices of this process or job; `watched`: with previews."""
    config = configured(scenes, steps, watched)
    with laid_out(name):
        show = preview.make_preview(config) if config.preview_every else None
        return train.train(config, str(folder), show)


def losses(folder):
    return {line['step']: line['loss'] for line in json_lines.read(folder / 'metrics.jsonl')}


def validation(folder):
    found = {}
    for line in json_lines.read(folder / 'validation.jsonl'):
        found.setdefault(line['step'], {}).update(line)
    return found


def is_saved(folder, step):
    return (folder / 'checkpoints' / f'{step:08d}').exists()


def branch(origin, folder):
    """A workdir that goes on from another one's first checkpoint."""
    shutil.copytree(
        origin / 'checkpoints' / f'{SAVED:08d}', folder / 'checkpoints' / f'{SAVED:08d}'
    )
    return folder


# --- What other processes do.


def child(phase, folder, scenes, devices):
    """The life of a subprocess: several things that need one."""
    os.environ['XLA_FLAGS'] = (
        f'--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0'
    )
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    folder = Path(folder)
    hosts.start()
    if phase in HERE:
        at_batch(KILLED + 1, functools.partial(kill, folder / phase / 'broken'))
        run(scenes, folder / phase / 'broken', phase)
    elif phase == 'first':
        assert run(scenes, folder / 'pods' / 'unbroken', 'pods', watched=True)
        at_batch(KILLED + 1, functools.partial(kill, folder / 'pods' / 'broken'))
        run(scenes, folder / 'pods' / 'broken', 'pods')
    elif phase == 'second':
        assert run(scenes, folder / 'pods' / 'broken', 'pods')
        for origin in MOVED[:-1]:
            assert run(scenes, folder / 'moved' / f'{origin}-pods', 'pods', SAVED + 1)
        score(folder / 'scored' / 'pods')
        assert image_stream_alone(scenes, folder, 'pods')
        at_batch(6, terminate)
        with laid_out('pods'):
            sys.exit(main._run('train', configured(scenes), str(folder / 'pods' / 'stopped')))
    elif phase == 'third':
        assert run(scenes, folder / 'pods' / 'stopped', 'pods')


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


def terminate(batches):
    """SIGTERM to the second process; the steps after it are slow enough to hear of it."""
    if batches == 6 and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)


def score(workdir):
    """Samples and evaluates as `settings.json` there says."""
    config = ml_collections.ConfigDict(json.loads((workdir / 'settings.json').read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_scores, '_CHUNK', 4)  # two of the samples, two of real pictures
        evaluate.evaluate(config, str(workdir))


def image_stream_alone(scenes, folder, name):
    """Starts a U-ViT from the image stream of split one-stream weights, and hardly moves it."""
    config = configured(scenes, steps=1)
    config.model.name = 'uvit'
    config.init_weights = str(folder / 'fsdp' / 'unbroken' / 'weights.safetensors')
    config.learning_rate = 1e-30
    with laid_out(name):
        return train.train(config, str(folder / 'image' / name))


def start(folder, scenes, phase, processes=1):
    """Subprocesses, as one job if they are several; what they say goes to logs."""
    (folder / 'logs').mkdir(parents=True, exist_ok=True)
    code = f'import test_pods; test_pods.child({phase!r}, {str(folder)!r}, {str(scenes)!r}, '
    environment = os.environ | {'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'}
    if processes > 1:
        environment |= {
            'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{free_port()}',
            'JAX_NUM_PROCESSES': str(processes),
        }
    started = []
    for index in range(processes):
        own = {'JAX_PROCESS_ID': str(index)} if processes > 1 else {}
        with open(folder / 'logs' / f'{phase}{index}', 'w') as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, '-c', code + f'{8 // processes})'],
                    cwd=ROOT,
                    env=environment | own,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def wait(folder, phase, processes, code):
    """Waits for subprocesses, all of which must end with an exit code."""
    try:
        found = [process.wait(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    logs = [(folder / 'logs' / f'{phase}{index}').read_text() for index in range(len(found))]
    assert found == [code] * len(found), '\n\n'.join(log[-3000:] for log in logs)


@pytest.fixture(scope='session')
def pods(tmp_path_factory, scenes, trained, towers):  # noqa: F811 - the fixture
    """Everything that was run; see the tests for what is in it."""

    def make(folder):
        killed = {name: start(folder, scenes, name) for name in HERE}
        pair = start(folder, scenes, 'first', 2)
        for name in HERE:
            assert run(scenes, folder / name / 'unbroken', name, watched=name == 'one')
        for phase, processes in (*killed.items(), ('first', pair)):
            wait(folder, phase, processes, -signal.SIGKILL)

        for origin in MOVED:
            for target in (*MOVED, 'one'):
                if target != origin:
                    branch(folder / origin / 'unbroken', folder / 'moved' / f'{origin}-{target}')
        for name in LAYOUTS:
            (folder / name / 'killed.json').write_text(json.dumps(losses(folder / name / 'broken')))
        with laid_out('fsdp'):
            export_weights.export_weights(tiny_config(scenes), str(folder / 'fsdp' / 'unbroken'))
        for name in ('here', 'pods'):
            begin_scoring(folder / 'scored' / name, scenes, trained, towers)
        pair = start(folder, scenes, 'second', 2)
        for name in HERE:
            assert run(scenes, folder / name / 'broken', name)
        for moved in sorted((folder / 'moved').iterdir()):
            target = moved.name.split('-')[1]
            if target != 'pods':
                assert run(scenes, moved, target, SAVED + 1)
        assert image_stream_alone(scenes, folder, 'fsdp')
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, 'local_devices', lambda: jax.devices()[:4])
            score(folder / 'scored' / 'here')
        wait(folder, 'second', pair, main.RUN_AGAIN)

        stopped = folder / 'pods' / 'stopped'
        (folder / 'pods' / 'stopped.json').write_text(json.dumps(losses(stopped)))
        shutil.copytree(stopped / 'checkpoints', folder / 'pods' / 'stopped_checkpoints')
        wait(folder, 'third', start(folder, scenes, 'third', 2), 0)

    return once(tmp_path_factory, 'pods', make)


def begin_scoring(workdir, scenes, trained, towers):  # noqa: F811
    """A workdir with data of its own and the first of two batches sampled, by one process."""
    workdir.mkdir(parents=True)
    shutil.copytree(scenes, workdir / 'data')
    (workdir / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
    config = with_towers(ml_collections.ConfigDict(trained[1].to_dict()), towers)
    config.data.dir = str(workdir / 'data')
    config.evaluate.inception = ''
    (workdir / 'settings.json').write_text(json.dumps(config.to_dict()))
    write_part = samples.write_part

    def first_alone(folder, first, *others):
        if first:
            raise KeyboardInterrupt
        write_part(folder, first, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, 'local_devices', lambda: jax.devices()[:4])
        patch.setattr(samples, 'write_part', first_alone)
        with pytest.raises(KeyboardInterrupt):
            sample.sample(config, str(workdir))
    assert [path.name for path in (workdir / 'samples' / 'parts').iterdir()] == ['00000000.json']


# --- Training.


def test_losses_do_not_depend_on_the_layout(pods):
    expected = losses(pods / 'one' / 'unbroken')
    assert sorted(expected) == [*range(1, STEPS + 1)]
    assert len({*expected.values()}) == STEPS
    for name in LAYOUTS:
        found = losses(pods / name / 'unbroken')
        assert found.keys() == expected.keys()
        worst = max(abs(found[step] / expected[step] - 1) for step in expected)
        print(f'20 losses, {name} against one device: {worst:.1e} relative')
        assert worst < 1e-5


def test_parameters_are_really_split(pods):
    for name, share in (('data', 1), ('fsdp', 8), ('both', 2), ('pods', 2)):
        log = (pods / 'logs' / ('first0' if name == 'pods' else f'{name}0')).read_text()
        arrays, split, whole, own = map(float, log.split('\ntotal ')[1].split('\n')[0].split())
        assert (split > arrays / 10) == (share > 1)
        assert whole / own == pytest.approx(share, rel=0.25)


def test_validation_and_previews_of_two_processes(pods):
    expected, found = (validation(pods / name / 'unbroken') for name in ('one', 'pods'))
    assert sorted(found) == [SAVED, STEPS]
    for step, scores in found.items():
        assert scores == pytest.approx(expected[step], rel=1e-5)
    assert {'validation/loss_map', 'preview/mcd'} <= found[STEPS].keys()


def state_of(workdir, step):
    """Every array of a checkpoint on the host, by path, whatever devices it was saved on."""
    import orbax.checkpoint as ocp

    path = workdir / 'checkpoints' / f'{step:08d}' / 'state'
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found = checkpointer.restore(path, restore_args=arguments)
    return {jax.tree_util.keystr(path): a for path, a in jax.tree.leaves_with_path(found)}


def assert_same_state(one, other, step=STEPS):
    expected, found = state_of(one, step), state_of(other, step)
    assert expected.keys() == found.keys()
    assert any('opt_state' in name for name in expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize('name', LAYOUTS)
def test_killed_run_ends_as_an_unbroken_one(pods, name):
    before = json.loads((pods / name / 'killed.json').read_text())
    assert KILLED <= max(map(int, before)) < STEPS
    folder = pods / name
    assert_same_state(folder / 'unbroken', folder / 'broken')
    assert losses(folder / 'broken') == losses(folder / 'unbroken')


@pytest.mark.parametrize('target', [*MOVED, 'one'])
def test_checkpoints_go_on_elsewhere(pods, target):
    for origin in MOVED:
        if origin != target:
            (step, loss), *more = losses(pods / 'moved' / f'{origin}-{target}').items()
            assert (step, more) == (SAVED + 1, [])
            expected = losses(pods / origin / 'unbroken')
            print(f'next loss, {origin} to {target}: {abs(loss / expected[step] - 1):.1e} relative')
            assert loss == pytest.approx(expected[step], rel=1e-5)
            assert loss != pytest.approx(expected[SAVED], rel=1e-3)


def test_sigterm_to_one_process_stops_both_after_the_same_step(pods):
    before = json.loads((pods / 'pods' / 'stopped.json').read_text())
    last = max(map(int, before))
    assert 5 <= last < STEPS
    saved = [path.name for path in (pods / 'pods' / 'stopped_checkpoints').iterdir()]
    assert max(saved) == f'{last:08d}'
    first, second = ((pods / 'logs' / f'second{i}').read_text() for i in range(2))
    assert f'Step {last} of {STEPS} is done and saved' in first
    for log in (first, second):
        assert 'Traceback' not in log
        assert 'Fatal' not in log
        assert 'terminate' not in log
    assert_same_state(pods / 'pods' / 'unbroken', pods / 'pods' / 'stopped')
    assert losses(pods / 'pods' / 'stopped') == losses(pods / 'pods' / 'unbroken')


def test_first_process_alone_talks(pods):
    first, second = ((pods / 'logs' / f'third{i}').read_text() for i in range(2))
    assert 'Waiting for all 2 processes of the job at 127.0.0.1' in second
    assert 'Going on from step' in first
    assert 'Going on from step' not in second
    lines = [line for line in second.splitlines() if line.startswith('[process')]
    assert all(line.startswith('[process 1] W') for line in lines)
    assert 'loss' not in second


# --- Sampling and evaluation.


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_two_processes_sample_and_score_as_one(pods):
    alone, shared = (pods / 'scored' / name for name in ('here', 'pods'))
    expected, found = contents(alone / 'samples'), contents(shared / 'samples')
    assert len([name for name in expected if name.startswith('images/')]) == 6
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name] or name == 'report.html', name
    one, two = (json.loads((folder / 'metrics.json').read_text()) for folder in (alone, shared))
    assert {'MCD', 'MCD/chance', 'CLIP score', 'CMMD', 'thing_recall_map'} <= two.keys()
    assert two == one
    page = (shared / 'samples' / 'report.html').read_text()
    assert f'{two["MCD"]["value"]:.2f}' in page
    # Each process computed chunks of both sets.
    assert len([*(shared / 'features').rglob('*.npz')]) == 2
    assert len([*(shared / 'data' / 'reference').rglob('*.npz')]) == 2


def test_only_missing_batches_are_drawn_again(pods):
    """By two processes, after one process was interrupted."""
    log = (pods / 'logs' / 'second0').read_text()
    assert 'sample: ' not in log  # its only batch was there
    parts = (pods / 'scored' / 'pods' / 'samples' / 'parts').exists()
    assert not parts


# --- Parts of a split checkpoint.


def test_averaged_weights_alone_are_exported(pods):
    folder = pods / 'fsdp' / 'unbroken'
    params, _, description = weights_file.load(str(folder / 'weights.safetensors'))
    state = state_of(folder, STEPS)
    found = {
        ''.join(f"['{part}']" for part in name.split('/')): value
        for name, value in flatten_dict(params, sep='/').items()
    }
    expected = {
        name[len("['ema']") :]: a for name, a in state.items() if name.startswith("['ema']")
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert (description['step'], description['ema']) == (STEPS, True)


@pytest.mark.parametrize('name', ['fsdp', 'pods'])
def test_image_stream_alone_is_taken_over(pods, name):
    loaded = weights_file.load(str(pods / 'fsdp' / 'unbroken' / 'weights.safetensors'))[0]
    found, _, _ = weights_file.from_checkpoint(str(pods / 'image' / name), ema=False)
    found, expected = flatten_dict(found, sep='/'), flatten_dict(loaded['image'], sep='/')
    assert found.keys() == {f'image/{key}' for key in expected}
    for key, value in expected.items():
        np.testing.assert_array_equal(found[f'image/{key}'], value, err_msg=key)
