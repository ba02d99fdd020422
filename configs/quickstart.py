"""A small joint network on the embedded scenes: pairs on a CPU, without any download.

    bash launch/quickstart.sh

Argument: recipe=paper, the paper's one-stream model and streams in the place of the joint recipe
  (`docs/RECIPE.md` compares them): bash launch/quickstart.sh with the lines of that script, or
  python -m panoptic_jax.main --config=configs/quickstart.py:recipe=paper --workdir=runs/paper.
Hardware and hours: five minutes on two CPU cores, more than half of them for training.
Expected score: see `README.md`. With --config.steps=2000 after the script, pairs get better.
"""

import ml_collections

from panoptic_jax import config as settings
from panoptic_jax import recipes


def get_config(text: str = '') -> ml_collections.ConfigDict:
    """64 places, or 64 image tokens and 64 map tokens, and 24 words; no download."""
    recipe = recipes.arguments(text, recipe=('joint', 'paper'))['recipe']
    config = settings.default()
    config.workdir = 'runs/quickstart'
    config.data.dir = 'runs/data/scenes'
    config.data.images_per_shard = 256
    recipes.use_scenes(config, train_images=3072, validation_images=128)
    config.batch_size = 16
    config.learning_rate = 3e-3
    config.warmup_steps = 30
    config.cooldown = 1.0
    config.ema_decay = 0.98
    config.log_every = 20
    config.validate_every = 0  # the scores of the page are held out; compiling would take 20 s
    config.preview_every = 0
    config.checkpoint_every = 240
    config.sample.evaluations = 20
    config.sample.fallback = 'scenes/joint'  # draws at once, before there is anything of its own
    if recipe == 'paper':
        config.steps = 800
        config.model.update(hidden_size=192, depth=2, num_heads=3)
    else:
        config.steps = 600
        recipes.use_small_joint(config, instances=False)
        # So short a training has no time for what more noise hides and small times decide: with
        # these it draws the captioned colours and kinds sooner (docs/STUDY.md).
        config.map.noise_std = 1.6
        config.times.power = 1.0
    config.lock()
    return config
