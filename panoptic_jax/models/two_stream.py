"""Two-stream PDM (section 3.5.2): a pretrained image stream beside a trainable map stream.

Embeddings and blocks of the image stream are frozen; its positions, last norm and output layers are
trained further (`is_frozen`). The map stream reads both streams' tokens at each level and answers
through zero-convs, so that at initialisation the image output is exactly the pretrained U-ViT's.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from panoptic_jax.models.one_stream import MapStream, split_times
from panoptic_jax.models.uvit import ImageStream, Prediction


class TwoStream(nn.Module):
    """Two-stream PDM: 92,473,708 parameters at size S and patch factor 2.

    With biases in the zero-convs, as in the authors' code, it has 92,480,364.

    Attributes:
      image_stream: Fields of `ImageStream`.
      map_stream: Fields of `MapStream`.
      given_map: Map tokens are added to the image tokens before the image head.
      zero_map_input: The network sees zeros for the map (ablation B.2).
    """

    image_stream: dict[str, Any]
    map_stream: dict[str, Any]
    given_map: bool = False
    zero_map_input: bool = False

    def setup(self) -> None:
        self.image = ImageStream(**self.image_stream)
        self.map = MapStream(**self.map_stream)

    def __call__(self, x_t: jax.Array, m_t: jax.Array, text: jax.Array, t: jax.Array) -> Prediction:
        """Predicts the image's noise, and the clean map or its noise; arguments of `OneStream`."""
        if self.zero_map_input:
            m_t = jnp.zeros_like(m_t)
        image, map_ = self.image, self.map
        image_time, map_time = split_times(t, map_.has_time)
        x = image.embed(x_t, text, image_time)  # (B, 1 + L + N, hidden_size): time, text, image
        m = map_.embed(m_t)  # (B, N, hidden_size)
        # The map's own time is one more token of its stream, so that the image stream stays whole.
        if map_.has_time:
            m = jnp.concatenate([m, map_.embed_time(map_time)], axis=1)
        middle = image.depth // 2
        skips = []
        for level in range(image.depth + 1):
            skip_x, skip_z = skips.pop() if level > middle else (None, None)
            both = jnp.concatenate([x, m], axis=1)
            z = map_.blocks[level](both, skip_z)  # (B, 1 + L + 2N, hidden_size)
            auxiliary, m = z[:, : x.shape[1]], z[:, x.shape[1] :]
            x = image.blocks[level](x, skip_x) + map_.zero_convs[level](auxiliary)
            # The image's skip is taken after the map stream's answer, as in the authors' code.
            if level < middle:
                skips.append((x, z))
        image_tokens = image.norm(x)[:, 1 + text.shape[1] :]
        m = m[:, : map_.num_tokens]
        if self.given_map:
            image_tokens = image_tokens + m
        return Prediction(image=image.to_image(image_tokens), map=map_.to_map(m))


def is_frozen(path: str) -> bool:
    """Whether training leaves this parameter alone: embeddings and blocks of the image stream.

    Args:
      path: The parameter's place in the tree, such as 'image/blocks_3/qkv/kernel'.
    """
    return path.startswith(('image/patch_embed/', 'image/text_embed/', 'image/blocks_'))


def copy_image_blocks(params: dict) -> dict:
    """Starts the map stream's blocks as copies of the image stream's (the paper is silent)."""
    blocks = {name: value for name, value in params['image'].items() if name.startswith('blocks_')}
    # Copies, since a train step donates its buffers and the same one cannot be donated twice.
    copies = jax.tree.map(lambda array: array.copy(), blocks)
    return params | {'map': params['map'] | copies}
