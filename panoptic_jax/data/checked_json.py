"""Reads a JSON file into typed structs, and says in one sentence which entry of it is wrong.

msgspec validates while it reads. What the entries are, the caller says with `msgspec.Struct`s:
`data/coco_annotations.py` has those of COCO.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from etils import epath

Form = TypeVar('Form')

_SHOWN = 60  # characters of a wrong value in a sentence
_KINDS = {
    'array': 'a list',
    'object': 'an object',
    'str': 'a text',
    'int': 'a whole number',
    'bool': 'true or false',
}


def read(
    path: epath.Path, form: type[Form], *, words: Mapping[str, str], fix: str
) -> tuple[Form, str]:
    """Reads a JSON file that must have a certain form.

    Args:
      path: The JSON file.
      form: The type of its content. Keys that the type does not name are skipped.
      words: For the sentence about a wrong entry: {'annotations.image_id': what it must be}, where
        its type does not say enough, and under '' what the file must be.
      fix: What the user can do about a missing or damaged file, for the sentence.

    Returns:
      The content, and the SHA-256 of the file's bytes.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is not valid JSON, or an entry is not what it must be.
    """
    if not path.exists():
        raise FileNotFoundError(f'{path} is missing; {fix}.')
    # The hash is of the bytes as they are: another release, though equal in content, shows.
    text = path.read_bytes()
    sha256 = hashlib.sha256(text).hexdigest()
    try:
        return msgspec.json.decode(text, type=form), sha256
    except msgspec.ValidationError as error:
        content = _read_loosely(path, text, fix)
        raise ValueError(_sentence(path, str(error), content, words)) from error
    # The decoder's own strings raise UnicodeDecodeError where a byte is no UTF-8.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        content = _read_loosely(path, text, fix)
    # Python's reader knows more than the standard: NaN, UTF-16, a byte order mark. Where such a
    # thing stands in a field that nobody reads, the file is as good as any.
    try:
        checked = msgspec.convert(content, form)
    except msgspec.ValidationError as error:
        raise ValueError(_sentence(path, str(error), content, words)) from error
    except UnicodeEncodeError as error:
        raise ValueError(
            f'{path} has a key that is no text: {error.object!a} holds half a character; {fix} '
            'again.'
        ) from error
    place = _broken_text(msgspec.to_builtins(checked), '$')
    if place:
        problem = f'Expected text - at `{place}`'
        raise ValueError(_sentence(path, problem, content, words))
    return checked, sha256


def shown(value: Any) -> str:
    """A JSON value for a sentence: short, printable, in JSON's own spelling."""
    if isinstance(value, list | dict):
        name = 'a list' if isinstance(value, list) else 'an object'
        return f'{name} of {len(value)} entries'
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'


def _read_loosely(path: epath.Path, text: bytes, fix: str) -> Any:
    """The content of a JSON file of any form; raises ValueError where it is no JSON."""
    if not text.strip():
        raise ValueError(f'{path} is empty; {fix} again.')
    if text[:2] == b'\x1f\x8b':
        raise ValueError(f'{path} is packed with gzip; unpack it: gunzip.')
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(
            f'{path} is not valid JSON (lists within lists without end); {fix} again.'
        ) from None
    except ValueError as error:
        reason = str(error)
        if reason.startswith('Extra data'):
            reason = f'it goes on behind its end: {reason}; JSON Lines must become one object'
        raise ValueError(f'{path} is not valid JSON ({reason}); {fix} again.') from error


def _integer(digits: str) -> int | float:
    """The number; infinite where Python refuses to read so many digits."""
    return int(digits) if len(digits) < 1000 else math.inf


def _sentence(path: epath.Path, problem: str, content: Any, words: Mapping[str, str]) -> str:
    """Says in plain words what msgspec says of an entry.

    Args:
      path: The JSON file.
      problem: The text of msgspec's error, which ends on the place: '- at `$.images[3].id`'.
      content: The content of the file, read without a type.
      words: See `read`.
    """
    reason, _, place = problem.partition(' - at `$')
    steps = re.findall(r'\.(\w+)|\[(\d+)\]', place)
    where, names, value = _follow(content, steps)
    subject = f'{path}: {where}' if where else f'{path}'
    missing = re.match(r'Object missing required field `(\w+)`', reason)
    if missing:
        return f'{subject} lacks {missing[1]!r}; {words[""]}.'
    if not steps:
        return f'{subject} is {value}; {words[""]}.'
    _, index = steps[-1]
    required = words.get('.'.join(names), '')
    # The words for a list do not describe its entries.
    if index or not required:
        required = _in_words(reason)
    return f'{subject} is {value}; it must be {required}.'


def _in_words(reason: str) -> str:
    """The types that msgspec expected: 'a whole number or a text' for its 'int | str'."""
    expected = re.match(r'Expected `([^`]*)`', reason)
    kinds = expected[1].split(' | ') if expected else []
    return ' or '.join(_KINDS.get(kind, kind) for kind in kinds) or 'a value of the usual kind'


def _follow(content: Any, steps: list[tuple[str, str]]) -> tuple[str, list[str], str]:
    """Follows the steps (name, '') or ('', index) of a place through the content.

    Returns:
      The place in plain words, the names on the way, and the value there for a sentence.
    """
    names: list[str] = []
    places: list[str] = []
    value = content
    for name, index in steps:
        if name:
            names.append(name)
            places.append(repr(name))
        else:
            of_list = f' of {places.pop()}' if places else ''
            places.append(f'entry {index}{of_list}')
        try:
            value = value[name] if name else value[int(index)]
        # An object may hold a key twice, and Python takes the second where msgspec stopped at the
        # first.
        except (LookupError, TypeError):
            return _joined(places), names, 'of another kind'
        if index and isinstance(value, dict):
            places[-1] += _named(value)
    return _joined(places), names, shown(value)


def _joined(places: list[str]) -> str:
    """What is inside comes first: "'id' of entry 2 of 'annotations'"."""
    return ' of '.join(reversed(places))


def _named(entry: Mapping[str, Any]) -> str:
    """' (image_id 139)' for an entry that says which image it is about, else its id or ''."""
    for key in ('image_id', 'id'):
        if isinstance(entry.get(key), int | str):
            return f' ({key} {shown(entry[key])})'
    return ''


def _broken_text(value: Any, place: str) -> str:
    """The place of the first text that holds half a character, which no file can hold; or ''."""
    if isinstance(value, str):
        return '' if value.isascii() or _is_unicode(value) else place
    if isinstance(value, dict):
        inner = ((f'{place}.{name}', each) for name, each in value.items())
    elif isinstance(value, list):
        inner = ((f'{place}[{number}]', each) for number, each in enumerate(value))
    else:
        return ''
    return next((found for at, each in inner if (found := _broken_text(each, at))), '')


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
