"""A COCO folder as a source of examples: what it gives, and what it refuses."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from panoptic_jax.data import geometry, panoptic_png
from panoptic_jax.data.coco import CocoPanoptic


def write_folder(root: Path, count: int = 3) -> None:
    """A COCO folder of `count` random images: grass, two cats of different size, a crowd of dogs.

    Source ids above 254 are renumbered: cat 300 -> 1, dog 301 -> 2, grass 999 -> 3.
    """
    rng = np.random.default_rng(0)
    (root / 'annotations' / 'panoptic_tiny').mkdir(parents=True)
    (root / 'tiny').mkdir()
    panoptic = {
        'categories': [
            {'id': 300, 'name': 'cat', 'isthing': 1},
            {'id': 999, 'name': 'grass', 'isthing': 0},
            {'id': 301, 'name': 'dog', 'isthing': 1},
        ],
        'images': [],
        'annotations': [],
    }
    captions = []
    for number in range(count):
        # Ids of one, two and three bytes.
        segments = np.full((40, 60), 70_000 + number)
        segments[:10, :10] = 5  # the smaller cat comes first in the JSON
        segments[20:35, 20:40] = 256
        segments[:10, 50:] = 65_536
        segments[39] = 0
        stem = f'{number:012d}'
        colours = panoptic_png.segment_colours(segments)
        Image.fromarray(colours).save(root / 'annotations' / 'panoptic_tiny' / f'{stem}.png')
        pixels = rng.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(root / 'tiny' / f'{stem}.jpg')
        panoptic['images'].append({'id': number, 'file_name': f'{stem}.jpg'})
        segments_info = [
            {'id': 5, 'category_id': 300, 'iscrowd': 0},
            {'id': 256, 'category_id': 300, 'iscrowd': 0},
            {'id': 65_536, 'category_id': 301, 'iscrowd': 1},
            {'id': 70_000 + number, 'category_id': 999, 'iscrowd': 0},
        ]
        panoptic['annotations'].append(
            {'image_id': number, 'file_name': f'{stem}.png', 'segments_info': segments_info}
        )
        for k in range(number + 1):
            captions.append({'image_id': number, 'caption': f' Cats on grass {k}.\n'})
    write_json(root / 'annotations' / 'panoptic_tiny.json', panoptic)
    write_json(root / 'annotations' / 'captions_tiny.json', {'annotations': captions})


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path)
    return tmp_path


def test_folder_gives_known_examples(folder):
    source = CocoPanoptic(str(folder), 'tiny')
    assert len(source) == 3
    assert source.num_captions.tolist() == [1, 2, 3]
    example = source[1]
    assert example.captions == ['Cats on grass 0.', 'Cats on grass 1.']
    assert example.image.shape == (40, 60, 3)
    spots = [(0, 0), (25, 25), (0, 55), (38, 0), (39, 0)]
    pairs = [(int(example.category[spot]), int(example.instance[spot])) for spot in spots]
    assert pairs == [(1, 2), (1, 1), (2, 0), (3, 0), (0, 0)]


def test_folder_gives_its_categories_limit_and_description(folder):
    source = CocoPanoptic(str(folder), 'tiny')
    assert [category.name for category in source.categories] == ['cat', 'dog', 'grass']
    assert source.source_ids == {1: 300, 2: 301, 3: 999}
    assert len(CocoPanoptic(str(folder), 'tiny', limit=2)) == 2
    json.dumps(source.description)


def test_images_without_caption_are_left_out(folder):
    path = folder / 'annotations' / 'captions_tiny.json'
    write_json(path, {'annotations': [{'image_id': 2, 'caption': 'One.'}]})
    source = CocoPanoptic(str(folder), 'tiny')
    assert [source[i].image_id for i in range(len(source))] == [2]


def test_captions_files_without_captions_of_the_split_are_refused(folder):
    path = folder / 'annotations' / 'captions_tiny.json'
    write_json(path, {'annotations': []})
    with pytest.raises(ValueError, match=r'captions_tiny\.json holds no captions'):
        CocoPanoptic(str(folder), 'tiny')
    write_json(path, {'annotations': [{'image_id': 77, 'caption': 'One.'}]})
    with pytest.raises(ValueError, match='None of the 3 images'):
        CocoPanoptic(str(folder), 'tiny')


def test_captions_file_may_have_a_longer_name(folder):
    path = folder / 'annotations' / 'captions_tiny.json'
    path.rename(path.with_name('captions_tiny_part.json'))
    assert len(CocoPanoptic(str(folder), 'tiny')) == 3
    path.with_name('captions_tiny_b.json').write_text('{}')
    with pytest.raises(ValueError, match=r'rename the one to use to captions_tiny\.json'):
        CocoPanoptic(str(folder), 'tiny')


@pytest.mark.parametrize(
    ('lost', 'sentence'),
    [
        (
            'annotations/panoptic_tiny/000000000001.png',
            r'lacks 1 of 3 files, the first 000000000001\.png; unzip annotations/panoptic_tiny',
        ),
        (
            'tiny/000000000002.jpg',
            r'lacks 1 of 3 files, the first 000000000002\.jpg; unzip tiny\.zip',
        ),
        (
            'annotations/panoptic_tiny.json',
            r'panoptic_tiny\.json is missing; unzip panoptic_annotations_trainval2017\.zip',
        ),
        (
            'annotations/captions_tiny.json',
            r'captions_tiny\.json is missing; unzip annotations_trainval2017\.zip',
        ),
    ],
)
def test_missing_files_are_named_before_any_work(folder, lost, sentence):
    (folder / lost).unlink()
    with pytest.raises(FileNotFoundError, match=sentence):
        CocoPanoptic(str(folder), 'tiny')


def test_a_root_without_annotations_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'data\.root is .*no folder annotations/'):
        CocoPanoptic(str(tmp_path / 'nowhere'), 'tiny')


def test_unusable_files_are_refused(folder):
    picture = folder / 'tiny' / '000000000000.jpg'
    picture.write_bytes(picture.read_bytes()[:300])
    with pytest.raises(ValueError, match='cannot be read as a picture'):
        CocoPanoptic(str(folder), 'tiny')[0]
    Image.new('RGB', (60, 41)).save(picture)
    with pytest.raises(ValueError, match=r'has 60x41 pixels and .* 60x40; both must be originals'):
        CocoPanoptic(str(folder), 'tiny')[0]
    (folder / 'annotations' / 'panoptic_tiny.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='is not valid JSON'):
        CocoPanoptic(str(folder), 'tiny')


@pytest.fixture
def bare_folder(folder):
    """A folder without captions and categories of its own, and with large category ids."""
    annotations = folder / 'annotations'
    panoptic = json.loads((annotations / 'panoptic_tiny.json').read_text())
    entries = panoptic.pop('categories')
    new_ids = {entry['id']: 1000 + 7 * number for number, entry in enumerate(entries)}
    for entry in entries:
        entry['id'] = new_ids[entry['id']]
    for annotation in panoptic['annotations']:
        for segment in annotation['segments_info']:
            segment['category_id'] = new_ids[segment['category_id']]
            segment['area'] = {5: 100, 256: 300, 65_536: 100}.get(segment['id'], 1840)
    write_json(annotations / 'panoptic_tiny.json', panoptic)
    (annotations / 'captions_tiny.json').unlink()
    write_json(folder / 'categories.json', entries)
    return folder


def test_a_list_of_categories_may_lie_in_another_file(bare_folder):
    with pytest.raises(ValueError, match="lacks 'categories'"):
        CocoPanoptic(str(bare_folder), 'tiny')
    path = bare_folder / 'categories.json'
    source = CocoPanoptic(str(bare_folder), 'tiny', categories=str(path), captions='categories')
    ids = [entry['id'] for entry in json.loads(path.read_text())]
    assert sorted(source.source_ids.values()) == sorted(ids)
    with pytest.raises(FileNotFoundError, match=r'nowhere\.json is missing; give the path of a'):
        CocoPanoptic(str(bare_folder), 'tiny', categories='nowhere.json')


@pytest.mark.parametrize('void_wins', [False, True])
def test_captions_may_be_made_of_what_the_stored_maps_show(bare_folder, void_wins):
    path = bare_folder / 'categories.json'
    source = CocoPanoptic(
        str(bare_folder),
        'tiny',
        categories=str(path),
        captions='categories',
        void_wins=void_wins,
    )
    assert source.num_captions.tolist() == [1] * len(source)
    names = {category.id: category.name for category in source.categories}
    for i in range(len(source)):
        example = source[i]
        _, stored, _ = geometry.fit(example, void_wins=void_wins)
        ids, areas = np.unique(stored[stored > 0], return_counts=True)
        *first, last = [names[ids[k]] for k in np.argsort(-areas, kind='stable')]
        expected = f'{", ".join(first)} and {last}' if first else last
        assert example.captions == [f'a picture of {expected}']
        # The dogs are at the right edge, which the central square lacks.
        assert 'dog' not in expected
        assert 'dog' in [names[number] for number in np.unique(example.category) if number]
    # Data that were prepared with other captions must not pass for these.
    assert source.description['captions_sha256'] == 'categories of the stored maps'


def turn(path, orientation):
    """Marks a picture file as taken with the camera held in another way."""
    picture = Image.open(path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif, quality=95)


@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_a_photograph_turns_where_its_map_fits_the_turned_one(folder, orientation):
    picture = folder / 'tiny' / '000000000000.jpg'
    colours = folder / 'annotations' / 'panoptic_tiny' / '000000000000.png'
    if orientation != 3:
        Image.open(colours).transpose(Image.Transpose.ROTATE_90).save(colours)
    turn(picture, orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(picture)))
    example = CocoPanoptic(str(folder), 'tiny')[0]
    np.testing.assert_array_equal(example.image, upright)
    assert example.category.shape == upright.shape[:2]


def test_photographs_whose_maps_fit_the_stored_ones_are_kept_and_counted(tmp_path, caplog):
    write_folder(tmp_path, count=12)
    pictures = sorted((tmp_path / 'tiny').iterdir())
    for picture in pictures:
        turn(picture, 6)
    source = CocoPanoptic(str(tmp_path), 'tiny')
    with caplog.at_level(logging.INFO):
        for i in [0, 0, *range(12)]:
            stored = np.asarray(Image.open(pictures[i]))
            np.testing.assert_array_equal(source[i].image, stored)
    told = [record.getMessage().split(',')[0] for record in caplog.records]
    assert told == ['1 images of tiny so far', '10 images of tiny so far']
    Image.new('RGB', (41, 60)).save(pictures[0])
    with pytest.raises(ValueError, match=r'has 41x60 pixels and .* 60x40; both must be originals'):
        source[0]


@pytest.mark.parametrize('mode', ['RGBA', 'P', 'L', 'I;16', 'JPEG'])
def test_maps_are_rgb_or_are_refused(folder, mode):
    path = folder / 'annotations' / 'panoptic_tiny' / '000000000001.png'
    expected = CocoPanoptic(str(folder), 'tiny')[1]
    colours = Image.open(path)
    if mode == 'JPEG':
        colours.save(path, 'JPEG')
    elif mode == 'RGBA':
        colours.putalpha(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60), 'u1')))
        colours.save(path)
    elif mode == 'P':
        colours.quantize(16).save(path)  # five colours, so none is lost
    else:
        Image.fromarray(np.asarray(colours)[..., 0].astype('u2' if '16' in mode else 'u1')).save(
            path
        )
    source = CocoPanoptic(str(folder), 'tiny')
    if mode in ('RGBA', 'P'):
        np.testing.assert_array_equal(source[1].category, expected.category)
        return
    with pytest.raises(ValueError, match=r'000000000001\.png'):
        source[1]


def test_a_categories_file_of_another_form_is_refused(folder):
    for content in ({'categories': []}, [{'id': 3, 'name': 'cat'}], [3]):
        write_json(folder / 'categories.json', content)
        with pytest.raises(ValueError, match=r'categories\.json.* (id, name and|an object)'):
            CocoPanoptic(str(folder), 'tiny', categories=str(folder / 'categories.json'))
