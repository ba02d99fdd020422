"""Which image a pair belongs to: by its number and its caption, never by its number alone."""

import numpy as np
import pytest

from panoptic_jax.scoring import truth

WORDS = ('a red ball', 'two cats', 'the sea at night', 'a loaf of bread')


class FakeSplit(list):
    """Records with the source's ids 30, 10, 40, 20."""

    def __init__(self):
        captions = np.random.default_rng(0).permutation(WORDS).tolist()
        super().__init__({'captions': [text, f'{text} again']} for text in captions)

    def image_ids(self):
        return [30, 10, 40, 20]


SPLIT = FakeSplit()


def caption_of(index):
    return SPLIT[index]['captions'][1]


def own(index, **others):
    """An entry of our own samples."""
    entry = {'file_name': f'{index}.png', 'record': index, 'image_id': SPLIT.image_ids()[index]}
    return entry | {'caption': caption_of(index)} | others


def others(index, **fields):
    """An entry of others."""
    return {'file_name': f'{index}.jpg', 'image_id': SPLIT.image_ids()[index]} | fields


def owners(entries):
    return truth.owners_of(entries, SPLIT, 'the split')


def test_own_samples_belong_to_their_records():
    assert owners([own(2), own(0), own(2)]).indices == [2, 0, 2]


def test_others_belong_to_their_image_ids():
    found = owners([others(3), others(1, caption=f'  {caption_of(1).upper()} ')])
    assert found.indices == [3, 1]
    assert found.captions == {index: SPLIT[index]['captions'] for index in (3, 1)}


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (own(2, image_id=30), r'2\.png was drawn for record 2, image 30; .* has image 40 there'),
        (own(2, record=4), r'record 4, image 40; the split has no such record'),
        (own(2, record=-2), r'record -2, .* no such record'),
        (own(2, record='2'), r'record 2, .* no such record'),
        (
            own(2, caption='a square'),
            r"2\.png has the caption 'a square', which is none of image 40",
        ),
        (
            others(1, caption='a square'),
            r"1\.jpg has the caption 'a square', which is none of image",
        ),
        (others(1, captions=['a', 'b']), r"the caption 'a', which is none of image 10"),
    ],
)
def test_pairs_of_other_data_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        owners([own(0) if 'record' in entry else others(0), entry])


def test_ids_that_the_split_lacks_leave_no_score_and_say_why():
    found = owners([others(0), others(1, image_id=99)])
    assert found.indices is None
    assert (
        found.lacking == '1 of 2 pairs have an image_id that the split lacks, the first 99 of 1.jpg'
    )


def test_pairs_without_ids_leave_no_score_and_say_why():
    found = owners([others(0), {'file_name': 'a.png', 'caption': 'b'}])
    assert found.indices is None
    assert found.lacking == '1 of 2 pairs have no image_id, which names their picture of the split'


def test_captions_are_those_of_the_image_or_the_pairs_own():
    entries = [others(2), others(0)]
    captions = truth.captions_of(entries, owners(entries))
    assert [captions(0), captions(1)] == [SPLIT[2]['captions'], SPLIT[0]['captions']]
    entries = [{'file_name': 'a', 'caption': 'x'}, {'file_name': 'b', 'captions': ['y', 'z']}]
    captions = truth.captions_of(entries, owners(entries))
    assert [captions(0), captions(1)] == [['x'], ['y', 'z']]
    entries = [{'file_name': 'a', 'caption': 'x'}, {'file_name': 'b'}]
    assert truth.captions_of(entries, owners(entries)) is None


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('caption', ''), ('caption', '  '), ('caption', None), ('caption', ['a cup']),
        ('captions', 'a cup'), ('captions', []), ('captions', ['a', None]), ('captions', ['']),
        ('image_id', '30'), ('image_id', None), ('image_id', 30.0), ('image_id', True),
        ('file_name', 'first.png'),
    ],
)  # fmt: skip
def test_entries_that_would_be_misread_are_refused(field, value):
    entries = [{'file_name': 'first.png'}, {'file_name': 'second.png'} | {field: value}]
    with pytest.raises(ValueError, match=f"captions.json: '{field}' of entry 1 is .*; it must"):
        truth.check_entries(entries, 'captions.json')
