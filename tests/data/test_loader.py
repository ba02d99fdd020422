"""The loader: order, captions, resume and shares of a batch, on a folder of numbered records."""

import itertools
import json
import multiprocessing

import numpy as np
import pytest

from panoptic_jax.data import loader, manifest, shards
from panoptic_jax.data.facts import AutoencoderFacts, CategoryList, TextFacts
from panoptic_jax.preparation import claim

COUNT = 24
CAPTIONS = [1 + i % 4 for i in range(COUNT)]  # image i has this many
FIRST = [sum(CAPTIONS[:i]) for i in range(COUNT)]
PER_SHARD = 10
STARTS = range(0, COUNT, PER_SHARD)
SIZES = manifest.SplitSizes(
    images=COUNT,
    captions=sum(CAPTIONS),
    image_shards=tuple(min(PER_SHARD, COUNT - start) for start in STARTS),
    caption_shards=tuple(sum(CAPTIONS[start : start + PER_SHARD]) for start in STARTS),
)
MANIFEST = manifest.Manifest(
    source={},
    images_per_shard=PER_SHARD,
    stored_map_side=4,
    void_wins=False,
    autoencoder=AutoencoderFacts(
        name='pixels', latent_shape=(2, 2, 3), scale=1.0, has_variance=False
    ),
    text=TextFacts(name='words', tokens=3, features=5),
    categories=CategoryList(entries=(), source_ids=()),
    splits={'train': SIZES},
)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Latents hold the image's index, texts the caption's; 3 shards of 10, 10 and 4 images."""
    directory = str(tmp_path_factory.mktemp('data'))
    claim.begin(directory, MANIFEST)
    images, captions = [], []
    for i in range(COUNT):
        images.append(
            {
                'latents': np.full((2, 2, 3), i, np.float16),
                'category': np.full((4, 4), i, np.uint8),
                'instance': np.full((4, 4), 2 * i, np.uint8),
                'image_id': 1000 + i,
                'first_caption': FIRST[i],
                'num_captions': CAPTIONS[i],
            }
        )
        for k in range(FIRST[i], FIRST[i] + CAPTIONS[i]):
            text = np.full((3, 5), k, np.float16)
            captions.append({'text': text, 'caption': f'Caption {k}', 'image_id': 1000 + i})
    image_features = shards.image_features((2, 2, 3), has_variance=False, stored_map_side=4)
    write(directory, 'images', image_features, images)
    write(directory, 'captions', shards.caption_features(3, 5), captions)
    claim.finish(directory, MANIFEST)
    return directory


def write(directory, dataset, features, records):
    lengths = SIZES.image_shards if dataset == 'images' else SIZES.caption_shards
    remaining = iter(records)
    for index, length in enumerate(lengths):
        path = shards.shard_path(
            data_dir=directory, dataset=dataset, split='train', index=index, count=len(lengths)
        )
        shards.write_shard(path, features, itertools.islice(remaining, length))


@pytest.fixture(scope='module')
def split(data_dir):
    return loader.Split(data_dir, 'train')


def take(batches: loader.TrainBatches, count: int) -> list[dict]:
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def indices(batch: dict) -> list[int]:
    """The indices of a batch's images; checks that the fields of a row belong together."""
    images = batch['latents'][:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(batch['category'][:, 0, 0], images)
    np.testing.assert_array_equal(batch['instance'][:, 0, 0], 2 * images)
    return images.tolist()


def joined(batches: list[dict]) -> list[int]:
    """The indices of all images of several batches."""
    return list(itertools.chain.from_iterable(map(indices, batches)))


def halves(split: loader.Split, **options) -> list[loader.TrainBatches]:
    """The batches of both processes of two."""
    return [
        loader.train_batches(split, share=loader.Share(index=p, count=2), **options) for p in (0, 1)
    ]


def test_batch_has_the_promised_arrays(split):
    (batch,) = take(loader.train_batches(split, batch_size=6, seed=0), 1)
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        'latents': ((6, 2, 2, 3), 'float16'),
        'category': ((6, 4, 4), 'uint8'),
        'instance': ((6, 4, 4), 'uint8'),
        'text': ((6, 3, 5), 'float16'),
    }


def test_every_epoch_is_a_new_permutation(split):
    batches = take(loader.train_batches(split, batch_size=6, seed=0), 12)
    epochs = [joined(batches[i : i + 4]) for i in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != list(range(COUNT))


def test_the_seed_decides_the_order(split):
    one, other = (take(loader.train_batches(split, batch_size=6, seed=s), 4) for s in (0, 1))
    assert joined(other) != joined(one)


def test_captions_are_the_images_own_and_all_are_drawn(split):
    drawn = {i: set() for i in range(COUNT)}
    for batch in take(loader.train_batches(split, batch_size=8, seed=0), 75):
        for image, text in zip(indices(batch), batch['text'][:, 0, 0].astype(int), strict=True):
            drawn[image].add(int(text) - FIRST[image])
    assert drawn == {i: set(range(CAPTIONS[i])) for i in range(COUNT)}


def test_two_processes_share_the_batches_of_one(split):
    whole = take(loader.train_batches(split, batch_size=10, seed=3), 7)
    shares = [take(half, 7) for half in halves(split, batch_size=10, seed=3)]
    for one, first, second in zip(whole, *shares, strict=True):
        for name in one:
            assert len(first[name]) == 5
            np.testing.assert_array_equal(one[name], np.concatenate([first[name], second[name]]))


def test_resume_is_exact_on_any_number_of_processes(split):
    batches = loader.train_batches(split, batch_size=10, seed=3)
    for _ in range(4):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    assert state == {'position': 40}
    expected = take(batches, 3)
    resumed = halves(split, batch_size=10, seed=3)
    next(resumed[0])  # a position that set_state must replace
    for iterator in resumed:
        iterator.set_state(state)
    shares = [take(iterator, 3) for iterator in resumed]
    for one, first, second in zip(expected, *shares, strict=True):
        np.testing.assert_array_equal(one['text'], np.concatenate([first['text'], second['text']]))
    assert indices(expected[0]) == indices(shares[0][0]) + indices(shares[1][0])


def test_resume_with_another_batch_size_neither_repeats_nor_skips(split):
    batches = loader.train_batches(split, batch_size=4, seed=0)
    seen = joined([next(batches) for _ in range(2)])
    state = batches.get_state()
    batches.close()
    larger = loader.train_batches(split, batch_size=8, seed=0)
    larger.set_state(state)
    seen += joined(take(larger, 2))
    assert sorted(seen) == list(range(COUNT))


def test_worker_processes_give_the_same_batches(split):
    plain = take(loader.train_batches(split, batch_size=6, seed=0), 3)
    workers = take(loader.train_batches(split, batch_size=6, seed=0, workers=1), 3)
    assert not multiprocessing.active_children()
    for one, other in zip(plain, workers, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_split_gives_an_image_with_all_its_captions(split):
    assert len(split) == COUNT
    record = split[15]  # in the second shard
    assert sorted(record) == ['captions', 'category', 'image_id', 'instance', 'latents', 'texts']
    assert record['image_id'] == 1015
    own = range(FIRST[15], FIRST[15] + CAPTIONS[15])
    assert record['captions'] == [f'Caption {k}' for k in own]
    np.testing.assert_array_equal(record['texts'][:, 2, 4], list(own))
    assert len(list(split)) == COUNT


def test_unfit_requests_are_refused(data_dir, split):
    with pytest.raises(ValueError, match=r"have no split 'test', only 'train'"):
        loader.Split(data_dir, 'test')
    with pytest.raises(ValueError, match='batch_size is 5, which 2 processes cannot share'):
        halves(split, batch_size=5, seed=0)


def test_unprepared_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'has no manifest\.json; run --mode=prepare'):
        loader.Split(str(tmp_path), 'train')
    claim.begin(str(tmp_path), MANIFEST)
    with pytest.raises(FileNotFoundError, match='whose preparation has not finished'):
        manifest.open_manifest(str(tmp_path))


def test_data_of_another_version_are_refused(tmp_path):
    (tmp_path / 'manifest.json').write_text(json.dumps({'format': 99}))
    with pytest.raises(ValueError, match='has format 99, but this version reads'):
        manifest.open_manifest(str(tmp_path))


def test_data_that_do_not_fit_the_config_are_refused(data_dir):
    prepared = manifest.open_manifest(data_dir)
    fitting = {'autoencoder': 'pixels', 'text': 'words', 'text_tokens': 3, 'text_features': 5}
    manifest.check_manifest(prepared, **fitting, void_wins=False)
    with pytest.raises(ValueError, match='do not fit') as refusal:
        manifest.check_manifest(prepared, **{**fitting, 'autoencoder': 'taesd', 'text_tokens': 77})
    assert "data.autoencoder is 'taesd' but the data have 'pixels'" in str(refusal.value)
    assert 'data.text_tokens is 77 but the data have 3' in str(refusal.value)
    assert 'text_features' not in str(refusal.value)
