"""Finding the pictures that an annotation file names, however the names are written."""

import unicodedata

import coco_folders
import pytest
from etils import epath

from panoptic_jax.data import picture_files
from panoptic_jax.data.coco import CocoPanoptic


def find(root, *names):
    return picture_files.find_files(
        epath.Path(root), names, named_in=epath.Path('a.json'), fix='unzip train.zip'
    )


@pytest.fixture
def root(tmp_path):
    """A folder train with pictures in it and below, and what systems leave beside pictures."""
    root = tmp_path / 'train'
    for name in ('0.png', 'aachen/x.png', 'aachen/köln [1]/y.png', r'odd\name.png'):
        path = root / unicodedata.normalize('NFD', name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ('.DS_Store', '._0.png', 'Thumbs.db', 'aachen/._x.png'):
        (root / name).write_bytes(b'\0\5\26\7')
    return root


@pytest.mark.parametrize(
    ('name', 'place'),
    [
        ('0.png', '0.png'),
        ('./0.png', '0.png'),
        ('train/0.png', '0.png'),
        ('train/aachen//x.png', 'aachen/x.png'),
        ('aachen/x.png', 'aachen/x.png'),
        (r'aachen\x.png', 'aachen/x.png'),
        (r'train\aachen\x.png', 'aachen/x.png'),
        (r'odd\name.png', r'odd\name.png'),
        ('aachen/köln [1]/y.png', 'aachen/köln [1]/y.png'),
        (r'aachen\köln [1]\y.png', 'aachen/köln [1]/y.png'),
    ],
)
def test_files_are_found_however_their_names_are_written(root, name, place):
    place = unicodedata.normalize('NFD', place)
    for form in ('NFC', 'NFD'):
        assert find(root, unicodedata.normalize(form, name)) == [place]


def test_the_folders_own_name_may_begin_a_name_with_all_its_parts(root):
    (root / 'aachen/aachen').mkdir()
    (root / 'aachen/aachen/x.png').touch()
    assert find(root / 'aachen', 'train/aachen/x.png') == ['x.png']
    # What is there as it is named comes first.
    assert find(root / 'aachen', 'aachen/x.png') == ['aachen/x.png']


@pytest.mark.parametrize(
    'name',
    ['../0.png', 'aachen/../../0.png', r'aachen\..\0.png', '/etc/passwd', r'C:\0.png', r'\\host\0',
     'gs://bucket/0.png'],
)  # fmt: skip
def test_names_that_lead_out_of_the_folder_are_refused(root, name):
    with pytest.raises(ValueError, match=r'^a\.json: file_name .* leads out of .*train; it must'):
        find(root, name)


@pytest.mark.parametrize('name', ['', '.', '1.png', 'x.png', 'train', '\0', 'y' * 5000, '*.png'])
def test_names_of_no_file_are_missing(root, name):
    with pytest.raises(
        FileNotFoundError, match=r'lacks 1 of 2 files, the first .*; unzip'
    ) as caught:
        find(root, '0.png', name)
    assert str(caught.value).isprintable()


def test_two_names_of_one_file_are_refused(root):
    with pytest.raises(ValueError, match=r'two entries share the file aachen/x\.png of'):
        find(root, 'aachen/x.png', r'aachen\x.png')


def test_each_folder_is_listed_once(root, monkeypatch):
    listed = []
    whole = epath.gpath.PosixGPath.iterdir

    def iterdir(path):
        listed.append(path.name)
        return whole(path)

    monkeypatch.setattr(epath.gpath.PosixGPath, 'iterdir', iterdir)
    assert len(find(root, 'aachen/x.png', '0.png', 'aachen/köln [1]/y.png')) == 3
    folders = sorted(unicodedata.normalize('NFC', name) for name in listed)
    assert folders == ['aachen', 'köln [1]', 'train']


def test_a_coco_folder_may_have_pictures_in_folders(tmp_path):
    panoptic, captions = coco_folders.write(tmp_path)
    flat = CocoPanoptic(str(tmp_path), 'tiny')
    expected = [flat[i] for i in range(3)]
    for entries, folder in (('images', 'tiny'), ('annotations', 'annotations/panoptic_tiny')):
        for number, entry in enumerate(panoptic[entries]):
            old = tmp_path / folder / entry['file_name']
            city = ('aachen', 'bonn', 'köln')[number]
            new = old.parent / unicodedata.normalize('NFD', city) / entry['file_name']
            new.parent.mkdir()
            old.rename(new)
            entry['file_name'] = f'{old.parent.name}\\{city}\\{entry["file_name"]}'
    coco_folders.save(tmp_path, (panoptic, captions))
    source = CocoPanoptic(str(tmp_path), 'tiny')
    for i in range(3):
        assert (source[i].image == expected[i].image).all()
        assert (source[i].category == expected[i].category).all()
