"""Captions as CLIP's tokens, by transformers' tokenizer. The towers are in `encoders/clip.py`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

VOCABULARY = 49408
END = 49407  # also fills captions up, as in Stable Diffusion and U-ViT
# Every other entry is a byte, alone or at a word's end, or the start or the end of a text.
MERGES = VOCABULARY - 2 * 256 - 2


def load(vocabulary: str, merges: str, tokens: int) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from n captions to (n, tokens) int32: start, caption, end, then `END` throughout.

    Args:
      vocabulary: Local path of vocab.json.
      merges: Local path of merges.txt.
      tokens: Tokens per caption; longer captions lose their last words, never the end.

    Raises:
      ValueError: the files are not CLIP's.
    """
    # Imported here, since it takes seconds that only this encoder's users should pay.
    from transformers import CLIPTokenizer

    try:
        words = json.loads(Path(vocabulary).read_text(encoding='utf-8'))
        lines = Path(merges).read_text(encoding='utf-8').splitlines()
        pairs = [tuple(line.split()) for line in lines if line and not line.startswith('#version')]
        complete = len(words) == VOCABULARY and all(len(pair) == 2 for pair in pairs)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{vocabulary} or {merges} cannot be read ({error}).') from error
    if not complete or words.get('<|endoftext|>') != END:
        raise ValueError(
            f'{vocabulary} and {merges} must be the vocabulary of CLIP, which has {VOCABULARY} '
            'entries; take vocab.json and merges.txt from where the weights are.'
        )
    # A shorter list would cut words into other tokens, and nothing else would show it.
    if len(pairs) != MERGES:
        raise ValueError(
            f'{merges} has {len(pairs):,} merges, and the vocabulary of CLIP comes of {MERGES:,}; '
            'the file is cut or of another model: take merges.txt from where the weights are.'
        )
    # Given the files' paths, transformers 5 makes a vocabulary of two tokens and says nothing.
    try:
        tokenizer = CLIPTokenizer(vocab=words, merges=pairs, model_max_length=tokens)
    except Exception as error:  # what the tokenizers package raises has no type of its own
        raise ValueError(f'{merges} does not belong to {vocabulary} ({error}).') from error

    def encode(captions: Sequence[str]) -> np.ndarray:
        encoded = tokenizer(list(captions), truncation=True, max_length=tokens)['input_ids']
        rows = np.full((len(captions), tokens), END, np.int32)
        for row, caption_tokens in zip(rows, encoded, strict=True):
            row[: len(caption_tokens)] = caption_tokens
        return rows

    return encode
