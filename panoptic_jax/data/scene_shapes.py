"""What a scene's thing is, and its shapes as signed distances to their edges.

Distances are in units of the thing's size and negative inside the shape. x points right and y
points down. All shapes have the area pi, so a thing's size means the same for each of them.
`data/scene_layout.py` places and turns the shapes, and `data/scenes.py` paints them.
"""

from typing import NamedTuple

import numpy as np

SIZE = 256  # side of a scene, pixels


class Thing(NamedTuple):
    """One shape.

    Attributes:
      category: Id of the shape's category.
      colour: A name in `scene_words.THING_COLOURS`.
      centre: (y, x), pixels.
      size: Radius of a disc of the same area, pixels.
      angle: Rotation, radians.
    """

    category: int
    colour: str
    centre: tuple[float, float]
    size: float
    angle: float


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius = np.sqrt(x * x + y * y)
    return radius - 1


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.886


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # The two upper sides are mirror images, so one formula with |x| serves both.
    upper = 0.866 * np.abs(x) - 0.5 * y
    return np.maximum(upper, y) - 0.778


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mirrors the plane into the half wedge of one point, where the edge is a straight line."""
    x, y = np.abs(x), -y
    for normal_x, normal_y in ((0.809, -0.588), (-0.809, -0.588)):
        across = normal_x * x + normal_y * y
        beyond = 2 * np.maximum(across, 0)
        x = x - beyond * normal_x
        y = y - beyond * normal_y
    # Radii of the outer and the inner corners.
    tip = 1.462
    notch = 0.731
    edge_x = notch * 0.588
    edge_y = notch * 0.809 - tip
    length = np.hypot(edge_x, edge_y)
    along_x = np.abs(x) * (-edge_y / length)
    along_y = (y - tip) * (edge_x / length)
    return along_x + along_y


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius = np.sqrt(x * x + y * y)
    # 0.782 is the middle of the band, and 0.319 half its width.
    return np.abs(radius - 0.782) - 0.319


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    arms = np.maximum(x, y) - 1.154
    width = np.minimum(x, y) - 0.415
    return np.maximum(arms, width)


# {category id: function of (x, y)}.
DISTANCES = {1: _circle, 2: _square, 3: _triangle, 4: _star, 5: _ring, 6: _cross}
