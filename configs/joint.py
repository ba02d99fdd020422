"""The joint network on COCO 2017: one network for every condition, beyond the paper.

    python -m panoptic_jax.main --config=configs/joint.py --mode=prepare
    python -m panoptic_jax.main --config=configs/joint.py
    python -m panoptic_jax.main --config=configs/joint.py \
        --mode=evaluate --config.sample.count=30000 --config.sample.batch_size=64

Image and map of a place share one token, both are predicted as clean data under more noise than the
paper's, and each has a time of its own: the weights draw pairs, images of maps, maps of images, and
what is missing of either (`docs/METHOD.md`). Generated maps have instances.
Arguments: size=S (or S-deep, M, L, H), patch_factor=2 (or 1, 4), instances=1 (0: categories alone),
  encoders=light (TAESD and random word vectors, in data/coco_light). An example with two arguments:
  --config=configs/joint.py:size=M,encoders=light.
Data: the same as for `configs/one_stream.py`, prepared by --mode=prepare with either config.
Hardware and hours: never run at this scale. Computed from 87 GFLOP a training image (S), 256 M
  images and 40 % of the bfloat16 peak: 2.0 hours on 8 H100, 4.9 hours on 16 TPU v5e; the compiler
  predicts 29 % on TPU v5e (`docs/PERFORMANCE.md`).
Expected score: not known at this scale. On the embedded scenes the same recipe is the quickstart's.
"""

import ml_collections

from panoptic_jax import config as settings
from panoptic_jax import recipes


def get_config(text: str = '') -> ml_collections.ConfigDict:
    """U-ViT's schedule of training, with the streams of the joint recipe."""
    variant = recipes.arguments(
        text,
        size=recipes.SIZES,
        patch_factor=2,
        instances=True,
        encoders=recipes.ENCODERS,
    )
    config = settings.default()
    config.workdir = 'runs/joint'
    recipes.use_coco(config, variant.pop('encoders'))
    recipes.use_joint(config, variant.pop('size'), instances=variant.pop('instances'))
    config.model.update(**variant)
    config.lock()
    return config
