"""Features of pictures: what keeps them, what renews them, and what stops their computation."""

import numpy as np
import pytest

from panoptic_jax.machine.interruption import Interrupted, Interruption
from panoptic_jax.scoring.features import Features, Images
from panoptic_jax.scoring.networks import Networks

COUNT, CHUNK = 7, 4
PICTURES = np.random.default_rng(0).integers(0, 256, (COUNT, 256, 256, 3), np.uint8)
CAPTIONS = [[f'picture {i}', f'number {i}'] for i in range(COUNT)]


def make_networks(seen=None, *, spoilt=(), **hashes):
    """Networks that take some numbers from their rows; `spoilt` makes pictures' features NaN."""
    seen = [] if seen is None else seen

    def features(images):
        seen.append(len(images))
        rows = np.float32(images.reshape(len(images), -1)[:, ::5000]) + 1
        for number in spoilt:
            rows[[np.array_equal(image, PICTURES[number]) for image in images]] = np.nan
        return rows

    def of_captions(texts):
        return np.float32([[len(text), *map(ord, text[-3:])] for text in texts])

    return Networks(
        inception=features,
        clip_images=lambda images: features(images)[:, :4],
        clip_captions=of_captions,
        hashes={'inception': 'ab', 'clip': 'cd'} | hashes,
        missing={},
        block=2,
    )


def make_images(captions=CAPTIONS, identity='x'):
    return Images(
        count=COUNT,
        image=PICTURES.__getitem__,
        name='{}.png'.format,
        identity=identity,
        captions=captions and captions.__getitem__,
    )


def all_of(features, name='inception'):
    return np.concatenate([*features.chunks(name)])


def changed(number):
    """Captions of which those of one picture are others."""
    return [*CAPTIONS[:number], [f'another {number}'], *CAPTIONS[number + 1 :]]


def test_blocks_give_what_all_pictures_give_at_once(tmp_path):
    networks = make_networks()
    features = Features([tmp_path], networks, make_images(), chunk=CHUNK)
    np.testing.assert_array_equal(all_of(features), networks.inception(PICTURES))


@pytest.mark.parametrize(
    ('images', 'networks', 'chunk'),
    [
        *((make_images(changed(number)), make_networks(), CHUNK) for number in (1, COUNT - 1)),
        (make_images(captions=None), make_networks(), CHUNK),
        (make_images(identity='y'), make_networks(), CHUNK),
        (make_images(), make_networks(inception='other'), CHUNK),
        (make_images(), make_networks(clip='other'), CHUNK),
        (make_images(), make_networks(), CHUNK + 1),
    ],
)
def test_whatever_features_depend_on_renews_them(tmp_path, images, networks, chunk):
    all_of(Features([tmp_path], make_networks(), make_images(), chunk=CHUNK))
    (before,) = tmp_path.iterdir()
    all_of(Features([tmp_path], networks, images, chunk=chunk))
    assert len([*tmp_path.iterdir()]) == 2
    seen = []
    again = Features([tmp_path], make_networks(seen), make_images(), chunk=CHUNK)
    assert len(all_of(again)) == COUNT
    assert not seen
    assert before.exists()


def test_captions_of_any_picture_change_the_score(tmp_path):
    scores = [
        all_of(Features([tmp_path], make_networks(), make_images(captions)), 'clip_score')
        for captions in (CAPTIONS, changed(5))
    ]
    assert np.flatnonzero(scores[0] != scores[1]).tolist() == [5]


def test_features_that_are_not_finite_name_network_and_picture(tmp_path):
    features = Features([tmp_path], make_networks(spoilt=[5]), make_images(), chunk=CHUNK)
    with pytest.raises(ValueError, match=r'Inception .* not finite for 1 of 2 .* 5\.png; its'):
        all_of(features)
    # The first chunk is fine and kept; of the second one nothing is written.
    assert [path.name for path in tmp_path.glob('*/*')] == ['00000000.npz']


def test_a_damaged_file_is_named(tmp_path):
    features = Features([tmp_path], make_networks(), make_images(), chunk=CHUNK)
    all_of(features)
    path = sorted(tmp_path.glob('*/*'))[1]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r'00000004\.npz is damaged .*; delete it, and the same'):
        all_of(features)
    path.unlink()
    assert len(all_of(features)) == COUNT


class AskedAfter(Interruption):
    """Asked for from the n-th question on."""

    def __init__(self, questions):
        super().__init__()
        self.left = questions

    def asked(self):
        self.left -= 1
        return self.left < 0


def test_an_interruption_ends_within_a_chunk_and_the_next_run_goes_on(tmp_path):
    seen = []
    told = AskedAfter(3)  # after the first chunk and one block of the second one
    features = Features(
        [tmp_path], make_networks(seen), make_images(), chunk=CHUNK, interruption=told
    )
    with pytest.raises(Interrupted):
        all_of(features)
    assert [path.name for path in tmp_path.glob('*/*')] == ['00000000.npz']
    assert sum(seen) == 2 * 6  # both networks, six pictures
    seen.clear()
    again = Features([tmp_path], make_networks(seen), make_images(), chunk=CHUNK)
    assert len(all_of(again)) == COUNT
    assert sum(seen) == 2 * 3


def test_a_folder_that_is_only_read_spares_the_work(tmp_path):
    own, shared, seen = tmp_path / 'own', tmp_path / 'shared', []
    all_of(Features([shared], make_networks(), make_images(), chunk=CHUNK))
    sorted(shared.glob('*/*'))[1].unlink()
    both = Features([own, shared], make_networks(seen), make_images(), chunk=CHUNK)
    assert len(all_of(both)) == COUNT
    assert sum(seen) == 2 * 3
    assert [path.name for path in own.glob('*/*')] == ['00000004.npz']
    assert [path.name for path in shared.glob('*/*')] == ['00000000.npz']
