"""Pairs for the tests of the page: grass above two balls that touch."""

import functools
import io

import numpy as np
from PIL import Image

from panoptic_jax.data.example import Category
from panoptic_jax.export import report
from panoptic_jax.export.page_pair import PagePair

CATEGORIES = (
    Category(id=1, name='ball <round>', is_thing=True),
    Category(id=92, name='grass', is_thing=False),
)
CAPTION = '</script><script>window.hacked = 1</script><b>&amp;</b> a "ball" \u2028 <!--'


@functools.cache
def png(number):
    """A PNG file of noise, 16 x 16."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, 'PNG')
    return content.getvalue()


def pair_of(number, **changes):
    """A pair of 8 x 8 pixels: grass over two balls side by side; every fourth has void instead."""
    category = np.full((8, 8), 92, np.uint8)
    instance = np.zeros((8, 8), np.uint8)
    category[4:] = 1
    instance[4:, :4], instance[4:, 4:] = 1, 2
    if number % 4 == 3:
        category[:4] = 0
    pair = PagePair(
        id=f'{number:04d}',
        caption=f'number {number} of the balls',
        image=png(number % 8),
        category=category,
        instance=instance,
        provenance={'seed': number, 'request': '<i>3</i>'},
    )
    return pair._replace(**changes)


def write(path, pairs, *, metrics=(), log_lines=(), heading=None):
    """Writes a page."""
    report.write_report(
        path,
        pairs=pairs,
        categories=CATEGORIES,
        metrics=metrics,
        log_lines=log_lines,
        heading=heading or report.Heading('Balls', {}, lower_is_better=('MCD',)),
    )
