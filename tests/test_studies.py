"""What studies/usefulness.py measures with; the study itself takes an hour."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from panoptic_jax.data.scenes import Scenes

PATH = Path(__file__).parents[1] / 'studies' / 'usefulness.py'
CATEGORIES = Scenes(0, 1, 'train').categories
IDS = np.array([category.id for category in CATEGORIES], np.uint8)
THINGS = {category.id for category in CATEGORIES if category.is_thing}


@pytest.fixture(scope='module')
def usefulness():
    spec = importlib.util.spec_from_file_location('usefulness', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Told:
    """A segmenter that says what it is told, in the place of looking."""

    def __init__(self, labels):
        self.labels = labels

    def apply(self, variables, images):
        return np.eye(len(IDS))[self.labels]


def test_scores_of_perfect_and_of_wrong_maps(usefulness):
    images, maps = usefulness.true_scenes(8, 'validation')
    assert images.shape == (8, 64, 64, 3)
    assert -1 <= images.min() < -0.5 < 0.5 < images.max() <= 1
    labels = np.searchsorted(IDS, maps)
    assert (IDS[labels] == maps).all()

    def scores(told):
        network = Told(told)
        return usefulness.scores_of(network, {}, (images, maps), ids=IDS, thing_ids=THINGS)

    assert scores(labels) == {'mIoU': 1.0, 'PQ': 1.0, 'PQ_things': 1.0}
    wrong = scores(np.roll(labels, 1, axis=0))
    assert max(wrong.values()) < 0.5


def test_a_segmenter_learns_what_it_sees(usefulness):
    images, maps = usefulness.true_scenes(4, 'train')
    labels = np.searchsorted(IDS, maps)
    network, params = usefulness.train(images, labels, len(IDS), seed=0, steps=60)
    found = np.asarray(network.apply({'params': params}, images)).argmax(-1)
    assert (found == labels).mean() > 0.8


def test_each_condition_trains_on_what_it_says(usefulness):
    rng = np.random.default_rng(0)
    true = rng.normal(size=(3, 4, 4, 3)), rng.integers(0, 9, (3, 4, 4))
    images, maps = rng.normal(size=(12, 4, 4, 3)), rng.integers(0, 9, (12, 4, 4))
    passes = np.arange(12) % 2 == 0
    generated = images, maps, passes

    others = images[:5], maps[:5], np.ones(5, bool)

    found = {
        name: usefulness.data_of(name, true, generated, others)
        for name in usefulness.OWN + usefulness.OTHERS
    }
    assert {name: len(own) for name, (own, _) in found.items()} == {
        'true': 3,
        'true and mirrored': 6,
        'generated': 12,
        'filtered': 6,
        'filtered and true': 12,  # six that pass, and twice three true ones
        'others': 5,
        'others and true': 8,
    }
    np.testing.assert_array_equal(found['others'][1], maps[:5])
    np.testing.assert_array_equal(found['filtered'][1], maps[passes])
    np.testing.assert_array_equal(found['true and mirrored'][1][3:], true[1][:, :, ::-1])
    for own, labels in found.values():
        assert len(own) == len(labels)


def test_the_table_has_means_and_deviations(usefulness):
    row = {'scenes': 64, 'condition': 'both', 'pictures': 512, 'PQ': 0.5, 'PQ_things': 0.25}
    lines = usefulness.table([row | {'mIoU': 0.5}, row | {'mIoU': 0.75}]).splitlines()
    assert lines[2] == '| 64 | both | 512 | 0.625 ± 0.125 | 0.500 ± 0.000 | 0.250 ± 0.000 |'
    assert len({line.count('|') for line in lines}) == 1
