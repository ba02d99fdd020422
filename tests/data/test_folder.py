"""Image-caption folders without maps: reading, refusals, and a U-ViT trained on one."""

import json
import unicodedata

import numpy as np
import one_device
import pytest
from conftest import tiny_config
from PIL import Image

from panoptic_jax.data import loader, manifest
from panoptic_jax.data.folder import CaptionedFolder

RNG = np.random.default_rng(0)


def fill(root, split, count, kind):
    """`count` random images, every second one with two captions, and one image without any."""
    folder = root / split
    folder.mkdir(parents=True)
    lines = []
    for i in range(count + 1):
        image = Image.fromarray(RNG.integers(0, 256, (280 + i, 260, 3), np.uint8))
        image.save(folder / f'picture{i:02d}.png')
        if i == count:
            break
        captions = [f'picture number {i}', 'another  caption\n'][: 1 + i % 2]
        if kind == 'txt':
            (folder / f'picture{i:02d}.txt').write_text('\n'.join(captions))
        else:
            lines.append(json.dumps({'file_name': f'picture{i:02d}.png', 'captions': captions}))
    if kind == 'jsonl':
        (folder / 'captions.jsonl').write_text('\n'.join(lines))
    return folder


@pytest.mark.parametrize('kind', ['txt', 'jsonl'])
def test_captions_beside_the_images_or_in_one_file(tmp_path, kind):
    fill(tmp_path, 'train', 4, kind)
    source = CaptionedFolder(str(tmp_path), 'train')
    assert source.num_captions.tolist() == [1, 2, 1, 2]
    example = source[3]
    assert example.captions == ['picture number 3', 'another caption']
    assert example.image.shape == (283, 260, 3)
    assert example.category is example.instance is None
    assert len(CaptionedFolder(str(tmp_path), 'train', limit=2)) == 2
    assert source.description['count'] == 4


def test_images_stand_upright(tmp_path):
    folder = fill(tmp_path, 'train', 1, 'txt')
    pixels = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: show it turned to the right
    Image.fromarray(pixels).save(folder / 'picture00.png', exif=exif)
    (example,) = CaptionedFolder(str(tmp_path), 'train')
    np.testing.assert_array_equal(example.image, np.rot90(pixels, -1))


def test_captions_that_are_no_text_are_refused(tmp_path):
    folder = fill(tmp_path, 'train', 1, 'txt')
    (folder / 'picture00.txt').write_bytes(b'caf\xe9')
    with pytest.raises(ValueError, match=r'picture00\.txt is no text in UTF-8'):
        CaptionedFolder(str(tmp_path), 'train')


def test_folders_without_captions_or_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'has no folder train/'):
        CaptionedFolder(str(tmp_path), 'train')
    folder = fill(tmp_path, 'train', 0, 'txt')
    with pytest.raises(ValueError, match=r'No image of .* has a caption'):
        CaptionedFolder(str(tmp_path), 'train')
    (folder / 'captions.jsonl').write_text('{"file_name": "missing.png", "caption": "x"}')
    with pytest.raises(FileNotFoundError, match=r'lacks 1 of 1 files, the first missing\.png'):
        CaptionedFolder(str(tmp_path), 'train')
    (folder / 'captions.jsonl').write_text('\n{"file_name": "missing.png"}')
    with pytest.raises(ValueError, match=r'captions\.jsonl, line 2: .*must be a JSON object'):
        CaptionedFolder(str(tmp_path), 'train')


def captions_of(root, *lines):
    """[(image's name, captions)] of a folder whose captions.jsonl has these lines."""
    (root / 'train' / 'captions.jsonl').write_text('\n'.join(lines))
    source = CaptionedFolder(str(root), 'train')
    return [tuple(source[i].captions) for i in range(len(source))]


def line(name, **fields):
    return json.dumps({'file_name': name, **fields})


def test_a_text_in_the_place_of_a_list_is_one_caption(tmp_path):
    fill(tmp_path, 'train', 2, 'txt')
    lines = [line('picture00.png', captions='a  cup'), line('picture01.png', captions=['a cup'])]
    assert captions_of(tmp_path, *lines) == [('a cup',), ('a cup',)]
    # Where a line has both, the list counts; several lines may name one image.
    lines = [line('picture00.png', captions=['b'], caption='c'), line('picture00.png', caption='d')]
    assert captions_of(tmp_path, *lines) == [('b', 'd')]


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        ({}, r'it has no caption'),
        ({'caption': None}, r"got 'null' in caption;"),
        ({'captions': None}, r"got 'null' in captions;"),
        ({'caption': 3}, r"got 'int' in caption;"),
        ({'caption': ['a']}, r"got 'array' in caption;"),
        ({'captions': ['a', 3]}, r"got 'int' in captions\[1\]"),
        ({'captions': [['a']]}, r"got 'array' in captions\[0\]"),
        ({'captions': {'a': 1}}, r"got 'object' in captions"),
        ({'caption': float('nan')}, r"nan in 'caption'"),
        ({'caption': '\ud800'}, r"surrogate pair .* in 'caption'"),
    ],
)
def test_what_is_no_caption_is_refused_with_file_line_and_field(tmp_path, fields, said):
    fill(tmp_path, 'train', 1, 'txt')
    good = line('picture00.png', caption='a')
    with pytest.raises(ValueError, match=rf'captions\.jsonl, line 2: .*{said}.*must be a JSON'):
        captions_of(tmp_path, good, line('picture00.png', **fields))


def test_only_line_feeds_separate_captions(tmp_path):
    folder = fill(tmp_path, 'train', 1, 'txt')
    text = '\ufeffone\u2028caption\x0cin\x85all\r\nanother\r\n \r\n'
    (folder / 'picture00.txt').write_bytes(text.encode())
    assert CaptionedFolder(str(tmp_path), 'train')[0].captions == ['one caption in all', 'another']
    content = '\ufeff{"file_name": "picture00.png", "caption": "a\u2028b"}\r\n'
    assert captions_of(tmp_path, content) == [('a b',)]


def test_hidden_files_folders_and_other_files_are_no_images(tmp_path):
    folder = fill(tmp_path, 'train', 2, 'txt')
    before = CaptionedFolder(str(tmp_path), 'train').description
    for name in ('._picture00.png', '.DS_Store', 'Thumbs.db', '.hidden.png', 'notes.md'):
        (folder / name).write_bytes(RNG.bytes(20))
    for name in ('._picture00.txt', '.hidden.txt', 'folder.txt', 'picture02.txt.bak'):
        (folder / name).write_text('no caption')
    (folder / 'folder.png').mkdir()
    (folder / 'gone.png').symlink_to('nowhere.png')
    (folder / 'gone.txt').write_text('of no picture')
    assert CaptionedFolder(str(tmp_path), 'train').description == before
    with pytest.raises(ValueError, match=r'captions\.jsonl: folder\.png is a folder of'):
        captions_of(tmp_path, line('folder.png', caption='a'))


def test_names_match_whatever_their_suffix_and_their_accents(tmp_path):
    folder = fill(tmp_path, 'train', 3, 'txt')
    composed, apart = (unicodedata.normalize(form, 'Zürich é') for form in ('NFC', 'NFD'))
    assert composed != apart
    for old, new in (('00', composed), ('01', 'other'), ('02', 'both')):
        (folder / f'picture{old}.png').rename(folder / f'{new}.PNG')
    (folder / 'picture00.txt').rename(folder / f'{apart}.txt')
    (folder / 'picture01.txt').rename(folder / 'other.TXT')
    (folder / 'picture02.txt').rename(folder / 'both.txt')
    (folder / 'both.jpg').write_bytes((folder / 'both.PNG').read_bytes())
    source = CaptionedFolder(str(tmp_path), 'train')
    own = {example.captions[0] for example in source}
    assert own == {'picture number 0', 'picture number 1', 'picture number 2'}
    assert len(source) == 4  # two pictures share the text of their name
    lines = [line(f'{apart}.PNG', caption='a'), line('other.PNG', caption='b')]
    # 'Z' comes before 'o'.
    assert captions_of(tmp_path, *lines) == [('a',), ('b',)]


def test_images_in_folders_below_are_found_by_either_separator(tmp_path):
    folder = fill(tmp_path, 'train', 4, 'txt')
    (folder / 'deep' / 'er').mkdir(parents=True)
    for i in range(2):
        (folder / f'picture0{i}.png').rename(folder / 'deep' / 'er' / f'{i}.png')
    lines = [
        line('deep/er/0.png', caption='a'),
        line('deep\\er\\1.png', caption='b'),
        line('./picture02.png', caption='c'),
        line('train/picture03.png', caption='d'),
    ]
    assert captions_of(tmp_path, *lines) == [('a',), ('b',), ('c',), ('d',)]


@pytest.mark.parametrize(
    'name', ['../0.png', 'a/../../0.png', '..\\0.png', '/etc/passwd', 'C:\\0.png', 'C:/0.png']
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    fill(tmp_path, 'train', 1, 'txt')
    (tmp_path / '0.png').touch()
    with pytest.raises(ValueError, match=r'captions\.jsonl: file_name .* leads out of'):
        captions_of(tmp_path, line(name, caption='a'))


def test_one_image_under_two_names_and_names_of_nothing_are_refused(tmp_path):
    fill(tmp_path, 'train', 1, 'txt')
    twice = line('picture00.png', caption='a'), line('./picture00.png', caption='b')
    with pytest.raises(ValueError, match=r'occurs twice'):
        captions_of(tmp_path, *twice)
    for name in ('', '.', 'picture00.png/a', 'PICTURE00.png', 'a\0b'):
        with pytest.raises(FileNotFoundError, match=r'lacks 1 of 1 files'):
            captions_of(tmp_path, line(name, caption='a'))


def test_uvit_trains_and_samples_on_images_alone(tmp_path):
    fill(tmp_path / 'pictures', 'a', 9, 'txt')
    fill(tmp_path / 'pictures', 'b', 3, 'jsonl')
    config = tiny_config(tmp_path / 'data')
    config.data.update(source='folder', root=str(tmp_path / 'pictures'))
    config.data.update(train_split='a', validation_split='b', train_images=0, validation_images=0)
    one_device.prepare(config)
    assert manifest.open_manifest(config.data.dir).stored_map_side is None
    record = loader.Split(config.data.dir, 'train')[1]
    assert record.keys() == {'latents', 'image_id', 'captions', 'texts'}
    assert record['captions'] == ['picture number 1', 'another caption']
    config.model.name = 'one_stream'
    with pytest.raises(ValueError, match=r"have no maps, which model\.name='one_stream' learns"):
        one_device.train(config, tmp_path / 'run')
    config.model.name = 'uvit'
    config.validate_every = config.preview_every = 4
    config.steps = 4
    assert one_device.train(config, tmp_path / 'run')
    one_device.sample(config, tmp_path / 'run')
    assert len(list((tmp_path / 'run' / 'samples' / 'generated').iterdir())) == 6
    with pytest.raises(ValueError, match=r'Nothing .*can be scored: .* no maps'):
        one_device.evaluate(config, tmp_path / 'run')
