"""The `words` text encoder: a frozen random vector per word, drawn from the word's hash.

Needs no download and no vocabulary; captions that share words share vectors, which is all that a
small model on captions of a closed world needs. It knows no synonyms and no grammar.
"""

import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np

_END = '</s>'  # no caption holds it: punctuation is dropped


@functools.lru_cache(maxsize=100_000)
def word_vector(word: str, features: int) -> np.ndarray:
    """(features,) float16 standard normal numbers that depend on the word alone."""
    digest = hashlib.blake2b(word.encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, 'little')))
    vector = generator.standard_normal(features, np.float32).astype(np.float16)
    vector.flags.writeable = False  # shared by the cache
    return vector


def split_words(caption: str) -> list[str]:
    """The caption's words: lower case, letters and digits only ("man's" gives man, s)."""
    return re.findall(r'[^\W_]+', caption.lower())


def encode(captions: Sequence[str], tokens: int, features: int) -> np.ndarray:
    """Encodes captions as [words..., end, zeros...]; long ones lose words, never the end.

    Args:
      captions: n sentences; '' gives the empty caption, which is the end vector alone.
      tokens: L, length of the result.
      features: D, numbers per token.

    Returns:
      (n, L, D) float16, of unit variance where not padded.
    """
    encoded = np.zeros((len(captions), tokens, features), np.float16)
    for row, caption in zip(encoded, captions, strict=True):
        for position, word in enumerate([*split_words(caption)[: tokens - 1], _END]):
            row[position] = word_vector(word, features)
    return encoded


def fingerprint(tokens: int, features: int) -> str:
    """SHA-256 over what a probe sentence encodes to, so that a changed generator is noticed."""
    probe = encode(['The quick brown fox, 2 lazy dogs.'], tokens, features)
    return hashlib.sha256(f'words {tokens} {features}'.encode() + probe.tobytes()).hexdigest()
