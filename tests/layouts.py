"""One training on many layouts of devices, in this process or in a job of several processes."""

import contextlib
import math
import shutil

import jax
import numpy as np
import one_device
import orbax.checkpoint as ocp
import pytest
from conftest import tiny_config

from panoptic_jax import train
from panoptic_jax.logs import json_lines
from panoptic_jax.machine import sharding

# Sizes of 'data' and 'fsdp'. 'pods' is two processes of four devices, and each two devices that
# share a copy of the parameters are of both processes.
LAYOUTS = {'one': (1, 1), 'data': (8, 1), 'fsdp': (1, 8), 'both': (4, 2), 'pods': (4, 2)}
HERE = [name for name in LAYOUTS if name != 'pods']
STEPS, SAVED = 20, 10
PEAK_FLOPS = one_device.PEAK_FLOPS


@contextlib.contextmanager
def splitting(elements=1024):
    """Splits arrays from so many elements on.

    A tiny model has no array that the package would split, and a model that has some takes many
    times as long. A user has no reason to choose the number, so the modes have no argument for it,
    and this is the one place where tests patch it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, 'SMALL', elements)
        yield


def devices_of(name):
    """The devices of a layout, in the order of its mesh."""
    devices = jax.devices()[: math.prod(LAYOUTS[name])]
    if name != 'pods':
        return devices
    return [*devices[::4], *devices[1::4], *devices[2::4], *devices[3::4]]


def configured(scenes, name, steps=STEPS, watched=False):
    """The config of a training on a layout; `watched` adds validation and previews."""
    config = tiny_config(scenes)
    config.mesh.data, config.mesh.fsdp = LAYOUTS[name]
    config.steps = steps
    config.log_every = 1
    config.checkpoint_every = SAVED
    config.keep_last = 2
    config.validate_every = SAVED if watched else 0
    config.preview_every = STEPS if watched else 0
    config.preview_count = 8
    return config


def run(config, folder, name):
    """Trains a tiny model whose kernels are split; returns whether the run is complete."""
    with splitting():
        return train.train(config, str(folder), devices=devices_of(name), peak_flops=PEAK_FLOPS)


def image_stream_alone(scenes, folder, name, weights):
    """Starts a U-ViT from the image stream of one-stream weights, and hardly moves it."""
    config = configured(scenes, name, steps=1)
    config.model.name = 'uvit'
    config.init_weights = str(weights)
    config.learning_rate = 1e-30
    return run(config, folder, name)


def branch(origin, folder):
    """Makes a workdir that goes on from another one's first checkpoint."""
    checkpoint = f'checkpoints/{SAVED:08d}'
    shutil.copytree(origin / checkpoint, folder / checkpoint)
    return folder


def losses(folder, number='loss'):
    """{step: loss} of a run, or another number of its log lines."""
    return {line['step']: line[number] for line in json_lines.read(folder / 'metrics.jsonl')}


def validation(folder):
    """{step: held-out losses and scores of previews} of a run."""
    scores = {}
    for line in json_lines.read(folder / 'validation.jsonl'):
        scores.setdefault(line['step'], {}).update(line)
    return scores


def is_saved(folder, step):
    return (folder / 'checkpoints' / f'{step:08d}').exists()


def state_of(workdir, step=STEPS):
    """Every array of a checkpoint on the host, by path, whatever devices it was saved on."""
    path = workdir / 'checkpoints' / f'{step:08d}' / 'state'
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(path, restore_args=arguments)
    return {jax.tree_util.keystr(path): a for path, a in jax.tree.leaves_with_path(state)}


def assert_same_state(one, other):
    """Two runs must end with the same arrays, the optimiser's included."""
    expected, found = state_of(one), state_of(other)
    assert expected.keys() == found.keys()
    assert any('opt_state' in name for name in expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
