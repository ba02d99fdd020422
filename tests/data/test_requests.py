"""What a sampling job is asked for: prompts, files of them, captions of a split."""

import json

import jax
import numpy as np
import pytest

from panoptic_jax.data import loader
from panoptic_jax.data.requests import of_prompts, of_split
from panoptic_jax.programs.keys import pair_keys, request_keys


def asked(prompt='', path='', count=0):
    """The requests in their order, of lines that are all good."""
    found = of_prompts(prompt, str(path), count=count)
    assert not found.rejected
    assert list(found.requests) == list(range(len(found.requests)))
    return list(found.requests.values())


def test_a_prompt_is_one_text():
    assert asked(' a red ball; and a\tblue one ') == [{'caption': 'a red ball; and a\tblue one'}]
    assert asked('word ' * 2000, count=3) == 3 * [{'caption': ('word ' * 2000).strip()}]


def test_a_file_gives_a_pair_a_line_or_a_larger_number(tmp_path):
    path = tmp_path / 'prompts.txt'
    path.write_bytes(b'\xef\xbb\xbffirst prompt\r\n\n  second\xc2\x85prompt  \nthird prompt')
    expected = ['first prompt', 'second\x85prompt', 'third prompt']
    assert [request['caption'] for request in asked(path=path)] == expected
    five = [request['caption'] for request in asked(path=path, count=5)]
    assert five == expected + expected[:2]


def test_json_lines_name_map_and_seed(tmp_path):
    path = tmp_path / 'prompts.jsonl'
    lines = [{'caption': 'a', 'map': 'x/a.png', 'seed': 7}, {'caption': ' b ', 'map': 'b.png'}]
    path.write_text('\n\n'.join(map(json.dumps, lines)))
    found = asked(path=path, count=3)
    assert found == [lines[0], {'caption': 'b', 'map': 'b.png'}, lines[0] | {'copy': 1}]


def test_other_sources_of_prompts_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is 'a red bal', which is no file; .*prompt"):
        asked(path='a red bal')
    with pytest.raises(ValueError, match='set one of them'):
        asked('a red ball', tmp_path)
    with pytest.raises(ValueError, match='is a folder'):
        asked(path=tmp_path)
    with pytest.raises(ValueError, match=r"sample\.prompt is ' '"):
        asked(' ')
    with pytest.raises(ValueError, match=r'sample\.prompt .* half of a character'):
        asked('a \udcff')


def test_a_seed_of_its_own_makes_a_pair_independent_of_its_place():
    requests = [
        {'caption': 'a'},
        {'caption': 'b', 'seed': 7},
        {'caption': 'b', 'seed': 7, 'copy': 2},
    ]
    found = jax.random.key_data(request_keys(3, [10, 11, 12], requests))
    expected = [pair_keys(3, 10, 1), pair_keys(7, 0, 1), pair_keys(7, 2, 1)]
    for row, key in zip(found, expected, strict=True):
        np.testing.assert_array_equal(row, jax.random.key_data(key)[0])


def captions(split, count, seed):
    return list(of_split(split, count, seed).requests.values())


def test_captions_of_a_split_are_drawn_by_seed_and_number(config):
    split = loader.Split(config.data.dir, 'validation')
    first = captions(split, 20, seed=0)
    assert [request['record'] for request in first] == [i % 8 for i in range(20)]
    assert captions(split, 7, seed=0) == first[:7]
    assert captions(split, 0, seed=0) == first[:8]  # one an image
    assert captions(split, 7, seed=1) != first[:7]
    pairs = [(first[i]['caption'], first[i + 8]['caption']) for i in range(8)]
    assert any(one != two for one, two in pairs)  # the same picture, another caption
