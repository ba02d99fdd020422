"""Figures like the paper's: captions side by side, below each what one or several runs made of it.

    python -m panoptic_jax.export.grids runs/a/samples runs/b/samples --numbers=0,3,8 --output=f.png
    python -m panoptic_jax.export.grids runs/a/samples --colours --output=colours.png

The first is the layout of Figures 1 and 4 to 8, the second Figure 9. The page of a samples folder
is `report.py`'s.
"""

import argparse
import io
import json
import sys
import textwrap
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from panoptic_jax.data import categories, geometry
from panoptic_jax.data.example import Category
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.machine import files

_SIDE, _GAP, _LABEL, _LINE = 256, 6, 120, 16  # px


def figure(rows: Sequence[tuple[str, Sequence[np.ndarray]]], captions: Sequence[str]) -> np.ndarray:
    """Labelled rows of pictures, a column per caption.

    Args:
      rows: (label, n pictures (H, W, 3) uint8), whose central squares become 256 px.
      captions: n, written above the columns.

    Returns:
      (H, W, 3) uint8.
    """
    lines = [textwrap.wrap(caption, 38) or [''] for caption in captions]
    top = _GAP + _LINE * max(map(len, lines)) + _GAP
    step = _SIDE + _GAP
    size = (_LABEL + step * len(captions), top + step * len(rows))
    canvas = Image.new('RGB', size, 'white')
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for column, own in enumerate(lines):
        for number, line in enumerate(own):
            place = (_LABEL + column * step, _GAP + number * _LINE)
            draw.text(place, line, fill='black', font=font)
    for row, (label, pictures) in enumerate(rows):
        for number, line in enumerate(textwrap.wrap(label, 15)):
            draw.text((_GAP, top + row * step + number * _LINE), line, fill='black', font=font)
        for column, picture in enumerate(pictures):
            square = Image.fromarray(picture[geometry.central_square(picture)])
            large = square.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            canvas.paste(large, (_LABEL + column * step, top + row * step))
    return np.asarray(canvas)


def colour_map(listed: Sequence[Category], columns: int = 5) -> np.ndarray:
    """Every category's name beside its colour, void first (Figure 9): (H, W, 3) uint8."""
    entries = [Category(0, 'void', False), *sorted(listed)]
    rows, width, height = -(-len(entries) // columns), 230, 20
    canvas = Image.new('RGB', (columns * width, rows * height), 'white')
    draw, font, palette = ImageDraw.Draw(canvas), ImageFont.load_default(13), categories.palette()
    for number, category in enumerate(entries):
        left, top = number // rows * width, number % rows * height
        colour = tuple(palette[category.id].tolist())
        draw.rectangle((left + 2, top + 2, left + 30, top + height - 3), fill=colour)
        text = f'{category.id} {category.name}'
        draw.text((left + 36, top + 2), text, fill='black', font=font)
    return np.asarray(canvas)


def rows_of(
    folders: Sequence[str], numbers: Sequence[int] | None, count: int
) -> tuple[list[tuple[str, list[np.ndarray]]], list[str]]:
    """A row of images, and where there are maps one of them, for each samples folder.

    Args:
      folders: With the same captions at the same numbers.
      numbers: Which pairs; None: the first `count`.
      count: How many, without `numbers`.

    Returns:
      Rows and captions for `figure`.

    Raises:
      FileNotFoundError, ValueError: too few pairs, or other captions in another folder.
    """
    rows, captions = [], None
    for folder in folders:
        pairs = Pairs(folder)
        chosen = list(numbers or range(min(count, len(pairs))))
        if outside := [number for number in chosen if number >= len(pairs)]:
            raise ValueError(f'{folder} has {len(pairs)} pairs, and none of number {outside[0]}.')
        own = [pairs.entries[number].get('caption', '') for number in chosen]
        if captions not in (None, own):
            raise ValueError(
                f'{folder} has other captions than {folders[0]}; sample both with the same '
                'sample.prompts, or the same split and seed.'
            )
        captions = own
        name = epath.Path(folder).parent.name if epath.Path(folder).name == 'samples' else folder
        rows.append((str(name), [pairs.image(number) for number in chosen]))
        if pairs.has_maps:
            maps = [categories.colour(pairs.ids(number)) for number in chosen]
            rows.append((f'{name}, maps', maps))
    return rows, captions


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m panoptic_jax.export.grids')
    parser.add_argument('folders', nargs='+', help='samples folders, of the same captions')
    parser.add_argument('--output', required=True, help='PNG file')
    parser.add_argument('--numbers', help='pairs to show, such as 0,3,8')
    parser.add_argument('--count', type=int, default=6, help='pairs to show, the first ones')
    parser.add_argument('--colours', action='store_true', help='the categories and their colours')
    arguments = parser.parse_args(argv)
    try:
        if arguments.colours:
            content = json.loads((epath.Path(arguments.folders[0]) / 'panoptic.json').read_text())
            listed = [Category(c['id'], c['name'], c['isthing']) for c in content['categories']]
            picture = colour_map(listed)
        else:
            numbers = [int(number) for number in (arguments.numbers or '').split(',') if number]
            picture = figure(*rows_of(arguments.folders, numbers, arguments.count))
    except (FileNotFoundError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format='PNG')
    epath.Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(arguments.output, content.getvalue())
    print(arguments.output)
    return 0


if __name__ == '__main__':
    sys.exit(main())
