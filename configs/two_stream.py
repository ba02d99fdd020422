"""Two-stream PDM on COCO 2017 (section 3.5.2): a frozen U-ViT beside a trainable map stream.

    python -m panoptic_jax.main --config=configs/two_stream.py
    python -m panoptic_jax.main --config=configs/two_stream.py \
        --mode=evaluate --config.sample.count=30000 --config.sample.batch_size=64

Initial weights: runs/uvit/weights.safetensors. Importing the published U-ViT writes this file, and
  so does training and exporting `configs/uvit.py`; --config.init_weights=FILE names another file.
  With --config.init_weights= the image stream would stay random, since it is not trained.
Arguments: size=S (or S-deep, M, L, H), patch_factor=2 (or 1, 4; B.1), given_map=1 (Figure 6),
  zero_map_input=1 (B.2: the network never sees the map), map_prediction=noise (3.3: the network
  predicts the map's noise instead of the map), map_noise=1, 1.4142 or 2 (B.3: the standard
  deviation of the map's noise), encoders=light (TAESD and random word vectors, in data/coco_light).
  An example with two arguments:
  --config=configs/two_stream.py:patch_factor=4,map_noise=1.
Data: the same as for `configs/one_stream.py`, prepared by --mode=prepare with either config.
Hardware and hours: never run at this scale. Computed from 259 GFLOP a training image (S), 256 M
  images and 40 % of the bfloat16 peak: 5.8 hours on 8 H100, 14.6 hours on 16 TPU v5e, besides the
  U-ViT's.
Expected score, from the paper: FID 10.99, CLIP 27.53, MCD 1.592 at patch factor 2; 11.29, 27.08,
  1.522 at 1; 30.91, 25.87, 1.638 at 4; FID 11.61, CLIP 28.19 with given maps; FID 18.94 and
  unreadable maps with the map input zeroed. With encoders=light expect worse.
"""

import ml_collections

from panoptic_jax import config as settings
from panoptic_jax import recipes


def get_config(text: str = '') -> ml_collections.ConfigDict:
    """Training of the map stream with U-ViT's recipe; the paper names no other recipe."""
    config = settings.default()
    config.workdir = 'runs/two_stream'
    recipes.use_pdm(config, 'two_stream', text)
    config.init_weights = 'runs/uvit/weights.safetensors'
    config.lock()
    return config
