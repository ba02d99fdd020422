"""The frozen text encoders by name: CLIP's text tower, and word vectors that need no weights.

`encoders/load.py` has the autoencoders and opens both kinds for a model; the networks are in
`encoders/clip.py` and `encoders/words.py`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from panoptic_jax.data.facts import TextFacts
from panoptic_jax.encoders import clip, clip_folder, rows, words

_CAPTIONS_PER_DEVICE = 40  # that a device works on at a time


class TextEncoder(NamedTuple):
    """A frozen text encoder.

    Attributes:
      facts: What identifies the text encoder.
      encode: n sentences to (n, L, D) float16; [''] gives the empty caption.
    """

    facts: TextFacts
    encode: Callable[[Sequence[str]], np.ndarray]


def load_text_encoder(
    name: str,
    *,
    tokens: int,
    features: int,
    weights: str = '',
    devices: Sequence[jax.Device] | None = None,
    captions_per_device: int = _CAPTIONS_PER_DEVICE,
) -> TextEncoder:
    """The text encoder of a name.

    Args:
      name: 'clip' or 'words'; the latter has no weights.
      tokens: L, tokens per caption; CLIP has 77.
      features: D, numbers per token; CLIP's weights decide it, 768 for ViT-L/14.
      weights: Local folder, or hf:// address of one, that holds `clip_folder.FILES`.
      devices: What encodes; None for all devices of this process.
      captions_per_device: Captions that one device encodes at a time.
    """
    if name == 'words':
        encode = functools.partial(words.encode, tokens=tokens, features=features)
        sha256 = words.fingerprint(tokens, features)
    elif name == 'clip':
        loaded = clip_folder.load(weights, 'data.text_weights')
        # Without the vision tower, which would take memory on the devices.
        text_tower = {'text_model': loaded.params['text_model']}
        sha256 = loaded.sha256
        width = text_tower['text_model']['final_layer_norm']['bias'].shape[0]
        if (tokens, features) != (clip.TOKENS, width):
            raise ValueError(
                f'data.text_tokens is {tokens} and data.text_features {features}; the CLIP in '
                f'{weights} has {clip.TOKENS} tokens of {width} features: set them so, or take '
                'ViT-L/14, which the models are made for.'
            )
        states = rows.on_devices(loaded.text_states, text_tower, captions_per_device, devices)

        def encode(captions):
            return states(loaded.tokenize(captions)).astype(np.float16)
    else:
        raise ValueError(f"data.text is {name!r}; it must be 'clip' or 'words'.")

    facts = TextFacts(name=name, tokens=tokens, features=features, sha256=sha256)
    return TextEncoder(facts, encode)
