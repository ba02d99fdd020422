"""What a sampling job is asked for: one prompt, a file of them, or the captions of a split.

`sample.py` draws the pairs that are asked for here. `data/request_lines.py` says what one line of a
file may be, and `programs/requested.py` which lines a model can serve.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
from etils import epath

from panoptic_jax.data import request_lines, text_files
from panoptic_jax.data.loader import Split
from panoptic_jax.data.request_lines import Line

Request = dict[str, Any]
"""'caption', and from a split 'image_id' and 'record', the index of the caption's image; from a
file of JSON lines what its lines name, and 'copy' beside a seed or an id: how often the line has
been used before, where it has, or of how many copies this is which."""

Accept = Callable[[Line], Request]
"""What a model makes of a line: the request of its first pair. Raises FileNotFoundError or
ValueError where it cannot serve the line."""


class Rejected(NamedTuple):
    """A line that no pair is drawn for.

    Attributes:
      line: Its number, from 1.
      reason: What is wrong about it, a sentence.
    """

    line: int
    reason: str


class Asked(NamedTuple):
    """What a job is asked for.

    Attributes:
      requests: {number of the pair: its request}, ascending. Lines that are rejected keep their
        numbers, so that the others stay what they are when these are corrected.
      rejected: The lines without pairs.
    """

    requests: dict[int, Request]
    rejected: list[Rejected]


def as_it_is(line: Line) -> Request:
    """The request of a line that nobody else has to look at."""
    fields = msgspec.to_builtins(line)
    return {name: value for name, value in fields.items() if name != 'copies'}


def name_of(number: int, request: Request) -> str:
    """The name of a pair's files without their ending."""
    if 'id' not in request:
        return f'{number:08d}'
    return f'{request["id"]}_{request["copy"]:04d}' if 'copy' in request else request['id']


def of_prompts(prompt: str, path: str, *, count: int, accept: Accept = as_it_is) -> Asked:
    """The prompts of the settings: one text, or those of a file.

    Args:
      prompt: One prompt; '' where a file is named.
      path: See `of_file`; '' where a prompt is given.
      count: Pairs to generate; 0 stands for one a prompt.
      accept: Asked of each line.

    Raises:
      FileNotFoundError, ValueError: the errors of `of_prompt` and `of_file`; both are given.
    """
    if prompt and path:
        raise ValueError(
            f'sample.prompt is {prompt!r} and sample.prompts {path!r}; set one of them: a text, or '
            'a file.'
        )
    return of_file(path, count, accept) if path else of_prompt(prompt, count, accept)


def of_prompt(prompt: str, count: int, accept: Accept = as_it_is) -> Asked:
    """One prompt, `count` times; 0 stands for once.

    Raises:
      ValueError: the prompt is empty, or the model cannot serve it.
    """
    if not prompt.strip():
        raise ValueError(f'sample.prompt is {prompt!r}; it must be a text.')
    # Python keeps bytes that are no UTF-8 in this form.
    if any('\ud800' <= letter <= '\udfff' for letter in prompt):
        raise ValueError(
            f'sample.prompt is {prompt!r}, with half of a character; write it in UTF-8.'
        )
    request = accept(Line(caption=prompt.strip()))
    return Asked({number: request for number in range(count or 1)}, [])


def of_file(path: str, count: int, accept: Accept = as_it_is) -> Asked:
    """The prompts of a file in order, again and again until there are `count` pairs.

    Args:
      path: A text file with a prompt in each line, or a .jsonl file with a `Line` in each; empty
        lines are passed over.
      count: Pairs to generate, those of rejected lines included; 0 stands for each line once.
      accept: Asked of each line.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no text, or it holds no line that is good.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(
            f'sample.prompts is {path!r}, which is no file; give a file with a prompt in each '
            'line, or one prompt as sample.prompt.'
        )
    if file.suffix.lower() == '.jsonl':
        entries = text_files.read_each_entry(file, Line, request_lines.NEEDS)
    else:
        prompts = enumerate(text_files.read_lines(file), start=1)
        entries = [(number, Line(prompt)) for number, prompt in prompts if prompt.strip()]
    if not entries:
        raise ValueError(f'sample.prompts is {path!r}, which holds no prompt; write one a line.')
    lines, rejected = _accepted(entries, count, accept)
    if len(rejected) == len(lines):
        raise ValueError(
            f'No line of {path} can be drawn, of {len(rejected)}; the first, line '
            f'{rejected[0].line}: {rejected[0].reason}'
        )
    return Asked(_numbered(lines, count), rejected)


class _Use(NamedTuple):
    """A line as it is used.

    Attributes:
      request: What it asks for; None where it is rejected.
      copies: Pairs that it asks for.
    """

    request: Request | None
    copies: int


def _accepted(
    entries: list[tuple[int, Line | str]], count: int, accept: Accept
) -> tuple[list[_Use], list[Rejected]]:
    """All lines, and those among them that are rejected."""
    copies = [1 if isinstance(line, str) else line.copies or 1 for _, line in entries]
    unnamed = _numbers_without_id(entries, copies, count)
    names = request_lines.Names()
    lines, rejected = [], []
    for (number, line), pairs in zip(entries, copies, strict=True):
        request = None
        try:
            request = _request(line, accept, unnamed)
            if line.id is not None:
                names.take(line.id, number)
        except (FileNotFoundError, ValueError) as error:
            request = None
            rejected.append(Rejected(number, str(error)))
        lines.append(_Use(request, pairs))
    return lines, rejected


def _numbers_without_id(
    entries: list[tuple[int, Line | str]], copies: list[int], count: int
) -> Callable[[int], bool]:
    """Whether the pair of a number has its number for a name."""
    ends = np.cumsum(copies)

    def is_unnamed(number: int) -> bool:
        if number >= (count or ends[-1]):
            return False
        _, line = entries[int(np.searchsorted(ends, number % ends[-1], side='right'))]
        return isinstance(line, str) or line.id is None

    return is_unnamed


def _request(line: Line | str, accept: Accept, is_unnamed: Callable[[int], bool]) -> Request:
    """What a line asks for; raises what is wrong about it."""
    if isinstance(line, str):
        raise ValueError(line)
    line = request_lines.checked(line)
    own = line.id
    is_number = own is not None and own.isascii() and own.isdecimal()
    if is_number and own == f'{int(own):08d}' and is_unnamed(int(own)):
        raise ValueError(
            f'the id {own!r} is the name of pair {int(own)}, whose line has no id; choose another '
            'one.'
        )
    return accept(line)


def _numbered(lines: list[_Use], count: int) -> dict[int, Request]:
    """The pairs of the lines, again and again."""
    total = sum(line.copies for line in lines)
    requests, number, rounds = {}, 0, 0
    while number < (count or total):
        for line in lines:
            for copy in range(line.copies):
                if line.request is not None and number < (count or total):
                    requests[number] = line.request | _copy(line, rounds * line.copies + copy)
                number += 1
        rounds += 1
    return requests


def _copy(line: _Use, copy: int) -> Request:
    """What tells the pairs of one line apart."""
    if 'id' in line.request:
        return {'copy': copy} if copy or line.copies > 1 else {}
    # The same seed once more would give the same pair once more.
    return {'copy': copy} if copy and 'seed' in line.request else {}


def of_split(split: Split, count: int, seed: int) -> Asked:
    """The images of a split in order, again and again, each with one of its captions.

    Args:
      split: A prepared split.
      count: Pairs to generate; 0 stands for one an image.
      seed: Decides the caption, with the pair's number.
    """

    @functools.cache  # reading a record with its text features costs far more than keeping these
    def captions_of(index):
        record = split[index]
        return record['captions'], int(record['image_id'])

    requests = {}
    for number in range(count or len(split)):
        index = number % len(split)
        captions, image_id = captions_of(index)
        # A generator for each pair: a longer job begins with the same captions.
        caption = np.random.default_rng([seed, number]).choice(captions)
        requests[number] = {'caption': str(caption), 'image_id': image_id, 'record': index}
    return Asked(requests, rejected=[])
