"""CLIP score: how well images fit their captions, measured by CLIP's embeddings.

Hessel et al. 2021 ("CLIPScore") define it in section 3; the paper uses it in section 4.1. This
module takes embeddings. `encoders/clip.py` computes them.
"""

from collections.abc import Sequence

import numpy as np


def clip_scores(images: np.ndarray, captions: Sequence[np.ndarray]) -> np.ndarray:
    """100 times the cosine of image and caption, averaged over each image's captions.

    The paper (section 4.1) takes ViT-B/32 and all five captions of an image, among them the caption
    that the image was drawn from. Hessel et al. cut negative cosines to 0 and multiply by 2.5; here
    negative cosines count as they are, and the factor is 100.

    Args:
      images: (n, d) embeddings, of any length.
      captions: n arrays (k, d), the embeddings of each image's captions, k >= 1.

    Returns:
      (n,) float64 in [-100, 100]. The CLIP score of the set is their mean.

    Raises:
      ValueError: there are no images, not as many sets of captions as images, or an empty set.
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(
            f'CLIP score was asked for {len(images)} images with captions for {len(captions)}; it '
            'needs at least one image and the captions of each.'
        )
    bare = [i for i, own_captions in enumerate(captions) if not len(own_captions)]
    if bare:
        raise ValueError(
            f'CLIP score was asked for {len(images)} images of which {len(bare)} have no caption, '
            f'the first number {bare[0]}; each needs at least one.'
        )
    scores = []
    for image, own_captions in zip(images, captions, strict=True):
        cosines = normalised(own_captions) @ normalised(image)  # (k,)
        # First over the captions of an image, so that each image counts once.
        scores.append(100 * cosines.mean())
    return np.array(scores)  # (n,)


def normalised(embeddings: np.ndarray) -> np.ndarray:
    """(..., d) embeddings scaled to length 1, in float64.

    Raises:
      ValueError: an embedding has no direction: it is zero, or not finite.
    """
    embeddings = np.float64(embeddings)
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)  # (..., 1)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError(
            'An embedding of CLIP is zero or not finite, so that it has no direction; its weights '
            'are damaged.'
        )
    return embeddings / lengths
