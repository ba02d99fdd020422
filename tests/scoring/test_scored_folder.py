"""A folder as it is scored: ids by names, names of its scores, MCD of perfect maps."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from panoptic_jax.data import geometry, loader
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.data.panoptic_png import from_maps
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.metrics import mcd
from panoptic_jax.scoring import against_truth, results, truth
from panoptic_jax.scoring import folder as folders
from panoptic_jax.scoring.score import Score, metrics_json


@pytest.fixture
def data(scenes):
    """The validation split of scenes, and its manifest."""
    return loader.Split(str(scenes), 'validation'), open_manifest(str(scenes))


def write_folder(path, split, categories, *, new_id, settings=None):
    """Writes the true maps of a split as others' pairs, whose category ids `new_id` gives."""
    for name in ('images', 'panoptic'):
        (path / name).mkdir(parents=True)
    captions, annotations = [], []
    for i in range(len(split)):
        ids = geometry.true_ids(split[i], 128, void_wins=False)
        colours, infos = from_maps(ids, np.zeros_like(ids), categories)
        Image.fromarray(colours).save(path / 'panoptic' / f'{i}.png')
        # No picture of one colour, and no picture twice.
        noise = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(noise).save(path / 'images' / f'{i}.png')
        infos = [info | {'category_id': new_id(info['category_id'])} for info in infos]
        annotations.append({'file_name': f'{i}.png', 'segments_info': infos})
        captions.append({'file_name': f'{i}.png', 'image_id': int(split[i]['image_id'])})
    listed = [
        {'id': new_id(entry.id), 'name': entry.name, 'isthing': int(entry.is_thing)}
        for entry in categories
    ]
    content = {'annotations': annotations, 'categories': listed}
    (path / 'panoptic.json').write_text(json.dumps(content))
    (path / 'captions.json').write_text(json.dumps(captions))
    if settings:
        (path / 'settings.json').write_text(json.dumps(settings))
    return path


def score_areas(path, data, **options):
    split, manifest = data
    folder = folders.of_others(str(path), manifest.categories)
    owners = truth.owners_of(folder.entries, split, 'validation')
    known = against_truth.Truth(split, 'validation', manifest, owners)
    return against_truth.score_areas(folder, known, **options)


@pytest.mark.parametrize(
    'new_id',
    [lambda number: number, lambda number: 1000 - number, lambda number: number - 1],
    ids=['ours', 'beyond a byte', 'from 0'],
)
def test_perfect_maps_have_an_mcd_of_zero_whatever_their_ids(tmp_path, data, new_id):
    split, manifest = data
    path = write_folder(tmp_path / 'theirs', split, manifest.categories.entries, new_id=new_id)
    (score,), pair_scores, left_out = score_areas(path, data)
    assert score.metric.value == 0
    assert (score.metric.name, left_out) == ('MCD', [])
    assert pair_scores == {'MCD': pytest.approx([0.0] * len(split), abs=1e-6)}


def test_maps_of_other_names_are_refused(tmp_path, data):
    split, manifest = data
    entries = [entry._replace(name=f'my {entry.name}') for entry in manifest.categories.entries]
    path = write_folder(tmp_path / 'theirs', split, entries, new_id=int)
    with pytest.raises(ValueError, match=r'panoptic\.json has categories that the prepared'):
        folders.of_others(str(path), manifest.categories)


def test_maps_that_were_given_have_no_mcd(tmp_path, data):
    split, manifest = data
    facts = {'model': {'given_map': True}, 'weights': 'step 3', 'ema': True, 'sample': {}}
    path = write_folder(
        tmp_path / 'run' / 'samples',
        split,
        manifest.categories.entries,
        new_id=int,
        settings=facts | {'map_size': 64},
    )
    assert score_areas(path, data) == ([], {}, ['MCD (the maps were given)'])
    folder = folders.of_others(str(path), manifest.categories)
    assert folder.facts['weights'] == 'step 3'
    assert folder.ids(0).shape == (64, 64)


def authors_distance(one, other, bins):
    """The MCD of the authors' code: counts of so many ids over the pixels."""
    counts = [np.bincount(ids.ravel(), minlength=256)[:bins] / ids.size for ids in (one, other)]
    return np.abs(counts[0] - counts[1]).sum()


@pytest.mark.parametrize('bins', [4, 95, 201])
def test_mcd_counts_as_many_ids_as_the_setting_says(tmp_path, data, bins):
    split, manifest = data
    path = write_folder(tmp_path / 'theirs', split, manifest.categories.entries, new_id=int)
    # Each picture gets the map of the next one.
    names = [entry['file_name'] for entry in json.loads((path / 'captions.json').read_text())]
    ids = [entry['image_id'] for entry in json.loads((path / 'captions.json').read_text())]
    turned = [
        {'file_name': n, 'image_id': i} for n, i in zip(names, ids[1:] + ids[:1], strict=True)
    ]
    (path / 'captions.json').write_text(json.dumps(turned))
    (score,), _, _ = score_areas(path, data, bins=bins)
    maps = [geometry.true_ids(split[i], 128, void_wins=False) for i in range(len(split))]
    pairs = zip(maps, maps[1:] + maps[:1], strict=True)
    expected = np.mean([authors_distance(one, other, bins) for one, other in pairs])
    assert score.metric.value == pytest.approx(expected)
    assert score.metric.name == f'MCD of {bins} ids'
    histograms = mcd.histograms(np.stack(maps), bins)
    assert score.metric.yardsticks['chance'] == mcd.chance(histograms)
    numbers = metrics_json([score], {'sample': {}, 'ema': False, 'weights': 'w'})
    assert numbers[f'MCD of {bins} ids']['label'] == f'MCD_of_{bins}_ids/{len(split)}'


# --- Names of what is written.


def folder_of(path, *, is_own):
    facts = {'weights': 'step 7', 'ema': False, 'sample': {}}
    return folders.Folder(path, SimpleNamespace(), facts, is_own, table=None)


def test_scores_of_several_folders_lie_side_by_side(tmp_path):
    cases = {
        '': folder_of(tmp_path / 'samples', is_own=True),
        '_figures': folder_of(tmp_path / 'figures', is_own=True),
        '_uvit_samples': folder_of(tmp_path / 'uvit' / 'samples', is_own=False),
        '_a-b_the-pairs': folder_of(tmp_path / 'a b' / 'the [pairs]', is_own=False),
    }
    assert [folder.suffix for folder in cases.values()] == [*cases]


def score_of(value, name='FID'):
    metric = SimpleNamespace(name=name, value=value, yardsticks={})
    return Score(metric, 3, 3)


def test_what_is_left_out_is_said_in_one_line(tmp_path, capsys):
    folder = folder_of(tmp_path / 'uvit' / 'samples', is_own=False)
    left_out = ['FID (no network)', 'MCD (no maps)']
    results.write(tmp_path, folder, [score_of(4.5)], pair_scores={}, left_out=left_out)
    assert capsys.readouterr().out.splitlines()[1:] == [
        'Left out: FID (no network); MCD (no maps).'
    ]
    numbers = json.loads((tmp_path / 'metrics_uvit_samples.json').read_text())
    assert numbers['FID']['value'] == 4.5
    assert numbers['FID']['folder'] == str(folder.path)
    assert (tmp_path / 'tensorboard' / 'evaluate_uvit_samples').is_dir()


def test_scores_of_another_folder_of_the_name_are_not_replaced_silently(tmp_path, caplog):
    said = []
    for base in ('a', 'b', 'b'):
        caplog.clear()
        folder = folder_of(tmp_path / base / 'uvit' / 'samples', is_own=False)
        results.write(tmp_path, folder, [score_of(4.5)], pair_scores={}, left_out=[])
        said.append([line for line in caplog.messages if 'which are replaced' in line])
    assert [len(lines) for lines in said] == [0, 1, 0]
    assert f'the scores of {tmp_path}/a/uvit/samples, which' in said[1][0]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_not_written(tmp_path, value):
    folder = folder_of(tmp_path / 'samples', is_own=False)
    with pytest.raises(ValueError, match=r'FID of 3 images is (nan|-?inf), which is no score'):
        results.write(tmp_path, folder, [score_of(value)], pair_scores={}, left_out=[])
    assert not [*tmp_path.glob('metrics*')]


def test_used_ids_are_those_of_the_segments(tmp_path, data):
    split, manifest = data
    path = write_folder(tmp_path / 'x', split, manifest.categories.entries, new_id=int)
    maps = [geometry.true_ids(split[i], 128, void_wins=False) for i in range(len(split))]
    assert Pairs(path).used_ids() == set(np.unique(maps).tolist()) - {0}
