"""What a sampling job is asked for: one prompt, a file of them, or the captions of a split.

`sample.py` draws the pairs that are asked for here, and `data/given_maps.py` reads the maps that a
file names.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from etils import epath

from panoptic_jax.data import text_files
from panoptic_jax.data.loader import Split

Request = dict[str, Any]
"""'caption', and from a split 'image_id' and 'record', the index of the caption's image; from a
file of JSON lines what its lines name of 'map', 'json' and 'seed', and 'copy' beside a seed: how
often the line has been used before, where it has."""

SEEDS = 2**32  # JAX takes the lowest 32 bits of a seed, so larger ones would be others in disguise
_NEEDS = "caption, and if you like map, json (the map's annotations) and seed"


class Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A line of a .jsonl file of prompts.

    Attributes:
      caption: The prompt.
      map: A map's picture; its path starts from the folder of the file.
      json: The COCO-panoptic JSON of a coloured map, likewise.
      seed: The pair's own seed, which makes it independent of the line's number.
    """

    caption: str
    map: str | None = None
    json: str | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, lt=SEEDS)] | None = None


def of_prompts(prompt: str, path: str, *, count: int, given_map: bool) -> list[Request]:
    """The prompts of the settings: one text, or those of a file.

    Args:
      prompt: One prompt; '' where a file is named.
      path: See `of_file`; '' where a prompt is given.
      count: Pairs to generate; 0 stands for one a prompt.
      given_map: Whether the model needs a map beside each caption.

    Raises:
      FileNotFoundError, ValueError: the errors of `of_prompt` and `of_file`; both are given; maps
        for a model that is given none, or none for a model that needs them.
    """
    if prompt and path:
        raise ValueError(
            f'sample.prompt is {prompt!r} and sample.prompts {path!r}; set one of them: a text, or '
            'a file.'
        )
    requests = of_file(path, count) if path else of_prompt(prompt, count)
    for request in requests:
        if given_map and 'map' not in request:
            raise ValueError(
                f'This model needs a map beside each caption, and {request["caption"]!r} has none; '
                'take sample.prompts=FILE.jsonl with lines {"caption": ..., "map": ...}, or leave '
                'sample.prompts and sample.prompt empty to take those of sample.split.'
            )
        if 'map' in request and not given_map:
            raise ValueError(
                f'This model is given no maps, and {path} names {request["map"]!r}; leave the maps '
                'out, or take a model that was trained with model.given_map.'
            )
    return requests


def of_prompt(prompt: str, count: int) -> list[Request]:
    """One prompt, `count` times; 0 stands for once.

    Raises:
      ValueError: the prompt is empty.
    """
    if not prompt.strip():
        raise ValueError(f'sample.prompt is {prompt!r}; it must be a text.')
    # Python keeps bytes that are no UTF-8 in this form.
    if any('\ud800' <= letter <= '\udfff' for letter in prompt):
        raise ValueError(
            f'sample.prompt is {prompt!r}, with half of a character; write it in UTF-8.'
        )
    return _repeated([{'caption': prompt.strip()}], count)


def of_file(path: str, count: int) -> list[Request]:
    """The prompts of a file in order, again and again until there are `count` requests.

    Args:
      path: A text file with a prompt in each line, or a .jsonl file with a `Line` in each; empty
        lines are passed over.
      count: Pairs to generate; 0 stands for one a line.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no text, it holds no prompt, or a line is not what it must be.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(
            f'sample.prompts is {path!r}, which is no file; give a file with a prompt in each '
            'line, or one prompt as sample.prompt.'
        )
    if file.suffix.lower() == '.jsonl':
        lines = [_of_line(file, *entry) for entry in text_files.read_entries(file, Line, _NEEDS)]
    else:
        prompts = [line.strip() for line in text_files.read_lines(file)]
        lines = [{'caption': prompt} for prompt in prompts if prompt]
    if not lines:
        raise ValueError(f'sample.prompts is {path!r}, which holds no prompt; write one a line.')
    return _repeated(lines, count)


def _of_line(path: epath.Path, number: int, line: Line) -> Request:
    """What a line asks for; raises ValueError where it contradicts itself."""
    place = f'{path}, line {number}'
    if not line.caption.strip():
        raise ValueError(f'{place}: the caption is empty; write one, or leave the line out.')
    if line.json and not line.map:
        raise ValueError(f"{place}: 'json' belongs to a map, and the line names none.")
    return msgspec.to_builtins(line) | {'caption': line.caption.strip()}


def _repeated(lines: Sequence[Request], count: int) -> list[Request]:
    requests = []
    for number in range(count or len(lines)):
        copy, index = divmod(number, len(lines))
        request = lines[index]
        # The same seed once more would give the same pair once more.
        again = {'copy': copy} if copy and 'seed' in request else {}
        requests.append(request | again)
    return requests


def of_split(split: Split, count: int, seed: int) -> list[Request]:
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

    requests = []
    for number in range(count or len(split)):
        index = number % len(split)
        captions, image_id = captions_of(index)
        # A generator for each pair: a longer job begins with the same captions.
        caption = np.random.default_rng([seed, number]).choice(captions)
        requests.append({'caption': str(caption), 'image_id': image_id, 'record': index})
    return requests
