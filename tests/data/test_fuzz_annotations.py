"""2,000 damaged annotation files: each is read, or refused in one sentence."""

import copy
import json
import math
import random

import coco_folders
import pytest

from panoptic_jax.data.coco import CocoPanoptic

COUNT = 2000
DEEP = '"a deep list"'  # stands for lists within lists until the JSON is written
HUGE = '"a huge number"'
VALUES = [
    None, True, False, 0, 1, 7, -1, -7, 255, 2**24, 10**20, 1.0, 2.5, math.nan, math.inf, '', '0',
    '7', 'cat', '\ud800', '\0', 'a\n b', 'cafe\u0301', '../0.png', '/etc/passwd', 'C:\\0.png',
    'gs://a/0.png', 'x' * 5000, '{}', [], {}, [[]], [None], {'id': 1}, DEEP[1:-1], HUGE[1:-1],
]  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A COCO folder of four images; its JSON files are what the test damages."""
    root = tmp_path_factory.mktemp('fuzz')
    (root / 'annotations').mkdir()
    return root


def contents(root):
    """The content of the panoptic JSON and of the captions file, whose pictures it writes."""
    panoptic, _ = coco_folders.write(root, count=4)
    height, width = coco_folders.SIZE
    for image in panoptic['images']:
        image |= {'height': height, 'width': width}
    for annotation in panoptic['annotations']:
        for segment in annotation['segments_info']:
            segment |= {'area': 20, 'bbox': [0, 0, 3, 4]}
    for category, kind in zip(panoptic['categories'], ('animal', 'animal', 'plant'), strict=True):
        category['supercategory'] = kind
    captions = [
        {'id': number, 'image_id': number, 'caption': f'A cat, {number}.'} for number in range(4)
    ]
    return panoptic, {'images': panoptic['images'], 'annotations': captions}


def places(value, found):
    """Appends (list or dict, key) of everything inside a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], list | dict):
            places(value[key], found)
    return found


def change_structure(content, draw):
    """One to three changes of a copy of the content, as JSON."""
    content = {'': copy.deepcopy(content)}
    for _ in range(draw.randint(1, 3)):
        inside = places(content, [])
        if not inside:
            break
        parent, key = draw.choice(inside)
        other, other_key = draw.choice(inside)
        action = draw.choice(['drop', 'replace', 'replace', 'twice', 'swap', 'wrap', 'rename'])
        if action == 'drop':
            del parent[key]
        elif action == 'replace':
            parent[key] = copy.deepcopy(draw.choice(VALUES))
        elif action == 'twice' and isinstance(parent, list):
            parent.insert(draw.randint(0, len(parent)), copy.deepcopy(parent[key]))
        elif action == 'swap':
            parent[key] = copy.deepcopy(other[other_key])
        elif action == 'wrap':
            parent[key] = [parent[key]]
        elif action == 'rename' and isinstance(parent, dict):
            parent[draw.choice(['id', 'image_id', 'x', 'annotations'])] = parent.pop(key)
    text = json.dumps(content.get('', content))
    return text.replace(DEEP, '[' * 3000 + ']' * 3000).replace(HUGE, '9' * 5000).encode()


def change_bytes(content, draw):
    """The content as JSON with one to four changes of its bytes, or in another encoding."""
    text = bytearray(json.dumps(content).encode())
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(text))
        length = draw.choice([1, 1, 2, 10, 200])
        action = draw.choice(['flip', 'flip', 'delete', 'insert', 'repeat', 'cut', 'mark'])
        if action == 'flip':
            text[at] ^= 1 << draw.randrange(8)
        elif action == 'delete':
            del text[at : at + length]
        elif action == 'insert':
            text[at:at] = draw.choice([b'"', b'{', b']', b',', b'NaN', b'\xff', b'\0', b'\\ud83d'])
        elif action == 'repeat':
            text[at:at] = text[at : at + length]
        elif action == 'cut' and draw.random() < 0.2:
            del text[at:]
        elif action == 'mark' and draw.random() < 0.2:
            text[:0] = draw.choice([b'\xef\xbb\xbf', b'\xff\xfe', b'\x1f\x8b', b'[', b'\n\n'])
        text = text or bytearray(b' ')
    return bytes(text)


def attempt(folder, made_of, draw):
    """One of the folder's examples and None, or None and the error."""
    try:
        source = CocoPanoptic(str(folder), 'tiny', captions=made_of)
        return source[draw.randrange(len(source))], None
    except (ValueError, FileNotFoundError) as error:
        return None, error


def test_damaged_annotations_are_read_or_refused_in_one_sentence(folder):
    draw = random.Random(11)
    whole = dict(zip(('panoptic', 'captions'), contents(folder), strict=True))
    originals = {name: json.dumps(content).encode() for name, content in whole.items()}
    paths = {name: folder / f'annotations/{name}_tiny.json' for name in originals}
    refused = 0
    for name, path in paths.items():
        path.write_bytes(originals[name])
    for _ in range(COUNT):
        name = draw.choice(['panoptic', 'panoptic', 'captions'])
        change = draw.choice([change_structure, change_structure, change_bytes])
        damaged = change(whole[name], draw)
        paths[name].write_bytes(damaged)
        made_of = draw.choice(['file', 'file', 'categories'])
        example, error = attempt(folder, made_of, draw)
        paths[name].write_bytes(originals[name])
        if error:
            # A decoder's own error is a ValueError as well, but no sentence.
            assert type(error) in (ValueError, FileNotFoundError), damaged
            assert str(folder) in str(error), damaged
            assert str(error).isprintable(), damaged
            assert len(str(error)) < 700, damaged
            refused += 1
            continue
        assert example.category.shape == example.instance.shape == coco_folders.SIZE
        assert all(text and text.encode() for text in example.captions)
        assert -(2**63) <= example.image_id < 2**63
    # Both happen often, or the damage is not of the right size.
    assert COUNT // 8 < refused < COUNT * 7 // 8
