"""Figures like those of the paper: captions side by side, and below them what each run drew.

    python -m panoptic_jax.export.grids runs/a/samples runs/b/samples --numbers=0,3,8 --output=f.png
    python -m panoptic_jax.export.grids runs/a/samples --colours --output=colours.png

The first command gives the layout of Figures 1 and 4 to 8, the second one Figure 9. The page of a
samples folder is drawn in `export/report.py`.
"""

import argparse
import io
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

# Sizes in pixels.
_SIDE, _GAP = 256, 6
_LABEL_WIDTH, _LINE_HEIGHT = 120, 16
_STEP = _SIDE + _GAP
_ENTRY_WIDTH, _ENTRY_HEIGHT = 230, 20


def figure(rows: Sequence[tuple[str, Sequence[np.ndarray]]], captions: Sequence[str]) -> np.ndarray:
    """Rows of images or painted maps with their labels, one column for each caption.

    Args:
      rows: Each row is a label and n arrays (H, W, 3) uint8, whose central squares become 256 px.
      captions: n captions, which stand above the columns.

    Returns:
      (H, W, 3) uint8.
    """
    # An empty caption still takes one line.
    wrapped = [textwrap.wrap(caption, 38) or [''] for caption in captions]
    top = _GAP + _LINE_HEIGHT * max(map(len, wrapped)) + _GAP
    width = _LABEL_WIDTH + _STEP * len(captions)
    height = top + _STEP * len(rows)
    canvas = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(canvas)
    # Pillow brings this font along, so figures look alike on every machine.
    font = ImageFont.load_default(14)

    def write(lines: Sequence[str], left: int, top: int) -> None:
        for number, line in enumerate(lines):
            place = (left, top + number * _LINE_HEIGHT)
            draw.text(place, line, fill='black', font=font)

    for column, lines in enumerate(wrapped):
        write(lines, left=_LABEL_WIDTH + column * _STEP, top=_GAP)
    for row, (label, arrays) in enumerate(rows):
        row_top = top + row * _STEP
        write(textwrap.wrap(label, 15), left=_GAP, top=row_top)
        for column, array in enumerate(arrays):
            square = Image.fromarray(array[geometry.central_square(array)])
            # Smoothing would mix two colours of a map into the colour of a third category.
            large = square.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            canvas.paste(large, (_LABEL_WIDTH + column * _STEP, row_top))
    return np.asarray(canvas)


def colour_map(entries: Sequence[Category], columns: int = 5) -> np.ndarray:
    """The name of each category beside its colour (Figure 9).

    Args:
      entries: The categories, in any order. Void is put before them.
      columns: Number of columns, which are filled one after the other.

    Returns:
      (H, W, 3) uint8.
    """
    void = Category(id=0, name='void', is_thing=False)
    shown = [void, *sorted(entries)]
    rows = -(-len(shown) // columns)  # rounded up
    canvas = Image.new('RGB', (columns * _ENTRY_WIDTH, rows * _ENTRY_HEIGHT), 'white')
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    palette = categories.palette()
    for number, category in enumerate(shown):
        column, row = divmod(number, rows)
        left = column * _ENTRY_WIDTH
        top = row * _ENTRY_HEIGHT
        colour = tuple(palette[category.id].tolist())
        draw.rectangle((left + 2, top + 2, left + 30, top + _ENTRY_HEIGHT - 3), fill=colour)
        text = f'{category.id} {category.name}'
        draw.text((left + 36, top + 2), text, fill='black', font=font)
    return np.asarray(canvas)


def rows_of(
    folders: Sequence[str], numbers: Sequence[int] | None, count: int
) -> tuple[list[tuple[str, list[np.ndarray]]], list[str]]:
    """A row of images for each samples folder, and a row of its maps where it has maps.

    Args:
      folders: Samples folders with the same captions at the same numbers.
      numbers: Numbers of the pairs; None or none for the first `count`.
      count: How many pairs without `numbers`.

    Returns:
      Rows and captions for `figure`.

    Raises:
      FileNotFoundError, ValueError: a folder has too few pairs, or other captions than the first.
    """
    rows = []
    captions = None
    for folder in folders:
        pairs = Pairs(folder)
        own_numbers = list(numbers or range(min(count, len(pairs))))
        # Refused before the first image is read.
        outside = [number for number in own_numbers if number >= len(pairs)]
        if outside:
            raise ValueError(f'{folder} has {len(pairs)} pairs, and none of number {outside[0]}.')
        own_captions = [pairs.entries[number].get('caption', '') for number in own_numbers]
        # A column is one caption, whichever run draws it.
        if captions not in (None, own_captions):
            raise ValueError(
                f'{folder} has other captions than {folders[0]}; sample both with the same '
                'sample.prompts, or the same split and seed.'
            )
        captions = own_captions
        # Most runs call this folder 'samples', so the run gives the label.
        path = epath.Path(folder)
        name = path.parent.name if path.name == 'samples' else f'{path.parent.name}/{path.name}'
        images = [pairs.image(number) for number in own_numbers]
        rows.append((str(name), images))
        if pairs.has_maps:
            maps = [categories.colour(pairs.ids(number)) for number in own_numbers]
            rows.append((f'{name}, maps', maps))
    return rows, captions


def main(argv: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
      The exit code: 0, or 1 where the folders cannot be shown.
    """
    parser = argparse.ArgumentParser(prog='python -m panoptic_jax.export.grids')
    parser.add_argument('folders', nargs='+', help='samples folders, of the same captions')
    parser.add_argument('--output', required=True, help='PNG file')
    parser.add_argument('--numbers', help='pairs to show, such as 0,3,8')
    parser.add_argument('--count', type=int, default=6, help='pairs to show, the first ones')
    parser.add_argument('--colours', action='store_true', help='the categories and their colours')
    arguments = parser.parse_args(argv)
    try:
        if arguments.colours:
            array = colour_map(_listed_categories(arguments.folders[0]))
        else:
            texts = (arguments.numbers or '').split(',')
            numbers = [int(text) for text in texts if text]
            rows, captions = rows_of(arguments.folders, numbers, arguments.count)
            array = figure(rows, captions)
    # What a user can put right needs no traceback.
    except (FileNotFoundError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    content = io.BytesIO()
    Image.fromarray(array).save(content, format='PNG')
    epath.Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(arguments.output, content.getvalue())
    print(arguments.output)
    return 0


def _listed_categories(folder: str) -> list[Category]:
    """The categories that a samples folder's panoptic.json lists."""
    pairs = Pairs(folder)
    if not pairs.has_maps:
        raise FileNotFoundError(f'{folder} has no panoptic JSON, which lists the categories.')
    return [*pairs.categories]


if __name__ == '__main__':
    sys.exit(main())
