"""Text files of people: encodings, ends of lines, and lines of JSON."""

import msgspec
import numpy as np
import pytest

from panoptic_jax.data import text_files

RNG = np.random.default_rng(0)
WORDS = ['Zürich', 'a “cup”', '猫', 'naïve', 'plain', 'Ελλάδα']


def write(tmp_path, content):
    path = tmp_path / 'prompts.txt'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_only_line_feeds_end_a_line(tmp_path):
    inside = ['a\x0bb', 'a\x0cb', 'a\x1cb', 'a\x1db', 'a\x1eb', 'a\x85b', 'a\u2028b', 'a\u2029b']
    inside += ['a\rb', '', ' x ', *WORDS]
    order = [inside[i] for i in RNG.permutation(len(inside))]
    assert text_files.read_lines(write(tmp_path, '\n'.join(order))) == order
    assert text_files.read_lines(write(tmp_path, '\r\n'.join(order) + '\r\n')) == order
    assert text_files.read_lines(write(tmp_path, '\n'.join(order) + '\n\n')) == [*order, '']
    assert text_files.read_lines(write(tmp_path, '')) == []


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    marked = write(tmp_path, '\ufeffa cup\n\ufeffb\n')
    # Further in, the same character is a space without width.
    assert text_files.read_lines(marked) == ['a cup', '\ufeffb']


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        ('a cup\n'.encode('utf-16'), r'is no text in UTF-8 but text in UTF-16 \(by its byte'),
        ('a cup\n'.encode('utf-32'), r'but text in UTF-32'),
        (b'\xfe\xff' + 'a cup'.encode('utf-16-be'), r'but text in UTF-16 '),
        ('a cup\nZürich\n'.encode('utf-16-le'), r'probably text in UTF-16-LE; save it as UTF-8'),
        ('a cup\nZürich\n'.encode('utf-16-be'), r'probably text in UTF-16-BE'),
        ('plain\ncaf\xe9\n'.encode('latin-1'), r'Latin-1 \(line 2 holds the byte 0xe9\)'),
        ('“cup”\n'.encode('cp1252'), r'Windows-1252 \(line 1 holds the byte 0x93\)'),
        ('茶碗'.encode('shift-jis'), r'is no text in UTF-8'),
        ('茶碗'.encode('gbk'), r'is no text in UTF-8'),
        (b'a\0b', r'a binary file \(it holds NUL bytes\)'),
        (b'\xed\xa0\x80', r'is no text in UTF-8'),
        (RNG.bytes(3000), r'a binary file'),
        (b'a\rb\rc\r', r'ends its lines with a carriage return alone'),
    ],
)
def test_other_encodings_and_binary_files_are_named(tmp_path, content, said):
    with pytest.raises(ValueError, match=rf'prompts\.txt .*{said}') as raised:
        text_files.read_lines(write(tmp_path, content))
    assert '\n' not in str(raised.value)


def test_what_is_no_readable_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.txt is missing'):
        text_files.read_lines(tmp_path / 'none.txt')
    with pytest.raises(ValueError, match=r'is a folder; give the name of a text file'):
        text_files.read_lines(tmp_path)
    within = write(tmp_path, 'a') / 'b.txt'
    for path in (within, tmp_path / 'a\0b', tmp_path / ('x' * 300)):
        with pytest.raises(ValueError, match=r'cannot be read'):
            text_files.read_lines(path)
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(ValueError, match=r'loop cannot be read'):
        text_files.read_lines(tmp_path / 'loop')


class Line(msgspec.Struct):
    """What the tests' lines hold."""

    file_name: str
    captions: str | list[str] | msgspec.UnsetType = msgspec.UNSET


def test_objects_come_with_the_numbers_of_their_lines(tmp_path):
    path = write(
        tmp_path,
        '\ufeff{"file_name": "a", "captions": ["x", "\\ud83d\\ude00"], "more": 1}\r\n'
        ' \n{"captions": "b\u2028c", "file_name": "b"}\n',
    )
    first, second = text_files.read_entries(path, Line, 'file_name')
    assert first == (1, Line('a', ['x', '😀']))
    assert second == (3, Line('b', 'b\u2028c'))


@pytest.mark.parametrize(
    ('line', 'said'),
    [
        ('[]', r"Expected 'object', got 'array'"),
        ('"a"', r"Expected 'object', got 'str'"),
        ('{"captions": "a"}', r"missing required field 'file_name'"),
        ('{"file_name": 3}', r"Expected 'str', got 'int' in file_name"),
        ('{"file_name": null}', r"got 'null' in file_name"),
        ('{"file_name": "a", "captions": ["a", 3]}', r"got 'int' in captions\[1\]"),
        ('{"file_name": "a", "captions": [["a"]]}', r"got 'array' in captions\[0\]"),
        ('{"file_name": "a", "captions": {"a": "b"}}', r"got 'object' in captions"),
        ('{"file_name": "a", "captions": NaN}', r"nan in 'captions', which is no number of JSON"),
        ('{"file_name": "a", "score": [-Infinity]}', r"-inf in 'score'"),
        ('{"file_name": "a", "captions": "\\ud800"}', r"surrogate pair .* in 'captions'"),
        ('{"file_name": "a\\udc00bcdefghijk"}', r"surrogate pair .* in 'file_name'"),
        ('{"file_name": "a", "captions": "a\tb"}', r'is malformed'),
        ('{"file_name": "a"} {}', r'trailing characters'),
        ('{"file_name": "a"', r'truncated'),
        ("{'file_name': 'a'}", r'malformed'),
        ('{"file_name": "a", "x": ' + '[' * 9999, r'nested too deeply'),
    ],
)
def test_wrong_lines_are_named_with_their_field(tmp_path, line, said):
    path = write(tmp_path, '{"file_name": "good"}\n\n' + line)
    expected = rf'prompts\.txt, line 3: .*{said}.*; each line must be a JSON object with a name\.'
    with pytest.raises(ValueError, match=expected) as raised:
        text_files.read_entries(path, Line, 'a name')
    assert '\n' not in str(raised.value)
    str(raised.value).encode()  # a terminal can show it
