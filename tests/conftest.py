"""What all tests share: eight CPU devices, a compilation cache, tiny data and a tiny trained run.

The environment is set before JAX is imported, and subprocesses of tests inherit it.
"""
# ruff: noqa: E402 - JAX reads the environment when it is imported

import contextlib
import fcntl
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ['JAX_PLATFORMS'] = 'cpu'
# Compiling takes most of the time here. At level 0 it takes a third to a half (measured on the tiny
# train step), and what a second session compiles it finds in the cache.
os.environ['XLA_FLAGS'] = (
    '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
)
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache/jax'))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

import jax
import ml_collections
import pytest
from absl import flags

from panoptic_jax import config as settings
from panoptic_jax import prepare, sample, train
from panoptic_jax.encoders import rows
from panoptic_jax.logs import clock
from panoptic_jax.machine import sharding
from panoptic_jax.scoring import preview

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes ask for a flag of theirs


def tiny_config(data_dir: os.PathLike) -> ml_collections.ConfigDict:
    """A one-stream model of 64 + 64 tokens that trains 8 steps of 8 scenes in under a second."""
    config = settings.default()
    config.data.dir = str(data_dir)
    config.data.source = 'scenes'
    config.data.train_images = 24
    config.data.validation_images = 8
    config.data.images_per_shard = 16
    config.data.autoencoder = 'pixels'
    config.data.text_tokens = 24
    config.data.text_features = 16
    config.model.hidden_size = 32
    config.model.depth = 2
    config.model.num_heads = 2
    config.model.patch_size = 4
    config.steps = 8
    config.batch_size = 8
    config.learning_rate = 1e-3
    config.warmup_steps = 2
    config.ema_decay = 0.9
    config.log_every = 2
    config.validate_every = 0
    config.validation_batches = 1
    config.preview_every = 0
    config.preview_count = 4
    config.checkpoint_every = 4
    config.sample.count = 6
    config.sample.batch_size = 4
    config.sample.evaluations = 3
    return config


def once(tmp_path_factory, name, make):
    """A folder that `make(path)` fills, once in a session whatever the number of xdist workers."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
    done = base / f'{name}.done'
    with open(base / f'{name}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(base / name)
            done.touch()
    return base / name


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """A prepared folder: 24 training and 8 validation scenes, pixels, words of 24 x 16."""
    return once(tmp_path_factory, 'scenes', lambda path: prepare.prepare(tiny_config(path)))


@pytest.fixture
def config(scenes):
    """`tiny_config` over those scenes, unlocked."""
    return tiny_config(scenes)


@contextlib.contextmanager
def on_one_device():
    """The code sees one of the eight devices, and measures no peak: faster."""
    make_mesh = sharding.make_mesh

    def first_device(data=-1, fsdp=1, devices=None):
        return make_mesh(data, fsdp, (devices or jax.devices())[:1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, 'make_mesh', first_device)
        patch.setattr(rows, 'local_devices', lambda: jax.devices()[:1])
        patch.setattr(clock, 'matmul_peak', lambda devices: 1e11)
        yield


@pytest.fixture
def one_device():
    """See `on_one_device`."""
    with on_one_device():
        yield


@pytest.fixture(scope='session')
def trained(tmp_path_factory, scenes):
    """(workdir, config) of a tiny one-stream run with everything switched on."""
    config = tiny_config(scenes)
    config.steps = 12
    config.checkpoint_every = 2
    config.keep_last = 2
    config.keep_every = 6
    config.validate_every = 6
    config.preview_every = 6
    config.profile_at = 9
    config.profile_steps = 1  # before the pauses after step 10, whose trace would be large
    config.lock()

    def run(workdir):
        with on_one_device():
            assert train.train(config, str(workdir), preview.make_preview(config))

    return once(tmp_path_factory, 'trained', run), config


@pytest.fixture(scope='session')
def sampled(trained, tmp_path_factory):
    """Folder of samples that a job of one go has made from the trained run."""

    def make(folder):
        (folder / 'run').mkdir(parents=True)
        (folder / 'run' / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
        with on_one_device():
            sample.sample(trained[1], str(folder / 'run'))

    return once(tmp_path_factory, 'sampled', make) / 'run' / 'samples'


@pytest.fixture(scope='session')
def shared():
    """The material beside the repository; tests that need it are skipped where it is missing."""
    folder = ROOT.parent / 'shared'
    if not folder.exists():
        pytest.skip(f'{folder} is not here')
    return folder
