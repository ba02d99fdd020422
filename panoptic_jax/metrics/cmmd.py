"""CMMD (Jayasumana et al. 2024): a distance of two sets of images by CLIP's embeddings.

A second opinion beside FID: it assumes no Gaussian and settles with far fewer images. The published
numbers are for ViT-L/14 at 336 px; with another CLIP they cannot be compared.
"""

import numpy as np

from panoptic_jax.metrics.clip_score import normalised

_WIDTH = 10.0  # sigma of the Gaussian kernel
_SCALE = 1000.0
_BLOCK = 1024  # rows whose distances are held at once
MINIMUM = 2  # images of each set


def cmmd(one: np.ndarray, other: np.ndarray) -> float:
    """1000 times the squared maximum mean discrepancy, kernel exp(-|a - b|^2 / (2 10^2)).

    As the authors compute it: embeddings of length 1, and means over all pairs, an image with
    itself among them, so that it is never negative and 0 for equal sets.

    Args:
      one: (n, d) embeddings.
      other: (m, d) embeddings.

    Raises:
      ValueError: fewer than 2 images in a set.
    """
    if min(len(one), len(other)) < MINIMUM:
        raise ValueError(
            f'CMMD was asked for {len(one)} images against {len(other)}; each set needs at least '
            f'{MINIMUM}, and some 1,000 to mean something.'
        )
    one, other = normalised(one), normalised(other)
    return _SCALE * (
        _mean_kernel(one, one) + _mean_kernel(other, other) - 2 * _mean_kernel(one, other)
    )


def _mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
    """Mean of the kernel over all pairs, of vectors of length 1."""
    total = 0.0
    for start in range(0, len(a), _BLOCK):
        # exp(-x) - 1 keeps the digits: kernels lie within 2 % of 1, and their means are subtracted.
        total += np.expm1((a[start : start + _BLOCK] @ b.T - 1) / _WIDTH**2).sum()
    return total / (len(a) * len(b))
