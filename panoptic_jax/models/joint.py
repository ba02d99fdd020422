"""The joint network, beyond the paper: image and map of a place share one token throughout.

Latents and map bits meet at the latents' resolution and go through convolutions down to one token a
place, through transformer blocks that read the caption's words, and up again, with skips past the
blocks. Its blocks are in `models/joint_blocks.py`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.diffusion.bits import NUM_BITS
from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.models.joint_blocks import (
    ConvBlock,
    Modulation,
    PlaceBlock,
    ThingMeans,
    plain_norm,
)
from panoptic_jax.models.layers import Dense
from panoptic_jax.models.one_stream import split_times
from panoptic_jax.models.uvit import (
    Prediction,
    depth_to_space,
    normal_init,
    space_to_depth,
    time_embedding,
)

_TIME_SIZE = 128  # channels of a time's sinusoid
_FINE_BLOCKS = 2  # blocks of convolutions at each level but the lowest, on the way in and out
_THING_SIZE = 32  # channels in which pixels say what thing they are part of


class Joint(nn.Module):
    """The network; its sizes are those of `uvit.SIZES`.

    Attributes:
      latent_channels: c, channels of the image latents.
      map_channels: Channels of a map.
      patch_size: Latent pixels per place, along each side: a power of two, 2 at least.
      patch_factor: Map pixels per latent pixel, along each side.
      hidden_size: Channels of a place; each level of convolutions above has half of the channels.
      depth: Transformer blocks.
      num_heads: Attention heads; 4 times their number must divide `hidden_size`.
      map_bounded: Whether the predicted map passes a tanh.
      separate_times: Whether the map has a time of its own.
      dtype: Type of the computation; parameters are float32.
      forms: Forms of the heaviest parts, see `forms.for_mesh`.
    """

    latent_channels: int
    map_channels: int
    patch_size: int
    patch_factor: int
    hidden_size: int
    depth: int
    num_heads: int
    map_bounded: bool = True
    separate_times: bool = False
    dtype: Any = jnp.float32
    forms: Forms = PLAIN

    @property
    def widths(self) -> list[int]:
        """Channels of the levels of convolutions, from the latents' resolution down."""
        levels = self.patch_size.bit_length() - 1
        return [self.hidden_size >> level for level in range(levels, 0, -1)]

    @nn.compact
    def __call__(self, x_t: jax.Array, m_t: jax.Array, text: jax.Array, t: jax.Array) -> Prediction:
        """Predicts what each stream's settings ask for; the arguments are those of `OneStream`."""
        words = Words(self.hidden_size, self.dtype, self.forms, name='words')(text)  # (B, L, C)
        condition = self._condition(words, t)  # (B, C)
        at_latents = space_to_depth(m_t, self.patch_factor)  # (B, h, w, k * k * map_channels)
        pixels = self._stem(x_t, at_latents, condition)  # (B, h, w, widths[0])
        skips = []
        for level, width in enumerate([*self.widths[1:], self.hidden_size]):
            pixels = self._convolved(pixels, condition, level, 'in')
            skips.append(pixels)
            pixels = self._dense(width, f'down_{level}')(space_to_depth(pixels, 2))
        pixels = self._trunk(pixels, words, condition)
        for level in reversed(range(len(self.widths))):
            width = self.widths[level]
            pixels = depth_to_space(self._dense(4 * width, f'up_{level}')(pixels), 2)
            skip = plain_norm(self.dtype)(skips[level])
            pixels = pixels + self._dense(width, f'skip_{level}')(skip)
            pixels = self._convolved(pixels, condition, level, 'out')
        return self._predictions(pixels, condition, at_latents)

    def _dense(self, features, name, **options):
        product = self.forms.product
        return Dense(features, dtype=self.dtype, product=product, name=name, **options)

    def _condition(self, words, t):
        """What acts on all places alike, (B, C) float32: both times and the caption's mean."""
        image_time, map_time = split_times(t, self.separate_times)
        map_time = image_time if map_time is None else map_time
        sinusoids = [time_embedding(time, _TIME_SIZE) for time in (image_time, map_time)]
        caption = words.astype(jnp.float32).mean(axis=1)  # (B, C)
        mixed = Dense(self.hidden_size, name='condition_in')(*sinusoids, caption)
        return nn.silu(Dense(self.hidden_size, name='condition_out')(nn.silu(mixed)))

    def _stem(self, image, map_, condition):
        """Both streams at the latents' resolution in one array, (B, h, w, widths[0])."""
        width = self.widths[0]
        modulation = Modulation(3, width, self.dtype, name='modulation_in')(condition)
        image_gain, map_gain, shift = (vector[:, None] for vector in modulation)  # (B, 1, 1, width)
        # A stream that is noise at its time would drown the other one, whose detail the skips
        # carry. Gains of their own, which see the times, turn it down.
        image = nn.Conv(width, (3, 3), dtype=self.dtype, name='stem_image')(image)
        map_ = self._dense(width, 'stem_map')(map_)
        return image * (1 + image_gain) + map_ * (1 + map_gain) + shift

    def _convolved(self, pixels, condition, level, name):
        """(B, h, w, widths[level]) to the same shape, by the level's blocks of convolutions."""
        block = self.forms.block(ConvBlock)
        if level == len(self.widths) - 1:
            return block(self.dtype, name=name)(pixels, condition)
        # Outlines are decided here, where a thing is ten pixels wide and a place covers four.
        for number in range(_FINE_BLOCKS):
            pixels = block(self.dtype, name=f'{name}_{level}_{number}')(pixels, condition)
        return pixels

    def _trunk(self, grid, words, condition):
        """(B, side, side, C) -> (B, side, side, C), normalised."""
        batch, side, _, size = grid.shape
        places = grid.reshape(batch, side * side, size)
        for level in range(self.depth):
            block = self.forms.block(PlaceBlock)
            block = block(self.num_heads, self.dtype, self.forms, name=f'blocks_{level}')
            places = block(places, words, condition)
        return plain_norm(self.dtype)(places).reshape(grid.shape)

    def _predictions(self, pixels, condition, at_latents):
        """(B, h, w, width) -> (B, h, w, c) and (B, kh, kw, map_channels), float32."""
        modulation = Modulation(2, pixels.shape[-1], self.dtype, name='modulation')(condition)
        scale, shift = (vector[:, None] for vector in modulation)  # (B, 1, 1, width)
        pixels = plain_norm(self.dtype)(pixels) * (1 + scale) + shift
        # Which side of an edge a pixel lies on is in the skip, and what lies there comes from the
        # blocks: a sum of both cannot choose, a hidden layer can.
        pixels = nn.silu(self._dense(4 * pixels.shape[-1], 'head_in')(pixels))  # (B, h, w, 4 width)
        inner = self.patch_factor**2  # map pixels of a latent pixel
        zero = {'kernel_init': nn.initializers.zeros}
        # Zeros are the best first guess of centred data, and the loss starts at their variance.
        image = self._dense(self.latent_channels, 'image_head', **zero)(pixels)
        map_ = self._dense(inner * self.map_channels, 'map_head', **zero)(pixels)
        # The mean of a bit +-1 behind Gaussian noise is tanh(expectation + gain * noisy bit), with
        # a gain that grows as the noise fades. The rest of the network says what to expect.
        (gain,) = Modulation(1, self.map_channels, name='map_evidence')(condition)
        gain = jnp.tile(gain, inner)[:, None]  # (B, 1, 1, k * k * map_channels)
        map_ = map_.astype(jnp.float32) + gain * self._evidence(pixels, at_latents)
        map_ = depth_to_space(jnp.tanh(map_) if self.map_bounded else map_, self.patch_factor)
        return Prediction(image=image.astype(jnp.float32), map=map_)

    def _evidence(self, pixels, at_latents):
        """Noisy bits of categories, and in the place of noisy codes their means over a thing."""
        noisy = at_latents.astype(jnp.float32)  # (B, h, w, k * k * map_channels)
        if self.map_channels == NUM_BITS:
            return noisy
        inner = self.patch_factor**2
        pixels_of_map = jnp.split(noisy, inner, axis=-1)
        codes = sum(pixel[..., NUM_BITS:] for pixel in pixels_of_map) / inner  # (B, h, w, codes)
        # With evidence of its own, each pixel would settle on a code of its own.
        means = ThingMeans(_THING_SIZE, name='thing_means')(pixels, codes)  # (B, h, w, codes)
        no_categories = [(0, 0)] * 3 + [(NUM_BITS, 0)]
        means = jnp.tile(jnp.pad(means, no_categories), inner)
        is_code = np.arange(noisy.shape[-1]) % self.map_channels >= NUM_BITS
        return jnp.where(is_code, means, noisy)


class Words(nn.Module):
    """The caption's tokens, each with what it reads of its two neighbours: whose colour it names.

    Attributes:
      size: Channels of a word.
      dtype: Type of the computation; parameters are float32.
      forms: Forms of the heaviest parts, see `forms.for_mesh`.
    """

    size: int
    dtype: Any = jnp.float32
    forms: Forms = PLAIN

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        """(B, L, D) text features -> (B, L, size), normalised."""

        def dense(features, name):
            return Dense(features, dtype=self.dtype, product=self.forms.product, name=name)

        positions = self.param('positions', normal_init, (text.shape[1], self.size), jnp.float32)
        words = dense(self.size, 'embed')(text) + positions.astype(self.dtype)
        padded = jnp.pad(words, ((0, 0), (1, 1), (0, 0)))
        before, after = padded[:, :-2], padded[:, 2:]
        hidden = nn.silu(dense(2 * self.size, 'mix_in')(before, words, after))
        words = words + dense(self.size, 'mix_out')(hidden)
        return plain_norm(self.dtype)(words)
