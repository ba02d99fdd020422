"""Weights of the package by name: which there are, and what comes before them."""

import os

import numpy as np
import pytest

from panoptic_jax import pipeline
from panoptic_jax.machine import shipped
from panoptic_jax.weights import file as weights_file

MOST_BYTES = 25e6  # of all weights in the package


def test_a_name_is_found_and_others_are_not():
    assert 'scenes/joint' in shipped.names()
    for name in shipped.names():
        assert os.path.isfile(shipped.path_of(name))
    for other in ('', 'scenes', 'scenes/', 'scenes/nothing', '../scenes/joint', 'gs://a/b', '/a/b'):
        assert shipped.path_of(other) == ''


def test_a_path_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'scenes' / 'joint'
    path.parent.mkdir()
    path.write_bytes(b'mine')
    assert shipped.path_of('scenes/joint') == ''
    with pytest.raises(ValueError, match='scenes/joint is not a weights file'):
        weights_file.load('scenes/joint')


def test_the_weights_are_small_and_each_has_a_card():
    assert sum(os.path.getsize(shipped.path_of(name)) for name in shipped.names()) < MOST_BYTES
    for name in shipped.names():
        card = shipped.FOLDER / f'{name}.md'
        assert '## Known faults' in card.read_text()


@pytest.mark.parametrize('name', sorted(set(shipped.names()) - {'scenes/decoder'}))
def test_each_network_draws(name):
    draw = pipeline.load(name, 'scenes/decoder', evaluations=2, guidance=0.0)
    images, maps = draw(['a red circle on sand under a night sky'] * 2)
    assert images.shape == (2, 256, 256, 3)
    assert images.std(axis=(1, 2, 3)).min() > 5
    assert np.abs(images[0].astype(float) - images[1]).mean() > 1  # each has noise of its own
    assert (maps is None) == (name == 'scenes/uvit')
    if maps is not None:
        assert maps.shape == (2, 64, 64)
        assert all(len(np.unique(map_)) > 1 for map_ in maps)


def test_a_missing_name_is_one_sentence():
    with pytest.raises(FileNotFoundError, match=r'scenes/nothing, and none .*scenes/joint'):
        weights_file.load('scenes/nothing')
