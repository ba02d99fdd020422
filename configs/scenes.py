"""The embedded scenes in earnest: the training of the weights that the package brings.

    python -m panoptic_jax.main --config=configs/scenes.py --mode=prepare
    python -m panoptic_jax.main --config=configs/scenes.py
    python -m panoptic_jax.main --config=configs/scenes.py --mode=evaluate --config.sample.count=500
    python -m panoptic_jax.main --config=configs/scenes.py --mode=export \
        --config.export_dtype=float16

Argument: model=joint (our recipe, with instances), uvit (the image alone), one_stream, two_stream
  (the paper's recipe; the last one's image stream is that of scenes/uvit, frozen). An example:
  --config=configs/scenes.py:model=one_stream.
Hardware and hours: four minutes of an H100 for joint, which another training shared (JAX 0.11.2);
  two CPU cores would take 14 hours (computed). The others are sized for about an hour of one core,
  after export GLIBC_TUNABLES=glibc.malloc.hugetlb=1.
Expected score: the cards in panoptic_jax/shipped/scenes have it.
"""

import ml_collections

from panoptic_jax import config as settings
from panoptic_jax import recipes


def get_config(text: str = '') -> ml_collections.ConfigDict:
    """One data set for all four networks: 98,304 scenes, held-out ones beside them."""
    model = recipes.arguments(text, model=('joint', 'uvit', 'one_stream', 'two_stream'))['model']
    config = settings.default()
    config.workdir = 'runs/scenes' if model == 'joint' else f'runs/scenes_{model}'
    config.data.dir = 'runs/data/many_scenes'
    recipes.use_scenes(config, train_images=98_304, validation_images=512)
    config.model.name = model
    config.cooldown = 1.0
    config.validate_every = 0
    config.preview_every = 0
    if model == 'joint':
        config.steps = 5930
        config.batch_size = 256
        config.learning_rate = 3e-3
        config.warmup_steps = 300
        config.ema_decay = 0.999
        config.checkpoint_every = 1000
        recipes.use_small_joint(config, instances=True)
        config.model.hidden_size = 192
        config.times.update(clean_image=0.2, clean_map=0.15)
    else:
        config.steps = 4000
        config.batch_size = 32
        config.learning_rate = 2e-3
        config.warmup_steps = 100
        config.ema_decay = 0.998
        config.checkpoint_every = 200
        config.model.update(hidden_size=160, depth=4, num_heads=4)
    if model == 'two_stream':
        config.init_weights = 'scenes/uvit'
    config.lock()
    return config
