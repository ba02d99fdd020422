"""The `words` text encoder: a frozen random vector per word, drawn from the word's hash.

It needs no download and no vocabulary. Captions that share words share vectors, and a small model
on captions of a closed world needs no more. It knows no synonyms and no grammar.
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
    # Python's own hash of a string differs from process to process.
    digest = hashlib.blake2b(word.encode(), digest_size=16).digest()
    key = int.from_bytes(digest, 'little')
    generator = np.random.Generator(np.random.Philox(key=key))
    vector = generator.standard_normal(features, np.float32).astype(np.float16)
    vector.flags.writeable = False  # the cache gives it to all captions
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
        kept = split_words(caption)[: tokens - 1]
        for position, word in enumerate([*kept, _END]):
            row[position] = word_vector(word, features)
    return encoded


def fingerprint(tokens: int, features: int) -> str:
    """SHA-256 that stands for the encoder's weights."""
    # It covers what a sentence encodes to, so that a NumPy with other random numbers is noticed.
    probe = encode(['The quick brown fox, 2 lazy dogs.'], tokens, features)
    return hashlib.sha256(f'words {tokens} {features}'.encode() + probe.tobytes()).hexdigest()
