"""Preparations that are cut short, doubled, damaged or old: nothing is lost or kept quiet."""
# ruff: noqa: F811 - fixtures of another file

import json
import os
import resource
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from test_prepare import contents, make_config, prepared  # noqa: F401 - fixtures

from panoptic_jax import prepare
from panoptic_jax.data import loader, scenes
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.machine.interruption import Interrupted, Interruption
from panoptic_jax.machine.writer_lock import writing
from panoptic_jax.preparation import claim, shard_files

IMAGES = 'images/1.0.0/images-train.array_record-00002-of-00004'
CAPTIONS = 'captions/1.0.0/captions-validation.array_record-00000-of-00001'


@pytest.fixture
def copy(prepared, tmp_path):
    """A finished folder of this test's own, whose name is a pattern to many tools."""
    return shutil.copytree(prepared, tmp_path / 'my [0:2] data*? ü')


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def lengthen(path):
    path.write_bytes(path.read_bytes() + bytes(65536))


def empty(path):
    path.write_bytes(b'')


def delete(path):
    path.unlink()


DAMAGES = [
    *((name, how) for name in (IMAGES, CAPTIONS) for how in (delete, cut, empty, lengthen)),
    ('images/1.0.0/features.json', delete),
    ('captions/1.0.0/dataset_info.json', cut),
    ('empty_text.npy', delete),
    ('empty_text.npy', cut),
]


@pytest.mark.parametrize(('name', 'how'), DAMAGES)
def test_what_is_missing_or_cut_in_a_finished_folder_is_made_again(prepared, copy, name, how):
    how(copy / name)
    prepare.prepare(make_config(copy))
    assert contents(copy) == contents(prepared)


def test_nothing_else_is_made_again(copy):
    (copy / IMAGES).unlink()
    others = [path for path in copy.rglob('*array_record*') if 'train' not in path.name]
    before = {path: path.stat().st_mtime_ns for path in others}
    prepare.prepare(make_config(copy))
    assert {path: path.stat().st_mtime_ns for path in others} == before


def test_a_shard_of_an_unfinished_folder_that_was_cut_is_made_again(prepared, copy):
    unfinish(copy)
    cut(copy / IMAGES)
    prepare.prepare(make_config(copy))
    assert contents(copy) == contents(prepared)


def unfinish(folder):
    """Makes a finished folder one whose preparation was killed."""
    manifest = json.loads((folder / 'manifest.json').read_text())
    manifest.pop('shard_bytes')
    (folder / 'prepare.json').write_text(json.dumps(manifest))
    (folder / 'manifest.json').unlink()


@pytest.fixture
def old(copy):
    """A folder as earlier releases left it: no folder of a version, and no sizes of shards."""
    for dataset in ('images', 'captions'):
        for path in [*(copy / dataset / '1.0.0').iterdir()]:
            path.rename(copy / dataset / path.name)
        (copy / dataset / '1.0.0').rmdir()
    manifest = json.loads((copy / 'manifest.json').read_text())
    del manifest['version'], manifest['shard_bytes']
    (copy / 'manifest.json').write_text(json.dumps(manifest))
    return copy


def test_older_folders_are_read(prepared, old):
    found, expected = (loader.Split(str(folder), 'train') for folder in (old, prepared))
    for i in (0, 10):
        np.testing.assert_array_equal(found[i]['latents'], expected[i]['latents'])


def test_older_folders_are_finished_where_they_lie(prepared, old):
    shard = old / IMAGES.replace('1.0.0/', '')
    before = shard.read_bytes()
    assert claim.is_complete(str(old), open_manifest(str(prepared)))
    shutil.copyfile(old / 'manifest.json', old / 'prepare.json')
    (old / 'manifest.json').unlink()
    shard.unlink()
    prepare.prepare(make_config(old))
    assert shard.read_bytes() == before
    assert not (old / 'images' / '1.0.0').exists()


def test_odd_names_of_folders_are_no_patterns(copy):
    batches = loader.train_batches(loader.Split(str(copy), 'train'), batch_size=4, seed=0)
    assert next(batches)['latents'].shape == (4, 32, 32, 3)
    batches.close()


def test_a_folder_that_another_job_prepares_is_left_alone(tmp_path):
    with writing(tmp_path / 'data', 'preparation'):
        with pytest.raises(ValueError, match='Another preparation'):
            prepare.prepare(make_config(tmp_path / 'data'))
        assert [path.name for path in (tmp_path / 'data').iterdir()] == ['writer.lock']


def test_a_finished_folder_needs_no_lock(copy):
    with writing(copy, 'preparation'):
        prepare.prepare(make_config(copy))


def test_leftovers_of_a_kill_are_removed(prepared, copy):
    (copy / 'manifest.json.01234567.tmp').write_text('{')
    (copy / f'{IMAGES}.01234567.tmp').write_text('half')
    unfinish(copy)
    prepare.prepare(make_config(copy))
    assert contents(copy) == contents(prepared)


def unfinished_files(folder):
    return [*folder.rglob('*.tmp')]


@pytest.mark.parametrize(('patience', 'kept'), [(60, 2), (0, 1)])
def test_an_interruption_comes_after_the_shard_or_the_batch(
    prepared,
    tmp_path,
    monkeypatch,
    patience,
    kept,
):
    """The signal comes with the second of four shards; a shard that takes long is dropped."""
    monkeypatch.setattr(prepare, '_SECONDS_FOR_THE_SHARD', patience)
    get, config = scenes.Scenes.__getitem__, make_config(tmp_path / 'data')

    def tell(self, i):
        if i == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return get(self, i)

    with monkeypatch.context() as patch, Interruption() as interruption:
        patch.setattr(scenes.Scenes, '__getitem__', tell)
        with pytest.raises(Interrupted):
            prepare.prepare(config, interruption=interruption)
    manifest = claim.begin(config.data.dir, open_manifest(str(prepared)))
    assert len(shard_files.present(config.data.dir, manifest)) == kept
    assert not unfinished_files(tmp_path)
    prepare.prepare(config)
    assert contents(tmp_path / 'data') == contents(prepared)


def test_a_refusing_disk_leaves_nothing_and_the_work_goes_on_later(prepared, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ValueError, match=r'captions-train\S*-of-00004 is larger than its disk'):
            prepare.prepare(make_config(tmp_path / 'data'))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not unfinished_files(tmp_path)
    prepare.prepare(make_config(tmp_path / 'data'))
    assert contents(tmp_path / 'data') == contents(prepared)


@pytest.fixture
def spoil(monkeypatch):
    """spoil(encoder, number): puts a number into what 'autoencoder' or 'text' gives."""
    load = prepare._load_encoders

    def change(name, number):
        def load_spoilt(data, devices):
            encoders = load(data, devices)
            good = getattr(encoders, name)

            def encode(values):
                encoded = np.array(good.encode(values))
                encoded.flat[-1] = number
                return encoded

            bad = SimpleNamespace(facts=good.facts, encode=encode)
            return encoders._replace(**{name: bad})

        monkeypatch.setattr(prepare, '_load_encoders', load_spoilt)

    return change


@pytest.mark.parametrize('number', [np.nan, np.inf, -1e5])
def test_images_whose_latents_are_not_finite_are_named(tmp_path, spoil, number):
    spoil('autoencoder', number)
    message = r'The autoencoder gives latents with 1 of 3072 .* for image \d+ of train'
    with pytest.raises(ValueError, match=message):
        prepare.prepare(make_config(tmp_path / 'data'))
    assert not [*tmp_path.rglob('*array_record*')]


def test_texts_whose_features_are_not_finite_stop_before_anything_is_written(tmp_path, spoil):
    spoil('text', np.nan)
    with pytest.raises(ValueError, match=r'text encoder gives .* for the empty caption; check'):
        prepare.prepare(make_config(tmp_path / 'data'))
    assert not (tmp_path / 'data').exists()


def test_captions_whose_features_are_not_finite_are_named(tmp_path, spoil, monkeypatch):
    spoil('text', np.nan)
    monkeypatch.setattr(prepare, 'require_finite', lambda *of_the_empty_caption: None)
    with pytest.raises(ValueError, match=r'for caption .* of image \d+ of train; check'):
        prepare.prepare(make_config(tmp_path / 'data'))


@pytest.mark.parametrize('numbers', ['{', '[]', '{"fingerprint": 3}', '{"format": 1}'])
def test_a_damaged_manifest_is_named(copy, numbers):
    (copy / 'manifest.json').write_text(numbers)
    with pytest.raises(ValueError, match=r'manifest\.json is|prepared differently'):
        prepare.prepare(make_config(copy))
    with pytest.raises(ValueError, match=r'manifest\.json (is damaged|has format)'):
        open_manifest(str(copy))


def test_the_room_that_is_asked_for_is_what_the_shards_take(prepared):
    manifest = open_manifest(str(prepared))
    size = sum(shard_files.sizes_on_disk(str(prepared), manifest).values())
    estimate = shard_files.bytes_of(manifest, shard_files.all_shards(manifest))
    assert estimate == pytest.approx(size, rel=0.02)
