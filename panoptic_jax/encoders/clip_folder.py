"""A CLIP as it is published: a folder with weights, their config.json and the vocabulary.

`encoders/clip.py` holds the towers, `encoders/clip_config.py` reads the config.json, and
`encoders/clip_tokens.py` the vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from panoptic_jax.encoders import clip, clip_tokens, weights_files

FILES = ('model.safetensors', 'vocab.json', 'merges.txt')


class Clip(NamedTuple):
    """A whole CLIP or its text tower, ready for `rows.on_devices`.

    Attributes:
      params: What `clip.load` gives.
      sha256: Hash of the weights and of what is not as in OpenAI's CLIPs.
      tokenize: `clip_tokens.load`'s function from n captions to (n, 77) int32 tokens.
      text_states: `clip.text_states` of this CLIP's form: (params, tokens) to (n, 77, D).
      text_embeddings: `clip.text_embeddings` in the same way: (params, tokens) to (n, P).
      image_embeddings: `clip.image_embeddings` in the same way; None for a text tower alone.
    """

    params: dict[str, Any]
    sha256: str
    tokenize: Callable[[Sequence[str]], np.ndarray]
    text_states: Callable[[Any, jax.Array], jax.Array]
    text_embeddings: Callable[[Any, jax.Array], jax.Array]
    image_embeddings: Callable[[Any, jax.Array], jax.Array] | None


def load(folder: str, field: str) -> Clip:
    """The CLIP in a folder, computed as the config.json beside its weights says.

    Args:
      folder: Local or hf:// address of a folder that holds `FILES`, and config.json for a CLIP
        that is not OpenAI's.
      field: Name of the setting that it comes from, for messages.

    Raises:
      FileNotFoundError, ValueError: no such files, or files of something else.
    """
    # In one folder, since another CLIP's vocabulary would give wrong tokens.
    weights, vocabulary, merges = (
        weights_files.locate(f'{folder}/{name}', field, f"CLIP's {name}, in one folder")
        for name in FILES
    )
    config = weights_files.locate_if_there(f'{folder}/config.json', field)
    params, sha256, forms = clip.load(weights, config)
    embeddings = params['text_model']['embeddings.token_embedding']['embedding']
    # A token beyond them would get the last one's embedding, without any error.
    if len(embeddings) != clip_tokens.VOCABULARY:
        raise ValueError(
            f'{weights} has embeddings of {len(embeddings):,} tokens, where the vocabulary beside '
            f'it has {clip_tokens.VOCABULARY:,}; take all files from one CLIP.'
        )
    of_text = {'form': forms['text_model']}
    of_images = {'form': forms['vision_model']} if 'vision_model' in forms else None
    return Clip(
        params=params,
        sha256=sha256,
        tokenize=clip_tokens.load(vocabulary, merges, clip.TOKENS),
        text_states=functools.partial(clip.text_states, **of_text),
        text_embeddings=functools.partial(clip.text_embeddings, **of_text),
        image_embeddings=of_images and functools.partial(clip.image_embeddings, **of_images),
    )
