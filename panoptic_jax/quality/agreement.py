"""How far an image and its map say the same, as a second reading of the image can tell.

Scenes have an oracle that reads their images. Otherwise the second reading is the map that the same
weights draw for the finished image (`sample.given='image'`), which the job supplies.
"""

import numpy as np

from panoptic_jax.data import scene_oracle, scene_words
from panoptic_jax.metrics import semantic


def by_scene(image: np.ndarray, category: np.ndarray, caption: str) -> float | None:
    """The share of cells where a scene's image and map agree, see `scene_oracle.score`.

    Args:
      image: (256, 256, 3) uint8.
      category: (h, h) uint8 ids, where h is a multiple of 32.
      caption: What the pair was drawn from.

    Returns:
      0 to 1; None for a caption that is in other words than those of scenes, or another size.
    """
    height, width = category.shape
    if image.shape != (256, 256, 3) or height != width or height % scene_oracle.GRID:
        return None
    try:
        scene_words.parse(caption)
    except ValueError:
        return None
    return scene_oracle.agreement(image, category, caption)


def of_maps(category: np.ndarray, again: np.ndarray) -> dict[str, float]:
    """How far two maps of one image agree, where the first one is the pair's own.

    'agreement' is the share of pixels with one category, of those where neither map is void; 0
    where one is void throughout. 'iou' is the mean intersection over union of the categories, of
    the same pixels: small things weigh as much as the sky.

    Args:
      category: (h, w) uint8 ids.
      again: The same of the second map.
    """
    both_known = (category != 0) & (again != 0)
    counts = semantic.confusion(category[both_known], again[both_known])
    return {'agreement': semantic.pixel_accuracy(counts), 'iou': semantic.mean_iou(counts)}
