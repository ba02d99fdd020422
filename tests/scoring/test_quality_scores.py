"""Rows of scores of single pairs: true maps reach their own yardsticks, others do not."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from panoptic_jax.data import geometry, loader
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.data.scenes import Scenes
from panoptic_jax.scoring import quality_scores, training_images
from panoptic_jax.scoring.against_truth import Truth
from panoptic_jax.scoring.truth import Owners


@pytest.fixture
def truth(config):
    split, manifest = loader.Split(config.data.dir, 'train'), open_manifest(config.data.dir)
    return Truth(split, 'train', manifest, Owners(indices=None, captions={}, lacking='none'))


def folder_of(truth, change=lambda category: category):
    """The true images and maps of a split as a folder of pairs, with maps that are changed."""
    source = Scenes(0, len(truth.split), 'train')
    records = [truth.split[index] for index in range(len(truth.split))]

    def segments(number):
        category, instance = geometry.true_segments(records[number], 64, truth.manifest.void_wins)
        return change(category), instance

    return SimpleNamespace(
        pairs=SimpleNamespace(has_maps=True),
        given_map=False,
        suffix='_own',
        entries=[
            {'file_name': f'{number}.png', 'caption': record['captions'][0]}
            for number, record in enumerate(records)
        ],
        image=lambda number: source[number].image,
        ids=lambda number: segments(number)[0],
        segments=segments,
    )


def rows_of(truth, folder, target, **given):
    measures = quality_scores.measures_of(truth.manifest, synonyms='')
    rows = quality_scores.score_quality(folder, truth, target, measures=measures, **given)
    return {row.metric.name: row for row in rows}


def test_true_pairs_reach_the_yardsticks(truth, tmp_path):
    rows = rows_of(truth, folder_of(truth), tmp_path)
    assert list(rows) == [
        'void_share', 'crumb_share', 'captioned_share', 'things_per_image', 'category_distance',
    ]  # fmt: skip
    for name, row in rows.items():
        assert (row.count, row.yardstick_count) == (len(truth.split), len(truth.split))
        if name != 'category_distance':
            assert row.metric.value == pytest.approx(row.metric.yardsticks['true maps'])
            assert row.metric.low <= row.metric.value <= row.metric.high
    assert rows['captioned_share'].metric.value == 1
    assert rows['category_distance'].metric.value == pytest.approx(0, abs=1e-9)
    content = json.loads((tmp_path / 'quality_own.json').read_text())
    assert content['scores']['agreement']['mean'] > 0.9
    assert content['reference']['scores']['captioned']['mean'] == 1
    lines = (tmp_path / 'scores_own.jsonl').read_text().splitlines()
    assert len(lines) == len(truth.split)


def test_wrong_maps_do_not(truth, tmp_path):
    generator = np.random.default_rng(0)

    def specks(category):
        # Single pixels of one thing, and a corner of void.
        changed = np.where(generator.random(category.shape) < 0.1, np.uint8(4), category)
        changed[:16, :16] = 0
        return changed

    rows = rows_of(truth, folder_of(truth, specks), tmp_path)
    assert rows['void_share'].metric.value == pytest.approx(1 / 16)
    assert (
        rows['crumb_share'].metric.value > 0.05 > rows['crumb_share'].metric.yardsticks['true maps']
    )
    assert rows['category_distance'].metric.value > 0.1


def test_maps_that_were_given_and_pairs_without_maps_have_no_rows(truth, tmp_path):
    for changed in ({'given_map': True}, {'pairs': SimpleNamespace(has_maps=False)}):
        folder = SimpleNamespace(**vars(folder_of(truth)) | changed)
        assert rows_of(truth, folder, tmp_path) == {}
    assert not list(tmp_path.iterdir())


def test_training_images_are_nearest_to_themselves(truth, tmp_path):
    source, ids = Scenes(0, len(truth.split), 'train'), truth.split.image_ids()
    images = training_images.read(source, ids, tmp_path / 'reference')
    row = rows_of(truth, folder_of(truth), tmp_path / 'run', images=images)['near_copies']
    assert row.metric.value == 1
    lines = (tmp_path / 'run' / 'scores_own.jsonl').read_text().splitlines()
    assert [json.loads(line)['nearest']['image'] for line in lines] == ids
