"""Figures: what lies where, which folders go together, and the command line."""

import json

import numpy as np
from etils import epath
from PIL import Image

from panoptic_jax.data import categories
from panoptic_jax.data.example import Category
from panoptic_jax.export import grids, samples

LIST = [Category(1, 'person', True), Category(7, 'train', True), Category(187, 'sky', False)]


def make(path, seed, captions=('a red ball', 'a blue train'), maps=True):
    """A samples folder of random pairs."""
    rng = np.random.default_rng(seed)
    path = epath.Path(path)
    samples.begin(path, {'seed': seed})
    images = rng.integers(0, 256, (len(captions), 256, 256, 3), np.uint8)
    ids = rng.choice(np.array([0, 1, 7, 187], np.uint8), (len(captions), 64, 64)) if maps else None
    samples.write_part(path, 0, [{'caption': c} for c in captions], images, ids, LIST)
    samples.finish(path, LIST)
    return images, ids


def test_rows_are_runs_and_columns_captions(tmp_path, capsys):
    images, ids = make(tmp_path / 'run' / 'samples', 0)
    others, _ = make(tmp_path / 'uvit' / 'samples', 1, maps=False)
    folders = [str(tmp_path / name / 'samples') for name in ('uvit', 'run')]
    output = tmp_path / 'new' / 'figure.png'
    assert grids.main([*folders, '--numbers=1,0', f'--output={output}']) == 0
    assert capsys.readouterr().out.strip() == str(output)
    picture = np.asarray(Image.open(output))
    step, top = 262, picture.shape[0] - 3 * 262
    assert picture.shape[1] == 120 + 2 * step

    def cell(row, column):
        left = 120 + column * step
        return picture[top + row * step :, left:][:256, :256]

    np.testing.assert_array_equal(cell(0, 0), others[1])
    np.testing.assert_array_equal(cell(1, 1), images[0])
    large = ids[1].repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(cell(2, 0), categories.colour(large))
    assert (picture[:top, 120:] < 100).any()  # captions are written
    assert (picture[top:, :120] < 100).any()  # and labels


def test_folders_that_do_not_go_together_are_refused(tmp_path, capsys):
    make(tmp_path / 'a', 0)
    make(tmp_path / 'b', 0, captions=('a red ball', 'another train'))
    output = str(tmp_path / 'figure.png')
    for arguments, message in (
        (['a', 'b'], 'has other captions than'),
        (['a', '--numbers=2'], 'has 2 pairs, and none of number 2'),
        (['nowhere'], 'has no folder images/'),
    ):
        given = [a if a.startswith('--') else str(tmp_path / a) for a in arguments]
        assert grids.main([*given, f'--output={output}']) == 1
        assert message in capsys.readouterr().err
    assert (
        grids.main([str(tmp_path / 'a'), str(tmp_path / 'b'), '--count=1', '--output', output]) == 0
    )


def test_colour_map_shows_every_category(tmp_path):
    picture = grids.colour_map(categories.COCO)
    for number in [0, *(category.id for category in categories.COCO)]:
        shown = (picture == categories.palette()[number]).all(axis=-1).sum()
        assert shown > 300, number
    make(tmp_path / 'a', 0)
    output = tmp_path / 'colours.png'
    assert grids.main([str(tmp_path / 'a'), '--colours', f'--output={output}']) == 0
    assert json.loads((tmp_path / 'a' / 'panoptic.json').read_text())['categories'][2]['id'] == 187
    found = {tuple(c) for c in np.asarray(Image.open(output)).reshape(-1, 3).tolist()}
    assert {tuple(categories.palette()[c.id].tolist()) for c in LIST} <= found
