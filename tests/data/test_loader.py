"""The loader: order, captions, resume and shares of a batch, on a folder of numbered records."""

import itertools
import json
import multiprocessing

import numpy as np
import pytest
from absl import flags

from panoptic_jax.data import loader, manifest, shards
from panoptic_jax.data.manifest import check_manifest, open_manifest

COUNT = 24
CAPTIONS = [1 + i % 4 for i in range(COUNT)]  # image i has this many
FIRST = [sum(CAPTIONS[:i]) for i in range(COUNT)]
PER_SHARD = 10


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Latents hold the image's number, texts the caption's; 3 shards of 10, 10 and 4 images."""
    directory = str(tmp_path_factory.mktemp('data'))
    starts = range(0, COUNT, PER_SHARD)
    lengths = {
        'image_shards': [min(PER_SHARD, COUNT - start) for start in starts],
        'caption_shards': [sum(CAPTIONS[start : start + PER_SHARD]) for start in starts],
    }
    manifest.begin(directory, plan := make_plan(lengths))
    images = [
        {
            'latents': np.full((2, 2, 3), i, np.float16),
            'category': np.full((4, 4), i, np.uint8),
            'instance': np.full((4, 4), 2 * i, np.uint8),
            'image_id': 1000 + i,
            'first_caption': FIRST[i],
            'num_captions': CAPTIONS[i],
        }
        for i in range(COUNT)
    ]
    captions = [
        {'text': np.full((3, 5), k, np.float16), 'caption': f'Caption {k}', 'image_id': 1000 + i}
        for i in range(COUNT)
        for k in range(FIRST[i], FIRST[i] + CAPTIONS[i])
    ]
    for dataset, features, records, key in (
        ('images', shards.image_features((2, 2, 3), False, 4), images, 'image_shards'),
        ('captions', shards.caption_features(3, 5), captions, 'caption_shards'),
    ):
        ends = np.cumsum(lengths[key])
        for index, end in enumerate(ends):
            path = shards.shard_path(directory, dataset, 'train', index, len(ends))
            shards.write_shard(path, features, records[end - lengths[key][index] : end])
    manifest.finish(directory, plan)
    return directory


def make_plan(lengths: dict) -> dict:
    return {
        'format': manifest.FORMAT,
        'map_size': 4,
        'void_wins': False,
        'autoencoder': {'name': 'pixels', 'latent_shape': [2, 2, 3], 'has_variance': False},
        'text': {'name': 'words', 'tokens': 3, 'features': 5},
        'splits': {'train': {'images': COUNT, 'captions': sum(CAPTIONS), **lengths}},
        'fingerprint': 'abc',
    }


def take(batches: loader.TrainBatches, count: int) -> list[dict]:
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def numbers(batch: dict) -> list[int]:
    """Of the images in a batch; checks that a row's fields belong together."""
    images = batch['latents'][:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(batch['category'][:, 0, 0], images)
    np.testing.assert_array_equal(batch['instance'][:, 0, 0], 2 * images)
    return images.tolist()


def test_batch_has_the_promised_arrays(data_dir):
    (batch,) = take(loader.train_batches(data_dir, 'train', 6, seed=0), 1)
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        'latents': ((6, 2, 2, 3), 'float16'),
        'category': ((6, 4, 4), 'uint8'),
        'instance': ((6, 4, 4), 'uint8'),
        'text': ((6, 3, 5), 'float16'),
    }


def test_every_epoch_is_a_new_permutation(data_dir):
    batches = take(loader.train_batches(data_dir, 'train', 6, seed=0), 12)
    epochs = [list(itertools.chain(*map(numbers, batches[i : i + 4]))) for i in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != list(range(COUNT))
    other = take(loader.train_batches(data_dir, 'train', 6, seed=1), 4)
    assert list(itertools.chain(*map(numbers, other))) != epochs[0]


def test_captions_are_the_images_own_and_all_are_drawn(data_dir):
    drawn = {i: set() for i in range(COUNT)}
    for batch in take(loader.train_batches(data_dir, 'train', 8, seed=0), 75):
        for image, text in zip(numbers(batch), batch['text'][:, 0, 0].astype(int), strict=True):
            drawn[image].add(int(text) - FIRST[image])
    assert drawn == {i: set(range(CAPTIONS[i])) for i in range(COUNT)}


def test_two_processes_share_the_batches_of_one(data_dir):
    whole = take(loader.train_batches(data_dir, 'train', 10, seed=3), 7)
    shares = [
        take(loader.train_batches(data_dir, 'train', 10, 3, process_index=p, process_count=2), 7)
        for p in (0, 1)
    ]
    for one, first, second in zip(whole, *shares, strict=True):
        for name in one:
            assert len(first[name]) == 5
            np.testing.assert_array_equal(one[name], np.concatenate([first[name], second[name]]))


def test_resume_is_exact_on_any_number_of_processes(data_dir):
    batches = loader.train_batches(data_dir, 'train', 10, seed=3)
    for _ in range(4):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    assert state == {'position': 40}
    expected = take(batches, 3)
    resumed = [
        loader.train_batches(data_dir, 'train', 10, 3, process_index=p, process_count=2)
        for p in (0, 1)
    ]
    next(resumed[0])  # a position that set_state must replace
    for iterator in resumed:
        iterator.set_state(state)
    found = [take(iterator, 3) for iterator in resumed]
    for one, first, second in zip(expected, *found, strict=True):
        np.testing.assert_array_equal(one['text'], np.concatenate([first['text'], second['text']]))
    assert numbers(expected[0]) == numbers(found[0][0]) + numbers(found[1][0])


def test_resume_with_another_batch_size_neither_repeats_nor_skips(data_dir):
    batches = loader.train_batches(data_dir, 'train', 4, seed=0)
    seen = [numbers(next(batches)) for _ in range(2)]
    state = batches.get_state()
    batches.close()
    larger = loader.train_batches(data_dir, 'train', 8, seed=0)
    larger.set_state(state)
    seen += map(numbers, take(larger, 2))
    assert sorted(itertools.chain(*seen)) == list(range(COUNT))


def test_worker_processes_give_the_same_batches(data_dir):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks for a flag of its own
    plain = take(loader.train_batches(data_dir, 'train', 6, seed=0), 3)
    workers = take(loader.train_batches(data_dir, 'train', 6, seed=0, workers=1), 3)
    assert not multiprocessing.active_children()
    for one, other in zip(plain, workers, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_split_gives_an_image_with_all_its_captions(data_dir):
    split = loader.Split(data_dir, 'train')
    assert len(split) == COUNT
    record = split[15]  # in the second shard
    assert sorted(record) == ['captions', 'category', 'image_id', 'instance', 'latents', 'texts']
    assert record['image_id'] == 1015
    indices = range(FIRST[15], FIRST[15] + CAPTIONS[15])
    assert record['captions'] == [f'Caption {k}' for k in indices]
    np.testing.assert_array_equal(record['texts'][:, 2, 4], list(indices))
    assert len(list(split)) == COUNT


def test_unfit_requests_are_refused(data_dir, tmp_path):
    with pytest.raises(ValueError, match=r"have no split 'test', only 'train'"):
        loader.Split(data_dir, 'test')
    with pytest.raises(ValueError, match='batch_size is 5, which 2 processes cannot share'):
        loader.train_batches(data_dir, 'train', 5, 0, process_count=2)
    with pytest.raises(FileNotFoundError, match=r'has no manifest\.json; run --mode=prepare'):
        loader.Split(str(tmp_path), 'train')
    manifest.begin(str(tmp_path), make_plan({}))
    with pytest.raises(FileNotFoundError, match='whose preparation has not finished'):
        open_manifest(str(tmp_path))
    (tmp_path / 'manifest.json').write_text(json.dumps({'format': 99}))
    with pytest.raises(ValueError, match='has format 99, but this version reads'):
        open_manifest(str(tmp_path))


def test_data_that_do_not_fit_the_config_are_refused(data_dir):
    found = open_manifest(data_dir)
    fitting = {'autoencoder': 'pixels', 'text': 'words', 'text_tokens': 3, 'text_features': 5}
    check_manifest(found, **fitting, void_wins=False)
    with pytest.raises(ValueError, match='do not fit') as refusal:
        check_manifest(found, **{**fitting, 'autoencoder': 'taesd', 'text_tokens': 77})
    assert "data.autoencoder is 'taesd' but the data have 'pixels'" in str(refusal.value)
    assert 'data.text_tokens is 77 but the data have 3' in str(refusal.value)
    assert 'text_features' not in str(refusal.value)
