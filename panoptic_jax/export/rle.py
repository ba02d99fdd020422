"""Masks as COCO's run lengths, in the compressed text that pycocotools reads."""

import numpy as np

_BITS = 5  # of a number in one letter
_FIRST_LETTER = 48  # '0'
_DELTAS_FROM = 3  # runs that are told as differences


def encode(mask: np.ndarray) -> str:
    """The 'counts' of a mask (H, W) bool; `size` beside them is [H, W].

    Runs of 0 and 1 take turns, down the columns, beginning with 0. From the fourth on each is told
    as the difference from the one before last. Five bits make a letter, and a sixth says whether
    the number goes on.
    """
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0] if flat[0] else [], changes, [flat.size]]).astype(np.int64)
    runs = np.diff(ends, prepend=0)
    told = runs.copy()
    told[_DELTAS_FROM:] -= runs[_DELTAS_FROM - 2 : -2]
    return ''.join(map(_letters, told.tolist()))


def _letters(number: int) -> str:
    """A number of any sign, its lowest bits first."""
    letters = []
    while True:
        low = number & 31
        number >>= _BITS
        # The sign is that of the last letter's highest bit.
        is_last = number == (-1 if low & 16 else 0)
        letters.append(chr(_FIRST_LETTER + (low if is_last else low | 32)))
        if is_last:
            return ''.join(letters)
