"""Scores of a preview: known answers for true, shuffled and void pairs of scenes."""

import numpy as np
import pytest
from conftest import described, tiny_config

from panoptic_jax.data import geometry, loader, scene_oracle
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.metrics import mcd
from panoptic_jax.scoring import preview_scores


@pytest.fixture(scope='module')
def pairs(scenes):
    """(images, maps, captions, yardsticks) of the true held-out pairs."""
    split = loader.Split(scenes, 'validation')
    records = [split[number] for number in range(len(split))]
    autoencoder = load_autoencoder('pixels', '')
    images = autoencoder.decode(np.stack([geometry.true_latents(record) for record in records]))
    maps = np.stack([geometry.true_ids(record, 64, False) for record in records])
    captions = [record['captions'][0] for record in records]
    return images, maps, captions, preview_scores.yardsticks_of(split, side=64, void_wins=False)


def truth(pairs, **changes):
    _, maps, captions, yardsticks = pairs
    given = {'compares_maps': True, 'is_scenes': True} | changes
    return preview_scores.Truth(captions, maps, yardsticks=yardsticks, **given)


def test_true_pairs_score_best_and_shuffled_ones_as_chance(pairs):
    images, maps, captions, yardsticks = pairs
    best = preview_scores.score(images, maps, truth(pairs))
    read = scene_oracle.score(list(images), list(maps), captions)
    assert best == {
        'preview/mcd': 0.0,
        'preview/mcd_normalised': mcd.normalised(
            0.0, chance=yardsticks.chance, floor=yardsticks.same_caption
        ),
        **{f'preview/{name}': value for name, value in read.items()},
    }
    assert best[preview_scores.AGREEMENT] > 0.9
    assert best['preview/mcd_normalised'] <= 0
    shuffled = preview_scores.score(images, np.roll(maps, 1, axis=0), truth(pairs))
    assert shuffled[preview_scores.AGREEMENT] < 0.5
    assert 0.5 < shuffled['preview/mcd_normalised'] < 1.5


def test_given_maps_have_no_mcd_and_other_data_no_readings(pairs):
    images, maps, _, _ = pairs
    given = preview_scores.score(images, maps, truth(pairs, compares_maps=False))
    assert preview_scores.AGREEMENT in given
    assert not [name for name in given if 'mcd' in name]
    others = preview_scores.score(images, maps, truth(pairs, is_scenes=False))
    assert others.keys() == {'preview/mcd', 'preview/mcd_normalised'}


def test_normalised_mcd_is_0_at_the_floor_and_1_at_chance():
    rng = np.random.default_rng(4)
    floor, chance = sorted(rng.random(2))
    assert mcd.normalised(floor, chance=chance, floor=floor) == pytest.approx(0)
    assert mcd.normalised(chance, chance=chance, floor=floor) == pytest.approx(1)
    assert mcd.normalised(chance / 2, chance=chance, floor=None) == pytest.approx(0.5)
    assert mcd.normalised(floor, chance=floor, floor=chance) is None


def test_names_are_those_of_a_model(scenes):
    manifest = open_manifest(scenes)
    config = tiny_config(scenes)
    names = [preview_scores.MCD, preview_scores.AGREEMENT]
    assert preview_scores.names_of(described(config), manifest) == names
    config.model.given_map = True
    assert preview_scores.names_of(described(config), manifest) == names[1:]
    config.model.update(name='uvit', given_map=False)
    assert preview_scores.names_of(described(config), manifest) == []
