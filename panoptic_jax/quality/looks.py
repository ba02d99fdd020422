"""What a pair looks like, in a few numbers that need no network.

Squared distances of these features are the mean squared difference of two thumbnails, and a share
of how differently two maps use their categories. Inception or CLIP see more; whoever has their
features may take them instead in `quality/summary.py` and `quality/nearest.py`.
"""

import numpy as np

from panoptic_jax.data import geometry

SIDE = 16  # of the thumbnail
_PIXELS = SIDE * SIDE * 3
# Two images of different scenes have a squared difference of about 0.1, two maps of different
# categories one of about 0.4; so both weigh alike.
_MAP_WEIGHT = 0.25
LENGTH = _PIXELS + 256


def look(image: np.ndarray, category: np.ndarray | None) -> np.ndarray:
    """(1024,) float32: 16 x 16 means of the central square, and the shares of the categories.

    Args:
      image: (H, W, 3) uint8.
      category: (h, w) uint8 ids; None for an image without a map.
    """
    square = geometry.fit_image(image)  # (256, 256, 3)
    block = geometry.IMAGE_SIDE // SIDE
    # Whole rows first: a sum over three neighbours costs more than one over a row.
    rows = square.reshape(SIDE, block, -1).sum(axis=1, dtype=np.uint32)  # (16, 256 * 3)
    sums = rows.reshape(SIDE, SIDE, block, 3).sum(axis=2)  # (16, 16, 3)
    features = np.zeros(LENGTH, np.float32)
    features[:_PIXELS] = sums.ravel() / (255 * block * block * np.sqrt(_PIXELS))
    if category is not None:
        shares = np.bincount(category.ravel(), minlength=256) / category.size
        features[_PIXELS:] = np.sqrt(_MAP_WEIGHT) * shares
    return features


def mirrored(looks: np.ndarray) -> np.ndarray:
    """(n, 1024): the looks of the pairs with left and right exchanged."""
    thumbnails = looks[:, :_PIXELS].reshape(-1, SIDE, SIDE, 3)
    flipped = thumbnails[:, :, ::-1].reshape(-1, _PIXELS)
    return np.concatenate([flipped, looks[:, _PIXELS:]], axis=1)
