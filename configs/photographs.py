"""The joint recipe and the paper's one-stream recipe in miniature, on a hundred COCO photographs.

    python -m panoptic_jax.main --config=configs/photographs.py --mode=prepare \
        --config.data.root=data/coco2017 --config.data.autoencoder_weights=taesd.safetensors
    python -m panoptic_jax.main --config=configs/photographs.py
    python -m panoptic_jax.main --config=configs/photographs.py --mode=export
    python -m panoptic_jax.main --config=configs/photographs.py:recipe=paper
    python -m panoptic_jax.main --config=configs/photographs.py:recipe=paper --mode=export
    python studies/photographs.py --data=runs/data/photographs \
        runs/photographs/weights.safetensors runs/photographs_paper/weights.safetensors

Argument: recipe=joint (ours, with instances) or recipe=paper. Both see the same data.
Data: the first 100 images of COCO's train2017, each also mirrored, and the first 103 of val2017,
  held out; captions are the names of what is in the map.
Hardware and hours: one minute (joint) and two and a half (paper) of an H200 that four other jobs
  shared, compilation besides. A tenth of the steps takes a CPU core half an hour.
Expected score: a network that sees a hundred photographs learns them by heart; `docs/STUDY.md`
  has how far either recipe gets on the other 103.
"""

import ml_collections

from panoptic_jax import config as settings
from panoptic_jax import recipes


def get_config(text: str = '') -> ml_collections.ConfigDict:
    """Equal networks as far as the recipes allow: depth, channels, tokens of the image, steps."""
    recipe = recipes.arguments(text, recipe=('joint', 'paper'))['recipe']
    config = settings.default()
    config.workdir = 'runs/photographs' if recipe == 'joint' else 'runs/photographs_paper'
    data, model = config.data, config.model
    data.dir = 'runs/data/photographs'
    data.train_images = 100
    data.validation_images = 103
    data.captions = 'categories'
    data.flips = True
    data.text_tokens = 40
    data.text_features = 64
    config.steps = 1700
    config.batch_size = 128
    config.warmup_steps = 100
    config.cooldown = 1.0
    config.ema_decay = 0.995
    config.validate_every = 0
    config.preview_every = 0
    config.checkpoint_every = 200
    config.learning_rate = 2e-3
    if recipe == 'joint':
        config.learning_rate = 3e-3
        recipes.use_joint(config, size='', instances=True)
    model.update(hidden_size=192, depth=4, num_heads=4, patch_size=4)
    config.sample.batch_size = 32
    config.lock()
    return config
