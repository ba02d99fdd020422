"""Two-stream PDM (section 3.5.2): a frozen pretrained image stream and a trainable map stream.

The map stream reads both streams' tokens at each level and speaks back through zero-convs, so that
at initialisation the image output is exactly the pretrained U-ViT's.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.models.one_stream import MapStream
from panoptic_jax.models.uvit import ImageStream, Prediction


class TwoStream(nn.Module):
    """Two-stream PDM: 92,473,708 parameters at size S and patch factor 2. Fields as `OneStream`.

    With biases in the zero-convs, as in the authors' code, 92,480,364.
    """

    image_stream: dict[str, Any]
    map_stream: dict[str, Any]
    given_map: bool = False
    zero_map_input: bool = False

    def setup(self) -> None:
        self.image = ImageStream(**self.image_stream)
        self.map = MapStream(**self.map_stream)

    def __call__(self, x_t: jax.Array, m_t: jax.Array, text: jax.Array, t: jax.Array) -> Prediction:
        """As `OneStream`."""
        if self.zero_map_input:
            m_t = jnp.zeros_like(m_t)
        image, map_ = self.image, self.map
        x = image.embed(x_t, text, t)  # image stream: time, text, image tokens
        m = map_.embed(m_t)
        middle = image.depth // 2
        skips = []
        for level in range(image.depth + 1):
            skip_x, skip_z = skips.pop() if level > middle else (None, None)
            z = map_.blocks[level](jnp.concatenate([x, m], axis=1), skip_z)
            auxiliary, m = z[:, : x.shape[1]], z[:, x.shape[1] :]
            x = image.blocks[level](x, skip_x) + map_.zero_convs[level](auxiliary)
            if level < middle:
                skips.append((x, z))
        image_tokens = image.norm(x)[:, 1 + text.shape[1] :]
        if self.given_map:
            image_tokens = image_tokens + m
        return Prediction(image.to_image(image_tokens), map_.to_bits(m))


def is_frozen(path: str) -> bool:
    """Whether training leaves this parameter alone: embeddings and blocks of the image stream.

    Args:
      path: Its place in the tree, such as 'image/blocks_3/qkv/kernel'.
    """
    return path.startswith(('image/patch_embed/', 'image/text_embed/', 'image/blocks_'))


def copy_image_blocks(params: dict) -> dict:
    """Starts the map stream's blocks as copies of the image stream's (the paper is silent)."""
    blocks = {name: value for name, value in params['image'].items() if name.startswith('blocks_')}
    return params | {'map': params['map'] | jax.tree.map(lambda a: a.copy(), blocks)}
