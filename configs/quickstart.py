"""A small one-stream model on the embedded scenes: pairs on a CPU, without any download.

    bash launch/quickstart.sh

Hardware and hours: two minutes of training on two CPU cores.
Expected score: see `README.md`. With --config.steps=1600 after the script, pairs get better.
"""

import ml_collections

from panoptic_jax import config as settings


def get_config() -> ml_collections.ConfigDict:
    """64 image tokens, 64 map tokens and 24 words; no download."""
    config = settings.default()
    config.workdir = 'runs/quickstart'
    config.data.dir = 'runs/data/scenes'
    config.data.source = 'scenes'
    config.data.train_images = 2048
    config.data.validation_images = 128
    config.data.images_per_shard = 256
    config.data.autoencoder = 'pixels'
    config.data.text_tokens = 24
    config.data.text_features = 64
    config.model.hidden_size = 192
    config.model.depth = 2
    config.model.num_heads = 3
    config.model.patch_size = 4
    config.steps = 800
    config.batch_size = 16
    config.learning_rate = 3e-3
    config.warmup_steps = 30
    config.cooldown = 1.0
    config.ema_decay = 0.98
    config.log_every = 20
    config.validate_every = 100
    config.preview_every = 0
    config.checkpoint_every = 100
    config.sample.count = 64
    config.sample.batch_size = 32
    config.sample.evaluations = 20
    config.lock()
    return config
