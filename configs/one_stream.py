"""One-stream PDM on COCO 2017 (section 3.5.1): image and map tokens through the same U-ViT blocks.

    python -m panoptic_jax.main --config=configs/one_stream.py --mode=prepare
    python -m panoptic_jax.main --config=configs/one_stream.py
    python -m panoptic_jax.main --config=configs/one_stream.py \
        --mode=evaluate --config.sample.count=30000 --config.sample.batch_size=64

Arguments: size=S (or S-deep, M, L, H), patch_factor=2 (or 1, 4; B.1), given_map=1 (Figure 6),
  zero_map_input=1 (B.2: the network never sees the map), map_prediction=noise (3.3: the network
  predicts the map's noise instead of the map), map_noise=1, 1.4142 or 2 (B.3: the standard
  deviation of the map's noise), encoders=light (TAESD and random word vectors, in data/coco_light).
  An example with two arguments:
  --config=configs/one_stream.py:patch_factor=4,map_noise=1.
Data: COCO 2017 in the folders that `README.md` describes. Stable Diffusion's autoencoder and CLIP
  come from the Hub. The three configs of the paper share the prepared folder.
Hardware and hours: never run at this scale. Computed from 184 GFLOP a training image (S), 256 M
  images and 40 % of the bfloat16 peak: 4.1 hours on 8 H100, 10.4 hours on 16 TPU v5e.
Expected score, from the paper: FID 18.52, CLIP 26.32, MCD 1.638 at patch factor 2; FID 8.21, CLIP
  28.40 with given maps. With encoders=light expect worse.
"""

import ml_collections

from panoptic_jax import config as settings
from panoptic_jax import recipes


def get_config(text: str = '') -> ml_collections.ConfigDict:
    """Training from scratch with U-ViT's recipe; the paper names no other recipe."""
    config = settings.default()
    config.workdir = 'runs/one_stream'
    recipes.use_pdm(config, 'one_stream', text)
    config.lock()
    return config
