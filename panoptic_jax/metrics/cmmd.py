"""CMMD: a distance of two sets of images, measured by CLIP's embeddings.

Jayasumana et al. 2024 ("Rethinking FID") propose it. It is a second opinion beside FID: it assumes
no Gaussian and settles with far fewer images. The published numbers are for ViT-L/14 at 336 px, and
numbers of another CLIP cannot be compared with them. `encoders/clip.py` computes the embeddings.
"""

import numpy as np

from panoptic_jax.metrics.clip_score import normalised

MINIMUM = 2  # images of each set
_KERNEL_WIDTH = 10.0  # sigma of the Gaussian kernel, the authors' choice
_SCALE = 1000.0  # the authors' choice, for numbers that are easy to read


def cmmd(one: np.ndarray, other: np.ndarray, *, block: int = 1024) -> float:
    """1000 times the squared maximum mean discrepancy (MMD) of two sets.

        MMD^2 = mean k(a, a') + mean k(b, b') - 2 mean k(a, b),  k(a, b) = exp(-|a - b|^2 / 200)

    This is Eq. 5 of Gretton et al. 2012 ("A Kernel Two-Sample Test"), which the authors' code
    follows: embeddings have length 1, and the means go over all pairs, also those of an image with
    itself. So the distance is never negative, and 0 for equal sets.

    Args:
      one: (n, d) embeddings, of any length.
      other: (m, d) embeddings.
      block: Rows whose distances are held at once; it bounds the memory.

    Raises:
      ValueError: a set has fewer than 2 images.
    """
    if min(len(one), len(other)) < MINIMUM:
        raise ValueError(
            f'CMMD was asked for {len(one)} images against {len(other)}; each set needs at least '
            f'{MINIMUM}, and some 1,000 to mean something.'
        )
    one, other = normalised(one), normalised(other)  # (n, d), (m, d)
    within_one = _mean_kernel(one, one, block)
    within_other = _mean_kernel(other, other, block)
    between = _mean_kernel(one, other, block)
    # Each mean is too small by 1, which cancels here.
    return _SCALE * (within_one + within_other - 2 * between)


def _mean_kernel(a: np.ndarray, b: np.ndarray, block: int) -> float:
    """The mean of k(a, b) - 1 over all pairs of vectors of length 1."""
    total = 0.0
    for start in range(0, len(a), block):
        cosines = a[start : start + block] @ b.T  # (block, m)
        # With vectors of length 1, -|a - b|^2 / 2 is cosine - 1. The kernels lie within 2 % of 1
        # and their means are subtracted, so exp(-x) - 1 keeps digits that exp(-x) would lose.
        total += np.expm1((cosines - 1) / _KERNEL_WIDTH**2).sum()
    return total / (len(a) * len(b))
