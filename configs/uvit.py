"""U-ViT on COCO 2017: the image-only baseline, and the image stream of `configs/two_stream.py`.

    python -m panoptic_jax.main --config=configs/uvit.py --mode=import \
        --config.foreign.path=mscoco_uvit_small.pth

imports the published weights. To train it here instead:

    python -m panoptic_jax.main --config=configs/uvit.py
    python -m panoptic_jax.main --config=configs/uvit.py --mode=export

Arguments: size=S (or S-deep, M, L, H), encoders=light (TAESD and random word vectors, in
  data/coco_light). An example: --config=configs/uvit.py:size=S-deep.
Data: the same as for `configs/one_stream.py`, prepared by --mode=prepare with either config.
Hardware and hours: never run at this scale. Computed from 97 GFLOP a training image (S), 256 M
  images and 40 % of the bfloat16 peak: 2.2 hours on 8 H100, 5.5 hours on 16 TPU v5e.
Expected score: FID 8.29, CLIP 27.37 (S, measured in the PDM paper); the U-ViT paper has FID 5.95
  (S) and 5.48 (S-deep), against COCO 2014. With encoders=light expect worse.
"""

import ml_collections

from panoptic_jax import config as settings
from panoptic_jax import recipes
from panoptic_jax.models import names


def get_config(text: str = '') -> ml_collections.ConfigDict:
    """The recipe of Bao et al. 2023: AdamW at 2e-4, batches of 256, a million steps."""
    arguments = recipes.arguments(text, size=tuple(names.SIZES), encoders=recipes.ENCODERS)
    config = settings.default()
    config.workdir = 'runs/uvit'
    recipes.use_coco(config, arguments.pop('encoders'))
    config.model.name = 'uvit'
    config.model.update(names.SIZES[arguments['size']])
    config.lock()
    return config
