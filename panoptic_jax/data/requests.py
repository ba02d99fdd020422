"""What a sampling job is asked for: prompts, or the captions of a prepared split.

`sample.py` draws the pairs that are asked for here.
"""

import functools
from typing import Any

import numpy as np
from etils import epath

from panoptic_jax.data.loader import Split

Request = dict[str, Any]
"""'caption', and from a split 'image_id' and 'record', the index of the caption's image."""


def of_prompts(text: str, count: int) -> list[Request]:
    """The prompts in order, again and again until there are `count` requests.

    Args:
      text: Path of a text file with a prompt in each line, or a prompt.
      count: Pairs to generate.

    Raises:
      ValueError: there is no prompt in it.
    """
    prompts = _read_prompts(text)
    return [{'caption': prompts[number % len(prompts)]} for number in range(count)]


def of_split(split: Split, count: int, seed: int) -> list[Request]:
    """The images of a split in order, again and again, each with one of its captions.

    Args:
      split: A prepared split.
      count: Pairs to generate.
      seed: Decides the caption, with the pair's number.
    """

    @functools.cache  # reading a record with its text features costs far more than keeping these
    def captions_of(index):
        record = split[index]
        return record['captions'], int(record['image_id'])

    requests = []
    for number in range(count):
        index = number % len(split)
        captions, image_id = captions_of(index)
        # A generator for each pair: a longer job begins with the same captions.
        caption = np.random.default_rng([seed, number]).choice(captions)
        requests.append({'caption': str(caption), 'image_id': image_id, 'record': index})
    return requests


def _read_prompts(text: str) -> list[str]:
    """The lines of a file, or the text itself where there is no such file."""
    try:
        path = epath.Path(text)
        is_file = path.is_file()
    except OSError:  # a prompt longer than a path may be
        is_file = False
    lines = path.read_text().splitlines() if is_file else [text]
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f'sample.prompts is {text!r}, which holds no prompt; write one a line.')
    return prompts
