"""One-stream PDM on COCO 2017 (section 3.5.1): image and map tokens through the same U-ViT blocks.

    python -m panoptic_jax.main --config=configs/one_stream.py --mode=prepare
    python -m panoptic_jax.main --config=configs/one_stream.py --workdir=runs/one_stream

Arguments: size=S (or S-deep, M, L, H), patch_factor=2 (or 1, 4), given_map=0, zero_map_input=0, as
  in --config=configs/one_stream.py:patch_factor=4,size=M.
Data: COCO 2017 and TAESD's weights where the README says; all three COCO configs share the prepared
  folder data/coco.
Hardware and hours: never run at this scale. Computed from 184 GFLOP a training image (S), 256 M
  images and 40 % of the bfloat16 peak: 4.1 hours on 8 H100, 10.4 hours on 16 TPU v5e.
Expected score, of the paper: FID 18.52, CLIP 26.32, MCD 1.638 at patch factor 2; FID 8.21, CLIP
  28.40 with given maps. These are with the Stable Diffusion VAE and CLIP's text encoder, which are
  still to follow here; with TAESD and random word vectors expect worse.
"""

import ml_collections

from panoptic_jax import config as settings
from panoptic_jax.models import uvit


def get_config(text: str = '') -> ml_collections.ConfigDict:
    """From scratch, by U-ViT's recipe; the paper names no other."""
    chosen = settings.arguments(
        text, size=tuple(uvit.SIZES), patch_factor=2, given_map=False, zero_map_input=False
    )
    config = settings.default()
    config.data.root = 'data/coco2017'
    config.data.autoencoder_weights = 'data/taesd/diffusion_pytorch_model.safetensors'
    config.model.name = 'one_stream'
    config.model.update(uvit.SIZES[chosen.pop('size')], **chosen)
    config.lock()
    return config
