"""Folders of pairs: what others call their files, and our maps in the eyes of other tools."""

import json
import re
import unicodedata

import numpy as np
import pytest
import sample_folders
from etils import epath
from PIL import Image

from panoptic_jax.data import categories, panoptic_png
from panoptic_jax.data.example import Category
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.map_pictures import Form, of_ids
from panoptic_jax.data.pictures import read_picture
from panoptic_jax.export import samples
from panoptic_jax.export.pairs import Pairs


def write_picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize(
    ('name', 'listed'),
    [
        ('sub/deep/a.png', 'sub/deep/a.png'),
        ('sub/a.png', 'sub\\a.png'),
        ('a.png', './a.png'),
        (unicodedata.normalize('NFD', 'été.png'), unicodedata.normalize('NFC', 'été.png')),
        (unicodedata.normalize('NFC', 'été.png'), unicodedata.normalize('NFD', 'été.png')),
        ('[1] *?.png', '[1] *?.png'),
    ],
)
def test_names_are_found_as_others_write_them(tmp_path, name, listed):
    pixels = write_picture(tmp_path / 'images' / name)
    (tmp_path / 'captions.json').write_text(json.dumps([{'file_name': listed, 'caption': 'a'}]))
    np.testing.assert_array_equal(Pairs(tmp_path).image(0), pixels)


def test_what_systems_leave_behind_is_no_picture(tmp_path):
    write_picture(tmp_path / 'images' / '0.png')
    for name in ('._0.png', '.DS_Store', 'Thumbs.db', '0.png.1234.tmp'):
        (tmp_path / 'images' / name).write_bytes(b'\x00\x05\x16\x07')
    assert [entry['file_name'] for entry in Pairs(tmp_path).entries] == ['0.png']


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        ([{'file_name': '../0.png'}], "names '../0.png', which does not lie in"),
        ([{'file_name': '/etc/0.png'}], "names '/etc/0.png', which does not lie in"),
        ([{'file_name': 3}], "'file_name' of entry 0.* it must be the name of a picture"),
        ([{'file_name': '0.png', 'captions': 'a cup'}], "'captions' of entry 0.* a list of texts"),
        ([{'file_name': '0.png', 'caption': None}], "'caption' of entry 0.* it must be a text"),
        ([{'caption': 'a'}], "entry 0 lacks 'file_name'"),
        ({'file_name': '0.png'}, 'it must be a list of pictures'),
        ([], 'holds no list of pictures'),
    ],
)
def test_wrong_lists_are_one_sentence(tmp_path, entries, message):
    write_picture(tmp_path / 'images' / '0.png')
    (tmp_path / 'captions.json').write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=message):
        Pairs(tmp_path)


def panoptic_quality(truth, found):
    """A restatement of panopticapi's PQ: [((H, W) segment ids, segments_info)] each -> [0, 1].

    As there, a pair of segments of one category matches above an IoU of one half; void and crowds
    of the truth take predicted segments out that lie in them. The mean is over categories.
    """
    overlaps, matched, wrong, missed = {}, {}, {}, {}
    for (true_map, true_infos), (map_, infos) in zip(truth, found, strict=True):
        true_segments = {info['id']: info for info in true_infos}
        segments = {info['id']: info | {'area': 0} for info in infos}
        for number, area in zip(*np.unique(map_, return_counts=True), strict=True):
            assert number == 0 or number in segments, 'a segment of the PNG is not in the JSON'
            if number:
                segments[number]['area'] = area
        assert all(0 < n < 2**24 and info['area'] for n, info in segments.items())
        assert len(segments) == len(infos), 'an id stands twice'
        areas = dict(zip(*np.unique(true_map, return_counts=True), strict=True))
        pairs = true_map.astype(np.int64) * 2**24 + map_
        common = {
            (int(pair) >> 24, int(pair) & (2**24 - 1)): area
            for pair, area in zip(*np.unique(pairs, return_counts=True), strict=True)
        }
        hits = set()
        for (true_number, number), area in common.items():
            if true_number not in true_segments or number not in segments:
                continue
            truth_info, info = true_segments[true_number], segments[number]
            if truth_info['iscrowd'] or truth_info['category_id'] != info['category_id']:
                continue
            union = info['area'] + areas[true_number] - area - common.get((0, number), 0)
            if area / union > 0.5:
                category = info['category_id']
                overlaps[category] = overlaps.get(category, 0) + area / union
                matched[category] = matched.get(category, 0) + 1
                hits |= {('true', true_number), ('found', number)}
        crowds = {i['category_id']: n for n, i in true_segments.items() if i['iscrowd']}
        for number, info in true_segments.items():
            if ('true', number) not in hits and not info['iscrowd']:
                missed[info['category_id']] = missed.get(info['category_id'], 0) + 1
        for number, info in segments.items():
            if ('found', number) not in hits:
                ignored = common.get((0, number), 0)
                crowd = crowds.get(info['category_id'])
                ignored += common.get((crowd, number), 0) if crowd else 0
                if ignored / info['area'] <= 0.5:
                    wrong[info['category_id']] = wrong.get(info['category_id'], 0) + 1
    kinds = matched.keys() | wrong.keys() | missed.keys()
    qualities = [
        overlaps.get(c, 0) / (matched.get(c, 0) + wrong.get(c, 0) / 2 + missed.get(c, 0) / 2)
        for c in kinds
    ]
    return float(np.mean(qualities))


def blocks(rng, count):
    """(256, 256) of 0..count - 1 in blocks of 64 pixels; things that touch would be one segment."""
    return rng.integers(0, count, (4, 4)).repeat(64, axis=0).repeat(64, axis=1)


LISTS = {
    'ade20k': [Category(0, 'wall', False), Category(1, 'bed', True), Category(2, 'sky', False)],
    'scattered': [
        Category(77, 'wall', False),
        Category(1001, 'bed', True),
        Category(1, 'sky', False),
    ],
    'coco': [Category(1, 'person', True), Category(187, 'sky', False), Category(200, 'rug', False)],
}


@pytest.mark.parametrize('name', LISTS)
def test_perfect_maps_have_a_panoptic_quality_of_one(tmp_path, name):
    """In the eyes of panopticapi, which compares with the annotations that the data came from."""
    listed = LISTS[name]
    ours, our_ids = categories.remap(listed)
    own = CategoryList(ours, tuple(dict(map(reversed, our_ids.items()))[c.id] for c in ours))
    rng = np.random.default_rng(0)
    thing = next(c.id for c in listed if c.is_thing)
    truth, ids = [], []
    for _ in range(3):
        places = blocks(rng, 3)
        source = np.array([c.id for c in listed])[places]
        # In their files a segment's number says nothing about its category.
        areas, count = sample_segments(source, thing)
        infos = [
            {'id': n, 'category_id': int(source[areas == n][0]), 'iscrowd': 0}
            for n in range(1, count + 1)
        ]
        truth.append((areas, infos))
        ids.append(of_ids(source, Form(own, 128, void_wins=False)))

    folder = epath.Path(tmp_path / 'samples')
    images = rng.integers(0, 256, (3, 256, 256, 3), np.uint8)
    sample_folders.write(folder, own, 'aaa', images=images, ids=np.stack(ids))

    content = json.loads((folder / 'annotations' / 'panoptic_generated.json').read_text())
    assert {(c['id'], c['name']) for c in content['categories']} == {(c.id, c.name) for c in listed}
    found = []
    for annotation in content['annotations']:
        colours = read_picture(
            folder / 'annotations' / 'panoptic_generated' / annotation['file_name']
        )
        found.append((panoptic_png.segment_ids(colours), annotation['segments_info']))
    assert panoptic_quality(truth, found) == 1.0
    assert panoptic_quality(truth, found[1:] + found[:1]) < 0.9
    # Our own readers see our own ids again, and the page shows the right names.
    pairs = Pairs(folder, map_side=128)
    assert pairs.categories == tuple(ours)
    np.testing.assert_array_equal(np.stack([pairs.ids(i) for i in range(3)]), np.stack(ids))
    samples.write_page(folder, tmp_path / 'metrics.jsonl')
    page = (folder / 'report.html').read_text()
    (text,) = re.findall(r'id="facts">(.*?)</script>', page)
    names = {name for name, _ in json.loads(text)['categories'].values()}
    assert names == {'void', *(c.name for c in listed)}


def sample_segments(source, thing):
    """(H, W) numbers from 1, and their count: each area of a thing and each stuff is one."""
    from scipy import ndimage

    areas, count = ndimage.label(source == thing)
    for number in np.unique(source[source != thing]):
        count += 1
        areas[source == number] = count
    return areas, count
