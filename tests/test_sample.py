"""Sampling jobs and their evaluation: restarts, what a pair depends on, formats, refusals."""

import dataclasses
import json
import shutil

import ml_collections
import numpy as np
import one_device
import pytest
from conftest import described, random_parameters
from PIL import Image

from panoptic_jax import config as settings
from panoptic_jax import export_weights, sample
from panoptic_jax.data import geometry, loader
from panoptic_jax.export import samples
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.machine import sharding
from panoptic_jax.programs.sampler import Sampling
from panoptic_jax.scoring import preview
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import trained as trained_weights


@pytest.fixture
def run(trained, tmp_path):
    """(workdir, config) of the trained run's checkpoints, in a folder of this test's own."""
    workdir = tmp_path / 'run'
    workdir.mkdir()
    (workdir / 'checkpoints').symlink_to(trained[0] / 'checkpoints')
    shutil.copy(trained[0] / 'metrics.jsonl', workdir)
    return workdir, ml_collections.ConfigDict(trained[1].to_dict())


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def read_maps(folder):
    found = Pairs(folder, map_side=64)
    return np.stack([found.ids(i) for i in range(len(found))])


def picture(path):
    return np.asarray(Image.open(path)).astype(int)


def test_job_goes_on_after_a_kill_and_gives_the_same_bytes(run, sampled, monkeypatch):
    workdir, config = run
    folder = workdir / 'samples'
    expected = contents(sampled)
    numbers = [f'{i:08d}.png' for i in range(6)]
    assert sorted(expected) == sorted(
        [f'images/{name}' for name in numbers]
        + [f'panoptic/{name}' for name in numbers]
        + ['captions.json', 'panoptic.json', 'report.html', 'settings.json']
    )

    write_json = samples.files.write_json

    def killed(path, content):
        if path.name == '00000004.json':  # the second batch's pictures are there, its marker not
            raise KeyboardInterrupt
        write_json(path, content)

    monkeypatch.setattr(samples.files, 'write_json', killed)
    with pytest.raises(KeyboardInterrupt):
        one_device.sample(config, workdir)
    assert (folder / 'images' / '00000005.png').exists()
    assert not (folder / 'captions.json').exists()
    (folder / 'images' / '00000005.png').write_bytes(b'half')
    first = (folder / 'images' / '00000000.png').stat().st_mtime_ns
    monkeypatch.setattr(samples.files, 'write_json', write_json)
    one_device.sample(config, workdir)
    found = contents(folder)
    found.pop('report.html'), expected.pop('report.html')  # has this workdir's loss curve
    assert found == expected
    assert (folder / 'images' / '00000000.png').stat().st_mtime_ns == first

    times = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    one_device.sample(config, workdir)  # finished: nothing is done again
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == times
    config.sample.guidance = 2.0
    with pytest.raises(
        ValueError, match=r'samples of other settings \(sample\.guidance: 1\.0 there, 2\.0 now\)'
    ):
        one_device.sample(config, workdir)


def test_pairs_do_not_depend_on_their_batch(run, sampled):
    workdir, config = run
    config.sample.batch_size = 6
    one_device.sample(config, workdir)
    one, two = sampled, workdir / 'samples'
    assert (one / 'captions.json').read_text() == (two / 'captions.json').read_text()
    pictures = [picture(one / 'images' / f'{i:08d}.png') for i in range(6)]
    for i in range(6):
        same = picture(two / 'images' / f'{i:08d}.png')
        assert np.abs(pictures[i] - same).max() <= 1  # another batch size sums in another order
        assert np.abs(pictures[i] - pictures[i - 1]).max() > 10
    maps = [read_maps(folder) for folder in (one, two)]
    assert np.mean(maps[0] != maps[1]) < 1e-3


def test_folder_has_the_promised_format(sampled, config):
    folder = sampled
    captions = json.loads((folder / 'captions.json').read_text())
    split = loader.Split(config.data.dir, 'validation')
    assert [entry['id'] for entry in captions] == list(range(6))
    for i, entry in enumerate(captions):
        assert entry['record'] == i
        assert entry['image_id'] == split[i]['image_id']
        assert entry['caption'] in split[i]['captions']
    panoptic = json.loads((folder / 'panoptic.json').read_text())
    assert panoptic.keys() == {'images', 'annotations', 'categories'}
    valid = {category['id'] for category in panoptic['categories']}
    found = Pairs(folder, map_side=64)
    maps = [found.ids(i) for i in range(6)]
    assert {ids.shape for ids in maps} == {(64, 64)}
    assert {found.image(i).shape for i in range(6)} == {(256, 256, 3)}
    for annotation, ids in zip(panoptic['annotations'], maps, strict=True):
        found = {segment['category_id'] for segment in annotation['segments_info']}
        assert found <= valid
        assert found == set(np.unique(ids)) - {0}
        areas = sum(segment['area'] for segment in annotation['segments_info'])
        assert areas == 16 * (ids > 0).sum()


def test_prompts_are_a_path_or_a_text(config, tmp_path):
    description = described(config)
    config.sample.count = 5
    config.sample.prompts = 'a red ball; and a\tblue one'
    assert sample.requests(config, description) == [{'caption': config.sample.prompts}] * 5
    path = tmp_path / 'prompts.txt'
    path.write_text('first prompt\n\n  second prompt  \nthird prompt')
    config.sample.prompts = str(path)
    found = [request['caption'] for request in sample.requests(config, description)]
    assert found == [f'{n} prompt' for n in ('first', 'second', 'third', 'first', 'second')]
    path.write_text('\n \n')
    with pytest.raises(ValueError, match='holds no prompt'):
        sample.requests(config, description)
    config.sample.prompts = 'word ' * 2000  # longer than any path
    assert len(sample.requests(config, description)) == 5


def test_captions_of_a_split_are_drawn_by_seed_and_number(config):
    description = described(config)
    config.sample.count = 20
    first = sample.requests(config, description)
    assert [request['record'] for request in first] == [i % 8 for i in range(20)]
    assert sample.requests(config, description) == first
    config.sample.count = 7
    assert sample.requests(config, description) == first[:7]
    config.sample.seed = 1
    assert sample.requests(config, description) != first[:7]
    pairs = [(first[i]['caption'], first[i + 8]['caption']) for i in range(8)]
    assert any(one != two for one, two in pairs)  # the same picture, another caption


def test_exported_weights_sample_as_the_checkpoint(run, sampled, tmp_path):
    workdir, config = run
    export_weights.export_weights(config, str(workdir))
    config.sample.weights = str(workdir / 'weights.safetensors')
    other = tmp_path / 'other'
    one_device.sample(config, other)
    for name in ('images', 'panoptic'):
        assert contents(sampled / name) == contents(other / 'samples' / name)
    # With prompts a weights file needs nothing else: no data, no checkpoint.
    config.sample.prompts = 'a red ball on sand'
    config.data.dir = str(tmp_path / 'nowhere')
    third = tmp_path / 'third'
    one_device.sample(config, third)
    captions = json.loads((third / 'samples' / 'captions.json').read_text())
    assert captions[5] == {'id': 5, 'file_name': '00000005.png', 'caption': 'a red ball on sand'}
    pictures = [picture(third / 'samples' / 'images' / f'{i:08d}.png') for i in range(6)]
    assert np.abs(pictures[0] - pictures[1]).max() > 10  # the same prompt, other noise


def name_of_weights(config, workdir):
    """The name of what a job in `workdir` would sample with."""
    _, name = trained_weights.for_sampling(
        str(workdir),
        weights_path=config.sample.weights,
        ema=config.sample.ema,
        data_dir=config.data.dir,
    )
    return name


def test_a_checkpoint_comes_before_a_weights_file_beside_it(run):
    workdir, config = run
    export_weights.export_weights(config, str(workdir))
    assert name_of_weights(config, workdir) == 'step 12'
    (workdir / 'checkpoints').unlink()
    (workdir / 'checkpoints' / '00000004.orbax-checkpoint-tmp').mkdir(parents=True)
    assert name_of_weights(config, workdir).startswith('weights.safetensors ')


def save_fresh(config, path, **model):
    """Writes random weights of a model."""
    config.model.update(model)
    description = described(config)
    weights = weights_file.Weights(
        random_parameters(description), loader.empty_text(config.data.dir), description
    )
    weights_file.save(str(path), weights)
    config.sample.weights = str(path)


def test_given_maps_are_the_pictures_own(config, tmp_path):
    save_fresh(config, tmp_path / 'weights.safetensors', name='two_stream', given_map=True)
    one_device.sample(config, tmp_path)
    maps = read_maps(tmp_path / 'samples')
    split = loader.Split(config.data.dir, 'validation')
    for i in range(6):
        np.testing.assert_array_equal(maps[i], geometry.true_ids(split[i], 64, void_wins=False))
    config.sample.prompts = 'a red ball'
    with pytest.raises(ValueError, match='needs a map beside each caption'):
        sample.requests(config, described(config))


def test_model_without_maps_gives_images_alone(config, tmp_path):
    save_fresh(config, tmp_path / 'weights.safetensors', name='uvit')
    one_device.sample(config, tmp_path)
    found = {path.name for path in (tmp_path / 'samples').iterdir()}
    assert found == {'images', 'captions.json', 'settings.json'}
    params, _, description = weights_file.load(config.sample.weights)
    shown = preview.open_data(
        description, data_dir=config.data.dir, cache='', autoencoder_weights='', count=4
    )
    draw = preview.make_preview(
        description,
        Sampling(**settings.sampling(config)),
        data=shown,
        mesh=sharding.make_mesh(),
        fused_attention=True,
    )
    pictures, scores = draw(params)
    assert pictures['preview'].shape == (4, 256, 256, 3)
    assert scores == {}


def test_encoders_other_than_the_models_are_refused(config, tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_fresh(config, path)
    params, empty_text, description = weights_file.load(str(path))
    text = dataclasses.replace(description.text, sha256='e' * 64)
    other = dataclasses.replace(description, text=text)
    weights_file.save(str(path), weights_file.Weights(params, empty_text, other))
    with pytest.raises(ValueError, match=r"text encoder 'words' at hand has hash \w{12}"):
        one_device.sample(config, tmp_path)
    assert not (tmp_path / 'samples').exists()
