"""A pair on the report page: image and map side by side, the caption, and the categories' shares.

Everything is HTML text with the pictures inside. `export/report.py` puts the cards on the page, and
`export/report.css` holds their colours and fonts.
"""

import base64
import html
import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from panoptic_jax.data import categories

_CHIPS = 10  # categories named under a map; the legend sums up the others


class Pair(NamedTuple):
    """A generated image with its map.

    Attributes:
      image: (H, W, 3) uint8.
      category: (h, w) uint8 ids, 0 for void; the page shows the map as large as the image.
      caption: What both were generated from.
      note: A few words beside the caption, such as 'MCD 0.21'.
    """

    image: np.ndarray
    category: np.ndarray
    caption: str
    note: str = ''


def card(pair: Pair, names: Mapping[int, str]) -> str:
    """The <figure> of a pair: image, map, caption and legend.

    The map lies a second time over the image, where the page's slider makes it visible.

    Args:
      pair: The pair.
      names: {category id: its name}.
    """
    image = _png(Image.fromarray(pair.image))
    painted_map = _png(_painted(pair.category))
    bar, chips = _legend(pair.category, names)
    note = f'<small>{html.escape(pair.note)}</small>' if pair.note else ''
    return (
        '<figure class="card panel"><div class="pair">'
        f'<div class="frame"><img src="{image}" alt="Generated image">'
        f'<img class="ids over" src="{painted_map}" alt=""></div>'
        f'<img class="ids" src="{painted_map}" alt="Generated segmentation map"></div>'
        f'<div class="shares" aria-hidden="true">{bar}</div><figcaption>'
        f'<p class="caption">{html.escape(pair.caption)}{note}</p><ul class="chips">{chips}</ul>'
        '</figcaption></figure>\n'
    )


def _legend(category: np.ndarray, names: Mapping[int, str]) -> tuple[str, str]:
    """A bar of the categories' shares of a map, and their names, the largest first."""
    numbers, counts = np.unique(category, return_counts=True)
    # A stable sort keeps categories of equal size in the order of their ids.
    order = np.argsort(-counts, kind='stable')
    shares = [(int(numbers[i]), counts[i] / category.size) for i in order]
    bar = ''.join(
        f'<i style="background:{_colour(number)};flex:{share:.5f}"></i>' for number, share in shares
    )
    chips = []
    for number, share in shares[:_CHIPS]:
        # Nothing keeps a foreign map from holding ids that its list lacks.
        name = names.get(number, f'id {number}')
        chips.append(
            f'<li><i style="background:{_colour(number)}"></i>'
            f'{html.escape(name)} <span>{_percent(share)}</span></li>'
        )
    others = [share for _, share in shares[_CHIPS:]]
    if others:
        chips.append(f'<li><span>{len(others)} more {_percent(sum(others))}</span></li>')
    return bar, ''.join(chips)


def _painted(category: np.ndarray) -> Image.Image:
    """A map as an image with a palette: the ids stay readable and the file is small."""
    painted = Image.fromarray(category)
    painted.putpalette(categories.palette().tobytes())
    return painted


def _png(image: Image.Image) -> str:
    """The data URL of a PNG file."""
    content = io.BytesIO()
    image.save(content, 'PNG')  # optimize=True saves 4 % and takes seven times as long
    return 'data:image/png;base64,' + base64.b64encode(content.getvalue()).decode('ascii')


def _colour(number: int) -> str:
    """The colour of a category as HTML writes it, such as '#ff8000'."""
    return '#' + categories.palette()[number].tobytes().hex()


def _percent(share: float) -> str:
    # '0 %' would deny what the map shows.
    return f'{100 * share:.0f} %' if share >= 0.01 else '&lt;1 %'
