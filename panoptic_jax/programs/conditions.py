"""What requests give besides their captions: arrays, and the streams that come of them.

What one compiled sampler is made for is in `programs/tasks.py`. The pictures that users give are
read in `data/given_maps.py` and `data/given_images.py`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from panoptic_jax.diffusion import bits, codes, schedule
from panoptic_jax.diffusion.solver import Known, overwritten
from panoptic_jax.diffusion.streams import NAMES, Stream
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.tasks import Role

_CODE_KEY = 2  # after those of the streams' noise


class Conditions(NamedTuple):
    """The arrays that requests give, a row for each; None where nothing is given.

    Attributes:
      map: (B, kh, kw) uint8 category ids.
      instances: (B, kh, kw) uint8 numbers of the map's things, 0 for none. Only a model of
        instances takes them, and without them every thing counts as a crowd.
      image: (B, h, w, c) latents, not scaled: the autoencoder's own, or the mean of its moments.
      known_image: (B, h, w) bool, the pixels of `image` that are known; the others are drawn.
      known_map: (B, kh, kw) bool, the same of `map`.
      guidance: (B,) each pair's own guidance, in the place of the setting.
      negative: (B, L, D) features of texts, in the place of the empty caption's.
    """

    map: jax.Array | np.ndarray | None = None
    instances: jax.Array | np.ndarray | None = None
    image: jax.Array | np.ndarray | None = None
    known_image: jax.Array | np.ndarray | None = None
    known_map: jax.Array | np.ndarray | None = None
    guidance: jax.Array | np.ndarray | None = None
    negative: jax.Array | np.ndarray | None = None

    def clean_streams(self, keys: jax.Array, description: Description) -> dict[str, jax.Array]:
        """What is given, as the solver takes it: scaled latents, and analog bits of maps.

        Args:
          keys: (B,) keys of the pairs, which decide the codes of a map's things.
          description: The model.

        Returns:
          (B, h, w, c) for 'image' and (B, kh, kw, channels) for 'map', where they are given.
        """
        clean = {}
        if self.image is not None:
            image = jnp.asarray(self.image, jnp.float32)
            clean['image'] = image * description.autoencoder.scale
        if self.map is not None:
            clean['map'] = bits.ids_to_bits(self.map)
        if self.map is not None and description.model.instance_bits:
            none = jnp.zeros_like(self.map)
            drawn = _draw_codes(none if self.instances is None else self.instances, keys)
            clean['map'] = jnp.concatenate([clean['map'], bits.ids_to_bits(drawn)], axis=-1)
        return clean

    def known_parts(
        self, clean: Mapping[str, jax.Array], noise: Mapping[str, jax.Array]
    ) -> dict[str, Known]:
        """The known parts of streams, from `clean_streams` and the noise that each starts from."""
        masks = zip(NAMES, (self.known_image, self.known_map), strict=True)
        return {
            name: Known(mask[..., None], clean[name], noise[name])
            for name, mask in masks
            if mask is not None
        }


def start_noise(keys: jax.Array, number: int, shape: tuple[int, ...]) -> jax.Array:
    """(B, *shape) standard normal; a row depends on its key and the stream's number alone."""

    def draw(key):
        return jax.random.normal(jax.random.fold_in(key, number), shape)

    return jax.vmap(draw)(keys)


def start(
    role: Role,
    stream: Stream,
    noise: jax.Array,
    *,
    clean: jax.Array | None,
    known: Known | None,
    std: float,
) -> jax.Array:
    """A stream that moves, where it starts.

    Args:
      role: How the stream takes part.
      stream: Its noise.
      noise: (B, h, w, c) standard normal.
      clean: (B, h, w, c) what is given of it; None for nothing.
      known: The part of it that is known; None for nothing.
      std: Standard deviation of a start from noise alone; 0 for the stream's own.
    """
    alpha, sigma = map(float, schedule.alpha_sigma(role.start))
    # Algorithm 2 starts with std 1 where training has s; by default both are s.
    state = (std or stream.noise_std) * noise
    if role.strength is not None:
        state = alpha * clean + sigma * stream.noise_std * noise  # Eq. 2
    if known is not None:
        state = overwritten(state, known, stream, alpha=alpha, sigma=sigma)
    return state


def decoders(description: Description, decode: str) -> tuple[Callable, Callable]:
    """Functions of a map's values (B, kh, kw, channels): to category ids, and to clean bits."""
    valid = description.valid_codes()

    def category_ids(map_values):
        return bits.bits_to_ids(map_values[..., : bits.NUM_BITS], valid, decode)

    def settled_map(map_values):
        # The image then meets a map as clean as in training, and the same that is returned.
        category_bits = bits.ids_to_bits(category_ids(map_values))
        code_bits = jnp.where(map_values[..., bits.NUM_BITS :] > 0, 1.0, -1.0)
        return jnp.concatenate([category_bits, code_bits], axis=-1)

    return category_ids, settled_map


def _draw_codes(instances, keys):
    """Codes of numbered things, (B, kh, kw) uint8, by the key of each pair alone."""

    def draw(numbers, key):
        return codes.draw(numbers[None], jax.random.fold_in(key, _CODE_KEY))[0]

    return jax.vmap(draw)(instances, keys)
