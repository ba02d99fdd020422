"""Reading text files that people write: prompts, captions beside images, and lines of JSON.

What such a file is wrong about is said in one sentence that names it. `data/folder.py` and
`data/requests.py` say what its lines mean. `data/coco_annotations.py` reads JSON files.
"""

import codecs
import json
import math
import re
from typing import Any, TypeVar

import msgspec
from etils import epath

from panoptic_jax.machine import files

Entry = TypeVar('Entry')

# UTF-32 comes first: its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: 'UTF-32',
    codecs.BOM_UTF32_BE: 'UTF-32',
    codecs.BOM_UTF16_LE: 'UTF-16',
    codecs.BOM_UTF16_BE: 'UTF-16',
}


def read_lines(path: epath.Path) -> list[str]:
    r"""The lines of a text file without their ends, empty lines included.

    Only `\n` and `\r\n` end a line. What `str.splitlines` takes for an end besides (form feeds,
    U+0085, U+2028 and others) and a `\r` inside a line are white space of that line. A byte order
    mark is no part of the first line.

    Args:
      path: The file, in UTF-8.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the path is a folder, or the file cannot be read, is in another encoding, is
        binary, or ends its lines with `\r` alone.
    """
    text = _read_text(epath.Path(path))
    lines = [line.removesuffix('\r') for line in text.split('\n')]
    if len(lines) == 1 and '\r' in lines[0]:
        raise ValueError(
            f'{path} ends its lines with a carriage return alone, as old Macs did; save it with '
            'line feeds.'
        )
    # A file that ends with a line's end has no empty line after it.
    return lines if lines[-1] else lines[:-1]


def read_entries(path: epath.Path, kind: type[Entry], needs: str) -> list[tuple[int, Entry]]:
    """The JSON objects of a file with one of them in each line; empty lines are passed over.

    Args:
      path: The file, in UTF-8.
      kind: A `msgspec.Struct`, whose fields and their types each object must have. Other fields of
        an object are passed over.
      needs: What each line must hold, in words, for the messages.

    Returns:
      (number of the line, from 1; the object) for each object.

    Raises:
      FileNotFoundError, ValueError: the errors of `read_lines`; a line is not JSON, or lacks a
        field, or a field has another type. The message names file, line and field.
    """
    decoder = msgspec.json.Decoder(kind)
    entries = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            entries.append((number, decoder.decode(line)))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f'{path}, line {number}: {_explain(line, error)}; each line must be a JSON object '
                f'with {needs}.'
            ) from error
    return entries


def read_each_entry(
    path: epath.Path, kind: type[Entry], needs: str
) -> list[tuple[int, Entry | str]]:
    """What `read_entries` gives, with a sentence in the place of each line that is wrong.

    Args:
      path: The file, in UTF-8.
      kind: See `read_entries`.
      needs: See `read_entries`.

    Returns:
      (number of the line, from 1; the object, or what is wrong about the line).

    Raises:
      FileNotFoundError, ValueError: the file as a whole cannot be read, or is no text in UTF-8.
    """
    content = _read_content(path)
    encoding = _wide_encoding(content)
    if encoding:
        raise ValueError(f'{path} is no text in UTF-8 but {encoding}.')
    decoder = msgspec.json.Decoder(kind)
    lines = content.removeprefix(codecs.BOM_UTF8).split(b'\n')
    entries = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            entries.append((number, _entry_of(line.strip(), decoder, needs)))
    return entries


def _entry_of(line: bytes, decoder: msgspec.json.Decoder, needs: str) -> Any:
    """The object of a line, or what is wrong about it."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        wrong = f'0x{line[error.start]:02x}'
        return f'the line holds the byte {wrong} and so is no text in UTF-8; save it as UTF-8.'
    try:
        return decoder.decode(text)
    except (ValueError, RecursionError) as error:
        return f'{_explain(text, error)}; each line must be a JSON object with {needs}.'


def _read_content(path: epath.Path) -> bytes:
    return files.read_whole(
        path,
        missing='correct the name or restore it',
        folder='a folder; give the name of a text file',
        unreadable='give a readable text file',
    )


def _read_text(path: epath.Path) -> str:
    """The text of a UTF-8 file; raises one sentence for whatever is no such file."""
    content = _read_content(path)
    encoding = _foreign_encoding(content)
    if encoding:
        raise ValueError(f'{path} is no text in UTF-8 but {encoding}.')
    return content.decode('utf-8-sig')


def _wide_encoding(content: bytes) -> str:
    """The encoding of text with several bytes for each letter (a guess); '' for other files."""
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return f'text in {encoding} (by its byte order mark); save it as UTF-8'
    # A NUL is half of a Latin letter in UTF-16, and nothing that UTF-8 text has.
    if b'\0' in content:
        even, odd = content[::2], content[1::2]
        for encoding, nuls, others in (('UTF-16-LE', odd, even), ('UTF-16-BE', even, odd)):
            mostly = nuls.count(b'\0') > len(nuls) / 2 and len(even) == len(odd)
            if mostly and b'\0' not in others:
                return f'probably text in {encoding}; save it as UTF-8'
    return ''


def _foreign_encoding(content: bytes) -> str:
    """What a file is instead of UTF-8 text (a guess), and what to do; '' for UTF-8."""
    if encoding := _wide_encoding(content):
        return encoding
    if b'\0' in content:
        return 'a binary file (it holds NUL bytes); give a text file'
    try:
        content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b'\n', 0, error.start) + 1
        # Windows-1252 puts quotes and dashes where Latin-1 has nothing to print.
        one_byte = 'Windows-1252' if re.search(rb'[\x80-\x9f]', content) else 'Latin-1'
        return (
            f'probably text in {one_byte} (line {number} holds the byte '
            f'0x{content[error.start]:02x}); save it as UTF-8'
        )
    return ''


def _explain(line: str, error: Exception) -> str:
    """What is wrong about a line of JSON, with its field."""
    if isinstance(error, RecursionError):
        return 'its brackets are nested too deeply'
    message = str(error)
    if isinstance(error, msgspec.ValidationError):
        # msgspec names fields as in 'Expected `str`, got `int` - at `$.captions[1]`'.
        return re.sub(r' - at `\$\.?(.*)`$', r' in \1', message).replace('`', "'")
    # Python's reader takes what JSON has no place for, and so finds the field.
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return message
    fields = content.items() if isinstance(content, dict) else ()
    for name, value in fields:
        for part in _leaves([name, value]):
            if isinstance(part, float) and not math.isfinite(part):
                return f'{part} in {name!a}, which is no number of JSON'
            if isinstance(part, str) and re.search('[\ud800-\udfff]', part):
                return f'half of a surrogate pair (an escape such as \\ud800) in {name!a}'
    return message


def _leaves(value: Any) -> list[Any]:
    """All texts and numbers inside a value of JSON."""
    if isinstance(value, dict):
        return _leaves([*value.keys(), *value.values()])
    if isinstance(value, list):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]
