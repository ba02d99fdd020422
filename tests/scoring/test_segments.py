"""Panoptic quality as scores: maps against a split, and what folders say of their things."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sample_folders
from conftest import tiny_config
from etils import epath

from panoptic_jax import prepare
from panoptic_jax.data import geometry, instances, loader
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.diffusion import bits, codes
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.metrics import pq
from panoptic_jax.programs import things
from panoptic_jax.programs.sampler import Drawn
from panoptic_jax.scoring import segments

SIDE = 64


@pytest.fixture(scope='module')
def data(scenes):
    """The validation split of scenes, its manifest, and the ids of things."""
    manifest = open_manifest(str(scenes))
    thing_ids = frozenset(c.id for c in manifest.categories.entries if c.is_thing)
    return loader.Split(str(scenes), 'validation'), manifest, thing_ids


@pytest.fixture(scope='module')
def truth(data):
    split, manifest, _ = data
    return [geometry.true_segments(record, SIDE, manifest.void_wins) for record in split]


def values(scores):
    return {score.metric.name: score.metric.value for score in scores}


def test_true_maps_have_quality_one_and_others_less(data, truth):
    split, manifest, _ = data
    order = list(range(len(split)))
    scores = segments.score_segments(truth, order, split, manifest)
    assert {score.metric.name for score in scores} == {
        f'{name}{group}' for name in ('PQ', 'SQ', 'RQ') for group in ('', '_things', '_stuff')
    }
    assert set(values(scores).values()) == {1.0}
    for score in scores:
        assert score.count == score.yardstick_count == len(split)
        assert 0 <= score.metric.yardsticks['floor'] < 1
    # The next image's maps are the floor itself.
    shifted = segments.score_segments(
        lambda i: truth[i], [*order[-1:], *order[:-1]], split, manifest
    )
    floors = {score.metric.name: score.metric.yardsticks['floor'] for score in scores}
    assert values(shifted) == pytest.approx(floors)
    assert floors['PQ_things'] < 0.3


def test_the_second_yardstick_is_what_connected_areas_reach(data, truth):
    split, manifest, thing_ids = data
    areas = [instances.separate(category, thing_ids=thing_ids) for category, _ in truth]
    scores = segments.score_segments(areas, range(len(split)), split, manifest)
    for score in scores:
        assert score.metric.value == pytest.approx(score.metric.yardsticks['connected areas'])
        assert score.metric.value == score.metric.yardsticks['own areas']


def test_the_third_yardstick_is_what_the_same_maps_reach_without_codes(tmp_path):
    """On scenes whose things touch, so that areas are fewer than things."""
    config = tiny_config(tmp_path / 'repeats')
    config.data.repeats = True
    prepare.prepare(config)
    split = loader.Split(config.data.dir, 'validation')
    manifest = open_manifest(config.data.dir)
    truth = [geometry.true_segments(record, SIDE, manifest.void_wins) for record in split]
    scores = segments.score_segments(truth, range(len(split)), split, manifest)
    of_things = next(score.metric for score in scores if score.metric.name == 'PQ_things')
    assert of_things.value == 1
    assert of_things.yardsticks['own areas'] == of_things.yardsticks['connected areas'] < 0.95


def test_groups_that_no_image_has_are_left_out(data, truth):
    _, _, thing_ids = data
    bare = [(np.where(instance, 0, category), 0 * instance) for category, instance in truth]
    own = segments.tally(bare, bare, len(bare), thing_ids=thing_ids)
    scores = segments.scores_of(own, {'floor': own}, thing_ids=thing_ids, against='Against itself')
    assert {score.metric.name for score in scores} == {
        'PQ',
        'SQ',
        'RQ',
        'PQ_stuff',
        'SQ_stuff',
        'RQ_stuff',
    }
    assert scores[0].metric.reading == 'Against itself: SQ times RQ, mean of the categories.'


def test_codes_make_the_things_of_true_maps(data, truth):
    """From records to bits and back: what training draws and what sampling reads fit together."""
    _, manifest, thing_ids = data
    ids, numbers = (np.stack(each) for each in zip(*truth, strict=True))
    drawn = codes.draw(jnp.asarray(numbers), jax.random.key(0))
    code_values = 0.3 * bits.ids_to_bits(drawn)
    entries = manifest.categories.entries
    given = Drawn(jnp.zeros(len(ids)), jnp.asarray(ids), code_values)
    found = things.of_drawn(given, entries, min_area=0.0005)
    counts = pq.none()
    for row, pair in enumerate(truth):
        counts = pq.added(counts, pq.count(pair, (found[0][row], found[1][row]), thing_ids))
    assert pq.qualities(counts, thing_ids)['all'].pq > 0.999
    without = things.of_drawn(given._replace(code_values=None), entries, min_area=0.002)
    for row, category in enumerate(ids):
        expected = instances.separate(category, thing_ids=thing_ids, min_area=0.002)
        np.testing.assert_array_equal(without[0][row], expected[0])
        np.testing.assert_array_equal(without[1][row], expected[1])
    assert things.of_drawn(Drawn(given.latents, None), entries, min_area=0.1) == (None, None)


@pytest.mark.parametrize('has_instances', [True, False])
def test_a_folder_keeps_the_things_that_were_drawn(tmp_path, data, truth, has_instances):
    _, manifest, thing_ids = data
    rng = np.random.default_rng(0)
    count = 3
    ids, numbers = (np.stack(each[:count]) for each in zip(*truth, strict=True))
    # Halves of a thing that lie apart, and two that touch, are what only instances can say.
    ids[:, 20:40, 20:40] = min(thing_ids)
    numbers = instances.of_batch(ids, thing_ids=thing_ids)[1]
    numbers[:, 20:40, 20:24] = numbers[:, 20:40, 36:40] = numbers.max() + 1
    numbers = np.where(np.isin(ids, list(thing_ids)), numbers, 0)
    images = rng.integers(0, 256, (count, 256, 256, 3), np.uint8)
    folder = epath.Path(tmp_path)
    own = numbers if has_instances else None
    sample_folders.write(
        folder, manifest.categories, ['a'] * count, images=images, ids=ids, instances=own
    )
    pairs = Pairs(folder, map_side=SIDE)
    for row in range(count):
        category, found = pairs.segments(row)
        np.testing.assert_array_equal(category, ids[row])
        np.testing.assert_array_equal(pairs.ids(row), ids[row])
        expected = numbers[row]
        if not has_instances:
            expected = instances.separate(ids[row], thing_ids=thing_ids)[1]
        # The reader numbers things anew, by size.
        both = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
        assert len(both[0]) == len(np.unique(found)) == len(np.unique(expected))
