"""CLIP score: how well images fit their captions by CLIP's embeddings. The towers are elsewhere."""

from collections.abc import Sequence

import numpy as np


def clip_scores(images: np.ndarray, captions: Sequence[np.ndarray]) -> np.ndarray:
    """100 times the cosine of image and caption, averaged over each image's captions.

    As the paper takes it: ViT-B/32 and all five captions of an image, the one that it was drawn
    from among them. Negative cosines count as they are; other code cuts them to 0.

    Args:
      images: (n, d) embeddings.
      captions: n arrays (k, d) of an image's captions' embeddings, k >= 1.

    Returns:
      (n,) float64 in [-100, 100]. The score is their mean.

    Raises:
      ValueError: no images, not as many sets of captions, or an empty one.
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(
            f'CLIP score was asked for {len(images)} images with captions for {len(captions)}; it '
            'needs at least one image and the captions of each.'
        )
    bare = [i for i, own in enumerate(captions) if not len(own)]
    if bare:
        raise ValueError(
            f'CLIP score was asked for {len(images)} images of which {len(bare)} have no caption, '
            f'the first number {bare[0]}; each needs at least one.'
        )
    pairs = zip(images, captions, strict=True)
    return np.array([100 * (normalised(own) @ normalised(image)).mean() for image, own in pairs])


def normalised(embeddings: np.ndarray) -> np.ndarray:
    """(..., d) scaled to length 1, float64."""
    embeddings = np.float64(embeddings)
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
