"""Figures: what lies where, which folders go together, and the command line."""

import json

import numpy as np
import pytest
import sample_folders
from etils import epath
from PIL import Image

from panoptic_jax.data import categories
from panoptic_jax.data.example import Category
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.export import grids

LIST = [
    Category(id=1, name='person', is_thing=True),
    Category(id=7, name='train', is_thing=True),
    Category(id=187, name='sky', is_thing=False),
]
CATEGORIES = CategoryList(tuple(LIST), (1, 7, 187))
STEP = 262  # from one image to the next, in pixels
LABEL_WIDTH = 120


def make_samples(path, seed, captions=('a red ball', 'a blue train'), maps=True):
    """Writes a samples folder of random pairs and returns their images and ids."""
    rng = np.random.default_rng(seed)
    path = epath.Path(path)
    images = rng.integers(0, 256, (len(captions), 256, 256, 3), np.uint8)
    codes = np.array([0, 1, 7, 187], np.uint8)
    ids = rng.choice(codes, (len(captions), 64, 64)) if maps else None
    sample_folders.write(path, CATEGORIES, captions, images=images, ids=ids, seed=seed)
    return images, ids


def read_pixels(path):
    return np.asarray(Image.open(path))


@pytest.fixture(name='drawn')
def _drawn(tmp_path, capsys):
    """A figure of a U-ViT's and a PDM's folder: its pixels, both folders' content, the output."""
    images, ids = make_samples(tmp_path / 'run' / 'samples', 0)
    others, _ = make_samples(tmp_path / 'uvit' / 'samples', 1, maps=False)
    folders = [str(tmp_path / name / 'samples') for name in ('uvit', 'run')]
    output = tmp_path / 'new' / 'figure.png'
    assert grids.main([*folders, '--numbers=1,0', f'--output={output}']) == 0
    assert capsys.readouterr().out.strip() == str(output)
    return read_pixels(output), images, ids, others


def test_rows_are_runs_and_columns_captions(drawn):
    pixels, images, ids, others = drawn
    top = pixels.shape[0] - 3 * STEP
    assert pixels.shape[1] == LABEL_WIDTH + 2 * STEP

    def cell(row, column):
        left = LABEL_WIDTH + column * STEP
        return pixels[top + row * STEP :, left:][:256, :256]

    np.testing.assert_array_equal(cell(0, 0), others[1])
    np.testing.assert_array_equal(cell(1, 1), images[0])
    large = ids[1].repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(cell(2, 0), categories.colour(large))


def test_captions_and_labels_are_written(drawn):
    pixels = drawn[0]
    top = pixels.shape[0] - 3 * STEP
    captions, labels = pixels[:top, LABEL_WIDTH:], pixels[top:, :LABEL_WIDTH]
    assert (captions < 100).any()
    assert (labels < 100).any()


@pytest.fixture(name='unlike')
def _unlike(tmp_path):
    """A folder with the folders a and b, whose second captions differ."""
    make_samples(tmp_path / 'a', 0)
    make_samples(tmp_path / 'b', 0, captions=('a red ball', 'another train'))
    return tmp_path


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['a', 'b'], 'has other captions than'),
        (['a', '--numbers=2'], 'has 2 pairs, and none of number 2'),
        (['nowhere'], 'has no folder images/'),
    ],
)
def test_folders_that_do_not_go_together_are_refused(unlike, capsys, arguments, message):
    paths = [a if a.startswith('--') else str(unlike / a) for a in arguments]
    assert grids.main([*paths, f'--output={unlike / "figure.png"}']) == 1
    assert message in capsys.readouterr().err


def test_only_captions_that_are_shown_must_be_the_same(unlike):
    folders = [str(unlike / 'a'), str(unlike / 'b')]
    assert grids.main([*folders, '--count=1', '--output', str(unlike / 'figure.png')]) == 0


def test_colour_map_shows_every_category():
    pixels = grids.colour_map(categories.COCO)
    for number in [0, *(category.id for category in categories.COCO)]:
        shown = (pixels == categories.palette()[number]).all(axis=-1).sum()
        assert shown > 300, number


def test_colour_map_of_a_folder_shows_its_own_categories(tmp_path):
    make_samples(tmp_path / 'a', 0)
    output = tmp_path / 'colours.png'
    assert grids.main([str(tmp_path / 'a'), '--colours', f'--output={output}']) == 0
    content = json.loads((tmp_path / 'a' / 'annotations' / 'panoptic_generated.json').read_text())
    assert content['categories'][2]['id'] == 187
    colours = {tuple(colour) for colour in read_pixels(output).reshape(-1, 3).tolist()}
    assert {tuple(categories.palette()[category.id].tolist()) for category in LIST} <= colours
