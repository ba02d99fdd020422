"""Pictures of pairs are read by threads, and each map once, however many scores ask for it."""

import collections
import threading
import time
from types import SimpleNamespace

import numpy as np

from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.scoring import segments
from panoptic_jax.scoring.features import Features, Images
from panoptic_jax.scoring.folder import Folder

SIDE, SECONDS, COUNT = 32, 0.05, 48


class SlowPairs:
    """Maps of a storage that answers after 50 ms; counts the reads of each."""

    def __init__(self):
        self.reads = collections.Counter()
        self._lock = threading.Lock()

    def segments(self, number):
        time.sleep(SECONDS)
        with self._lock:
            self.reads[number] += 1
        ids = np.random.default_rng(number).integers(0, 2, (SIDE, SIDE), np.uint8)
        return ids, np.full((SIDE, SIDE), number, np.uint8) * ids


def test_scores_of_drawn_maps_read_each_once_and_in_parallel(scenes):
    pairs, table = SlowPairs(), np.arange(256, dtype=np.uint8)
    folder = Folder(path=None, pairs=pairs, facts={}, is_own=True, table=table)
    records = [
        {
            'category': np.ones((128, 128), np.uint8),
            'instance': np.zeros((128, 128), np.uint8),
        }
    ] * 2
    given = folder.segments, [0] * COUNT, records, open_manifest(str(scenes))
    started = time.monotonic()
    for number, ids in enumerate(map(folder.ids, range(2))):
        np.testing.assert_array_equal(ids, pairs.segments(number)[0])
    pairs.reads.clear()
    segments.score_segments(*given)
    segments.score_pixels(*given)
    assert set(pairs.reads) == set(range(2, COUNT))
    assert set(pairs.reads.values()) == {1}
    # Three scores of 48 maps would wait for 7 s, one after another.
    assert time.monotonic() - started < 2 * COUNT * SECONDS


def test_features_read_pictures_in_parallel_and_keep_their_order(tmp_path):
    def image(number):
        time.sleep(SECONDS)
        return np.full((256, 256, 3), number, np.uint8)

    networks = SimpleNamespace(
        inception=lambda images: images[:, :1, 0, :1].reshape(-1, 1).astype(np.float32),
        clip_images=None,
        clip_captions=None,
        block=8,
        hashes={'inception': 'a'},
    )
    images = Images(COUNT, image, name=str, identity='these')
    features = Features([tmp_path], networks, images, chunk=COUNT)
    started = time.monotonic()
    (block,) = features.chunks('inception')
    assert time.monotonic() - started < COUNT * SECONDS / 2
    np.testing.assert_array_equal(block[:, 0], np.arange(COUNT))
