"""Files of requests: what a line may say, what it must not, and which names its files get."""

import json

import numpy as np
import pytest

from panoptic_jax.data.requests import name_of, of_file

# A line, and how the sentence about it goes on.
WRONG = [
    ('{"caption": ["a", "b"]}', "Expected 'str', got 'array' in caption"),
    ('{"map": "a.png"}', "required field 'caption'"),
    ('{"caption": null}', "Expected 'str', got 'null'"),
    ('{"caption": " "}', 'the caption is empty'),
    ('{"caption": "a", "sed": 3}', "unknown field 'sed'"),
    ('{"caption": "a", "seed": -1}', 'seed'),
    ('{"caption": "a", "seed": 4294967296}', 'seed'),
    ('{"caption": "a", "seed": 123456789012345678901}', 'seed'),
    ('{"caption": "a", "seed": true}', 'seed'),
    ('{"caption": "a", "seed": NaN}', 'no number of JSON'),
    ('{"caption": "a", "seed": 1.5}', 'seed'),
    ('{"caption": "a", "copies": 0}', 'copies'),
    ('{"caption": "a", "copies": 10001}', 'copies'),
    ('{"caption": "a", "json": "a.json"}', "'json' belongs to a map"),
    ('{"caption": "a", "map": ""}', "'map' is empty"),
    ('{"caption": "a", "image": "a\\u0000.png"}', 'NUL character'),
    ('{"caption": "\\ud800"}', 'half of a surrogate pair'),
    ('a plain prompt', 'each line must be a JSON object'),
    ('["caption"]', "Expected 'object', got 'array'"),
    ('{"caption": "a"', 'each line must be a JSON object'),
    (b'{"caption": "caf\xe9"}', 'holds the byte 0xe9 and so is no text in UTF-8'),
    ('{"caption": "a", "id": ""}', 'the id is empty'),
    ('{"caption": "a", "id": 7}', "Expected 'str"),
    ('{"caption": "a", "id": "../a"}', 'holds a path'),
    ('{"caption": "a", "id": "b\\\\a"}', 'holds a path'),
    ('{"caption": "a", "id": ".a"}', 'holds a dot'),
    ('{"caption": "a", "id": "a\\u0007"}', 'cannot be seen'),
    ('{"caption": "a", "id": "a\\u202e"}', 'cannot be seen'),
    ('{"caption": "a", "id": " a"}', 'begins or ends with a blank'),
    ('{"caption": "a", "id": "a:b"}', 'no file on Windows may'),
    ('{"caption": "a", "id": "nul"}', 'name of a device'),
    ('{"caption": "a", "id": "' + 101 * 'a' + '"}', 'the id has 101 characters'),
    ('{"caption": "a", "id": "' + 90 * 'あ' + '"}', 'the id has 90 characters'),
    ('{"caption": "a", "id": "GOOD"}', 'is that of line 1, or differs from it in upper and lower'),
    ('{"caption": "a", "id": "good_0001"}', 'that of line 1 could name the same copy'),
    ('{"caption": "a", "id": "00000002"}', 'is the name of pair 2, whose line has no id'),
    ('{"caption": "a", "guidance": 101}', 'guidance'),
    ('{"caption": "a", "guidance": "much"}', 'guidance'),
    ('{"caption": "a", "negative": ""}', "'negative' is empty"),
    ('{"caption": "a", "negative": "b", "guidance": 0}', 'no effect with a guidance of 0'),
    ('{"caption": "a", "known": "a.png"}', 'names neither image nor map'),
    ('{"caption": "a", "strength": 0.5}', 'names neither image nor map'),
    ('{"caption": "a", "image": "a.png", "strength": 0}', 'strength'),
    ('{"caption": "a", "image": "a.png", "strength": 1.5}', 'strength'),
    ('{"caption": "a", "image": "a.png", "known": {"map": "b.png"}}', 'the line names no map'),
    ('{"caption": "a", "image": "a.png", "known": {"depth": "b.png"}}', "an entry 'depth'"),
    ('{"caption": "a", "image": "a.png", "known": {}}', "'known' is empty"),
    ('{"caption": "a", "image": "a.png", "known": " "}', "'known' is empty"),
]


@pytest.mark.parametrize(('line', 'message'), WRONG)
def test_a_wrong_line_is_one_sentence_and_stops_no_other(tmp_path, line, message):
    path = tmp_path / 'list.jsonl'
    line = line if isinstance(line, bytes) else line.encode()
    good = b'{"caption": "a", "id": "good"}'
    path.write_bytes(b'\n'.join([good, b'', line, b'{"caption": "b"}']))
    found = of_file(str(path), 0)
    (rejected,) = found.rejected
    assert rejected.line == 3
    assert message in rejected.reason
    assert '\n' not in rejected.reason
    assert rejected.reason[-1] == '.'
    # The others are what they are when the line is corrected.
    assert {n: request['caption'] for n, request in found.requests.items()} == {0: 'a', 2: 'b'}


def test_a_list_without_a_good_line_is_refused(tmp_path):
    path = tmp_path / 'list.jsonl'
    path.write_text('{"caption": ""}\n[]')
    with pytest.raises(ValueError, match=r'No line of .*, of 2; the first, line 1: the caption is'):
        of_file(str(path), 0)
    path.write_text('')
    with pytest.raises(ValueError, match='holds no prompt'):
        of_file(str(path), 0)
    path.write_bytes('{"caption": "a"}'.encode('utf-16'))
    with pytest.raises(ValueError, match='UTF-16'):
        of_file(str(path), 0)


def test_copies_are_numbered_and_named(tmp_path):
    path = tmp_path / 'list.jsonl'
    lines = [
        {'caption': 'a', 'id': 'x', 'copies': 2},
        {'caption': 'b', 'copies': 2},
        {'caption': 'c', 'seed': 5, 'copies': 2},
        {'caption': 'd', 'id': 'y'},
    ]
    path.write_text('\n'.join(map(json.dumps, lines)))
    found = of_file(str(path), 0).requests
    assert list(found) == list(range(7))
    names = ['x_0000', 'x_0001', '00000002', '00000003', '00000004', '00000005', 'y']
    assert [name_of(*pair) for pair in found.items()] == names
    assert found[4] == {'caption': 'c', 'seed': 5}
    assert found[5] == {'caption': 'c', 'seed': 5, 'copy': 1}
    # The list once more gives other copies, and the first pairs stay what they are.
    longer = of_file(str(path), 14).requests
    assert {n: longer[n] for n in found} == found
    more = ['x_0002', 'x_0003', '00000009', '00000010', '00000011', '00000012', 'y_0001']
    assert [name_of(n, longer[n]) for n in range(7, 14)] == more
    assert [longer[n].get('copy') for n in range(7, 14)] == [2, 3, None, None, 2, 3, 1]
    assert len(np.unique([name_of(*pair) for pair in longer.items()])) == 14
