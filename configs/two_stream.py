"""Two-stream PDM on COCO 2017 (section 3.5.2): a frozen U-ViT beside a trainable map stream.

    python -m panoptic_jax.main --config=configs/two_stream.py --workdir=runs/two_stream

Starts from runs/uvit/weights.safetensors, which training and exporting `uvit.py` leaves; another
  file is --config.init_weights=FILE. From random weights (--config.init_weights=) the image stream
  would stay random, since it is not trained.
Arguments: size=S (or S-deep, M, L, H), patch_factor=2 (or 1, 4), given_map=0, zero_map_input=0, as
  in --config=configs/two_stream.py:patch_factor=4,given_map=1.
Data: COCO 2017 and TAESD's weights where the README says, prepared by --mode=prepare with this
  config or `one_stream.py`: they share the folder data/coco.
Hardware and hours: never run at this scale. Computed from 259 GFLOP a training image (S), 256 M
  images and 40 % of the bfloat16 peak: 5.8 hours on 8 H100, 14.6 hours on 16 TPU v5e, besides the
  U-ViT's.
Expected score, of the paper: FID 10.99, CLIP 27.53, MCD 1.592 at patch factor 2; 11.29, 27.08,
  1.522 at 1; 30.91, 25.87, 1.638 at 4; FID 11.61, CLIP 28.19 with given maps; FID 18.94 and
  unreadable maps with the map input zeroed. These are with the Stable Diffusion VAE and CLIP's text
  encoder, which are still to follow here; with TAESD and random word vectors expect worse.
"""

import ml_collections

from panoptic_jax import config as settings
from panoptic_jax.models import uvit


def get_config(text: str = '') -> ml_collections.ConfigDict:
    """By U-ViT's recipe; the paper names no other."""
    chosen = settings.arguments(
        text, size=tuple(uvit.SIZES), patch_factor=2, given_map=False, zero_map_input=False
    )
    config = settings.default()
    config.data.root = 'data/coco2017'
    config.data.autoencoder_weights = 'data/taesd/diffusion_pytorch_model.safetensors'
    config.model.name = 'two_stream'
    config.model.update(uvit.SIZES[chosen.pop('size')], **chosen)
    config.init_weights = 'runs/uvit/weights.safetensors'
    config.lock()
    return config
