"""Real images and their statistics: made once, renewed for other pictures, and where they lie."""

import os

import numpy as np
import pytest
from PIL import Image
from test_features import make_networks

from panoptic_jax.data.example import Example
from panoptic_jax.data.folder import CaptionedFolder
from panoptic_jax.metrics import fid
from panoptic_jax.scoring import reference


@pytest.fixture
def root(tmp_path):
    """A folder of four captioned pictures, as a source opens it."""
    folder = tmp_path / 'root' / 'val'
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for i in range(4):
        picture = rng.integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(picture).save(folder / f'{i}.bmp', format='BMP')
        (folder / f'{i}.bmp').rename(folder / f'{i}.png')
        (folder / f'{i}.txt').write_text(f'picture {i}')
    return folder


def refer(root, folders, seen=None, **options):
    source = CaptionedFolder(str(root.parent), 'val')
    networks = make_networks(seen)
    return reference.of_source(source, networks, split='validation', folders=folders, **options)


def test_statistics_are_made_once(root, tmp_path):
    seen = []
    first = reference.statistics_of(refer(root, [tmp_path / 'kept']))
    again = reference.statistics_of(refer(root, [tmp_path / 'kept'], seen))
    assert first.count == again.count == 4
    np.testing.assert_array_equal(first.mean, again.mean)
    assert not seen


def test_a_replaced_picture_of_as_many_bytes_renews_them(root, tmp_path):
    first = reference.statistics_of(refer(root, [tmp_path / 'kept']))
    size = (root / '2.png').stat().st_size
    other = np.random.default_rng(9).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(other).save(root / '2.png', format='BMP')
    assert (root / '2.png').stat().st_size == size
    os.utime(root / '2.png', (10**9, 10**9))
    seen = []
    again = reference.statistics_of(refer(root, [tmp_path / 'kept'], seen))
    assert seen
    assert np.abs(first.mean - again.mean).max() > 1


def test_data_that_cannot_be_written_are_scored_all_the_same(root, tmp_path):
    data, workdir = tmp_path / 'data', tmp_path / 'run'
    data.mkdir()
    assert reference.folders_of(str(data), str(workdir)) == [data / 'reference']
    assert not any((data / 'reference').iterdir())
    (data / 'reference').rmdir()
    # No user of tests is refused by permissions for sure, but a file in the way stops everybody.
    (data / 'reference').write_text('')
    folders = reference.folders_of(str(data), str(workdir))
    assert folders == [workdir / 'features', data / 'reference']
    (data / 'reference').unlink()
    statistics = reference.statistics_of(refer(root, folders))
    assert statistics.count == 4
    assert not (data / 'reference').exists()
    assert {path.suffix for path in (workdir / 'features').iterdir()} == {'.npz', ''}


def test_statistics_of_read_only_data_serve(root, tmp_path):
    shared, own, seen = tmp_path / 'shared', tmp_path / 'own', []
    reference.statistics_of(refer(root, [shared]))
    assert reference.statistics_of(refer(root, [own, shared], seen)).count == 4
    assert not seen
    assert not own.exists()


def test_statistics_of_others_must_be_inceptions(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / 'other.npz'
    fid.write(path, fid.statistics([rng.normal(size=(9, 5))]), {})
    with pytest.raises(ValueError, match=r'other\.npz has the statistics of 5 features; FID comp'):
        reference.statistics_of(reference.of_file(str(path)))


def test_a_source_without_files_has_no_listing(tmp_path):
    class Drawn(list):
        def __init__(self, *examples):
            super().__init__(*examples)
            self.description = {'source': 'scenes', 'split': 'validation', 'count': 3}

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 256, 256, 3), np.uint8)
    source = Drawn(Example(picture, None, None, ['x'], i) for i, picture in enumerate(pictures))
    found = reference.of_source(source, make_networks(), split='validation', folders=[tmp_path])
    assert reference.statistics_of(found).count == 3
