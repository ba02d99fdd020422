"""What all tests share: eight CPU devices, a compilation cache, tiny data and a tiny trained run.

The environment is set before JAX is imported, and subprocesses of tests inherit it.
"""
# ruff: noqa: E402 - JAX reads the environment when it is imported

import fcntl
import importlib.util
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What differs between the lines of metrics.jsonl of equal runs, besides memory.
TIMES = ('images_per_second', 'mfu', 'waiting_for_data', 'seconds', 'eta_seconds')
os.environ['JAX_PLATFORMS'] = 'cpu'
# Compiling takes most of the time here. At level 0 it takes a third to a half (measured on the tiny
# train step), and without the emitters that make faster code of fusions the tests of the joint
# network take 53 seconds in the place of 95. What a second session compiles it finds in the cache.
QUICKLY = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count=8 {QUICKLY}'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache/jax'))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

import jax
import ml_collections
import numpy as np
import one_device
import pytest
from absl import flags

from panoptic_jax import config as settings
from panoptic_jax import prepare
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.programs.description import Description, describe

# Files that take a minute or more.
LONG = ('test_pods.py', 'test_import.py', 'test_plan.py', 'test_train.py', 'test_studies.py',
        'test_evaluate.py', 'test_xla_flags.py')  # fmt: skip

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes ask for a flag of theirs


def pytest_collection_modifyitems(items):
    """Long files come first, so that no worker begins one when the others have nothing left."""
    items.sort(key=lambda item: item.path.name not in LONG)


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


def described(config: ml_collections.ConfigDict) -> Description:
    """The description of a config's model over its prepared data."""
    manifest = open_manifest(config.data.dir)
    return describe(config.model.to_dict(), settings.streams(config), manifest, config.data.dir)


def random_parameters(description: Description, seed: int = 0) -> dict:
    """Parameters of a model, all of them random."""
    rng = np.random.default_rng(seed)
    shapes = description.abstract_parameters()
    return jax.tree.map(lambda a: rng.normal(0, 0.1, a.shape).astype(np.float32), shapes)


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
        assert one_device.train(config, workdir)

    return once(tmp_path_factory, 'trained', run), config


@pytest.fixture(scope='session')
def sampled(trained, tmp_path_factory):
    """Folder of samples that a job of one go has made from the trained run."""

    def make(folder):
        (folder / 'run').mkdir(parents=True)
        (folder / 'run' / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
        one_device.sample(trained[1], folder / 'run')

    return once(tmp_path_factory, 'sampled', make) / 'run' / 'samples'


@pytest.fixture(scope='session')
def shared():
    """The material beside the repository; tests that need it are skipped where it is missing."""
    folder = ROOT.parent / 'shared'
    if not folder.exists():
        pytest.skip(f'{folder} is not here')
    return folder
