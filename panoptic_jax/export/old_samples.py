"""Samples folders of earlier versions, in the plain layout: who made them, and what is there.

They are read and scored as they are, but no job adds to them. `export/sample_claim.py` has those of
now.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from panoptic_jax.data.requests import Request
from panoptic_jax.export import own_json
from panoptic_jax.export.sample_list import Entry

CAPTIONS = 'captions.json'
_OLD_START = 'map_init_std'  # of versions before 0.4, which had no settings of streams
_BEFORE_STREAMS = {
    'guidance_ratio_map': 1.0, 'guidance_from': 0.0, 'guidance_to': 1.0, 'offset': 0.0,
    'given': 'nothing', 'min_area': 0.0, 'image_start_std': 0.0, 'clip_image': False,
}  # fmt: skip
_BEFORE_SETS = {'format': 'folder', 'image_format': 'png', 'refine': False}
_PLACES = ('name',)  # settings that such a folder has no word for


def is_old(promised: Mapping[str, Any]) -> bool:
    """Whether settings.json is that of an earlier version."""
    return not set(_PLACES) <= set(promised.get('sample', {}))


def renewed(promised: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder of an earlier version says, in the settings of now.

    Args:
      promised: Its settings.json.
      expected: What the job would write.
    """
    sample, model = dict(promised.get('sample', {})), dict(promised.get('model', {}))
    if _OLD_START in sample:
        sample['map_start_std'] = sample.pop(_OLD_START)
        # Each of these was so before there was a setting for it.
        sample = _BEFORE_STREAMS | sample
        model = {name: value for name, value in model.items() if name != 'map_prediction'}
        model = {'join': 'tokens', 'separate_times': False, 'instance_bits': 0} | model
    places = {name: expected.get('sample', {}).get(name) for name in _PLACES}
    return {**promised, 'sample': _BEFORE_SETS | places | sample, 'model': model}


def read(folder: epath.Path) -> dict[int, Entry]:
    """{number: entry} of the pairs that a finished folder lists."""
    if not (folder / CAPTIONS).exists():
        return {}
    found = {}
    for entry in own_json.read(folder / CAPTIONS):
        request = {name: value for name, value in entry.items() if name not in ('id', 'file_name')}
        found[entry['id']] = Entry(entry['file_name'], request)
    return found


def other_requests(
    promised: Mapping[str, Any], requests: Mapping[int, Request], entries: Mapping[int, Entry]
) -> list[str]:
    """Which requests differ from the hash of all that the oldest versions wrote, in words."""
    if 'requests' not in promised:
        return []
    numbers = range(promised['sample']['count'])
    # A smaller job than the folder's; the folder itself knows the rest.
    asked = [requests.get(n, entries[n].request if n in entries else None) for n in numbers]
    content = json.dumps([[each for each in asked if each is not None], promised['data']])
    found = hashlib.sha256(content.encode()).hexdigest()
    return [] if found == promised['requests'] else ['prompts, or captions of the split']
