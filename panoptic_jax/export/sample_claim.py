"""Whose samples a folder holds: what they were made with, compared with what a job wants.

`settings.json` says it, and the entries of the pairs say what each was asked for. The number of
pairs is no part of it, so that a larger job extends a folder. `export/samples.py` has the layout.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from panoptic_jax.data.facts import CategoryList
from panoptic_jax.export import sample_list
from panoptic_jax.machine import files
from panoptic_jax.machine.writer_lock import OWN_FILES

SETTINGS = 'settings.json'
_UNFINISHED = 'unfinished.json'  # there while a job is at work, or was killed
# The fields of `config.sample` that say which pairs are wanted and where, and not how they look.
# The weights' name and hash stand beside them.
_NO_PROMISE = ('weights', 'checkpoint', 'prompt', 'prompts', 'count', 'folder')
_OLD_START = 'map_init_std'  # of versions before 0.4, which had no settings of streams
_BEFORE_STREAMS = {
    'guidance_ratio_map': 1.0, 'guidance_from': 0.0, 'guidance_to': 1.0, 'offset': 0.0,
    'given': 'nothing', 'min_area': 0.0, 'image_start_std': 0.0, 'clip_image': False,
}  # fmt: skip
_OTHER = 'choose another --config.sample.folder, or delete it'


def promise(
    sample: Mapping[str, Any], categories: CategoryList, data: str | None, **others: Any
) -> dict[str, Any]:
    """What `settings.json` says: everything that the pairs depend on besides their requests.

    Args:
      sample: The fields of `config.sample`.
      categories: The model's.
      data: Fingerprint of the data whose captions are drawn; None for prompts.
      **others: 'weights', 'ema', 'model' and 'map_size', which the page and the scores show.
    """
    facts = {
        **others,
        'sample': {name: value for name, value in sample.items() if name not in _NO_PROMISE},
        'data': data,
        'categories': categories.to_json(),
    }
    if categories.our_ids() != {entry.id: entry.id for entry in categories.entries}:
        # Folders of older versions lack this line: their panoptic.json has our ids.
        facts['category_ids'] = 'of the source'
    return json.loads(json.dumps(facts))


def written_categories(folder: epath.Path, categories: CategoryList) -> CategoryList:
    """The categories of a claimed folder, with the ids that its panoptic.json has beside ours."""
    if 'category_ids' in sample_list.read_json(folder / SETTINGS):
        return categories
    return CategoryList(categories.entries, tuple(entry.id for entry in categories.entries))


def check(
    folder: epath.Path,
    facts: Mapping[str, Any],
    requests: Sequence[Mapping[str, Any]],
    *,
    has_maps: bool,
) -> dict[int, dict[str, Any]]:
    """Refuses a folder that holds anything else than pairs of this job; it is only read.

    Args:
      folder: May be missing.
      facts: From `promise`.
      requests: What each pair is asked for, from number 0 on; more or fewer than the folder has.
      has_maps: Whether each pair has a map.

    Returns:
      The pairs that are there, see `sample_list.read`.

    Raises:
      ValueError: the folder is a file, or it holds other samples or something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'{folder} is a file, and samples need a folder; {_OTHER}.')
    settings = folder / SETTINGS
    if not settings.exists():
        _require_empty(folder)
        return {}
    promised = sample_list.read_json(settings)
    # A list is the captions.json of a folder that no job of ours claimed.
    promised = _renewed(promised) if isinstance(promised, Mapping) else {}
    differences = _differences(promised, facts)
    entries = {}
    if not differences:
        entries = sample_list.read(folder, has_maps=has_maps)
        differences = _other_requests(entries, requests)
    if not differences and 'requests' in promised:
        differences = _other_old_requests(promised, facts, requests, entries)
    if differences:
        raise ValueError(
            f'{folder} holds samples of other settings ({", ".join(differences)}); {_OTHER}.'
        )
    return entries


def _renewed(promised: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder of an earlier version says, in the settings of now."""
    sample, model = dict(promised.get('sample', {})), dict(promised.get('model', {}))
    if _OLD_START not in sample:
        return dict(promised)
    sample['map_start_std'] = sample.pop(_OLD_START)
    # Each of these was so before there was a setting for it.
    sample = _BEFORE_STREAMS | sample
    model = {name: value for name, value in model.items() if name != 'map_prediction'}
    model = {'join': 'tokens', 'separate_times': False, 'instance_bits': 0} | model
    return {**promised, 'sample': sample, 'model': model}


def _require_empty(folder: epath.Path) -> None:
    """Raises ValueError if a folder without our settings is not empty."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    others = [
        name
        for name in sorted(names)
        if name not in OWN_FILES and name[0] != '.' and not name.endswith(files.UNFINISHED)
    ]
    if others:
        raise ValueError(
            f'{folder} holds no samples of ours, but {others[0]!r}; choose another '
            '--config.sample.folder.'
        )


def _other_requests(
    entries: Mapping[int, Mapping[str, Any]], requests: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Which pair was asked for something else, in words; [] if none was."""
    for number, entry in sorted(entries.items()):
        there = sample_list.request_of(entry)
        if number >= len(requests) or there == requests[number]:
            continue
        now = requests[number]
        names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
        name = 'caption' if 'caption' in names else names[0]
        return [f'{name} of pair {number}: {there.get(name)!r} there, {now.get(name)!r} now']
    return []


def _other_old_requests(
    promised: Mapping[str, Any],
    facts: Mapping[str, Any],
    requests: Sequence[Mapping[str, Any]],
    entries: Mapping[int, Mapping[str, Any]],
) -> list[str]:
    """The same for the hash of all requests and their data that older versions wrote."""
    count = promised['sample']['count']
    own = list(requests[:count])
    # A smaller job than the folder's; the folder itself knows the rest.
    own += [sample_list.request_of(entries[n]) for n in range(len(own), count) if n in entries]
    found = hashlib.sha256(json.dumps([own, facts['data']]).encode()).hexdigest()
    return [] if found == promised['requests'] else ['prompts, or captions of the split']


def _differences(promised: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """The differing facts, those inside 'sample' by name; short values with what they were."""
    is_old = 'requests' in promised
    differences = []
    for key, value in expected.items():
        there = promised.get(key)
        if is_old and key in ('data', 'category_ids'):
            continue
        if key == 'sample' and there is not None:
            differences += [
                f'sample.{name}: {there.get(name)!r} there, {here!r} now'
                for name, here in value.items()
                if there.get(name) != here
            ]
        elif there != value:
            brief = isinstance(value, str | int | float)
            differences.append(f'{key}: {there!r} there, {value!r} now' if brief else key)
    return differences


def claim(
    folder: epath.Path, facts: Mapping[str, Any], entries: Mapping[int, Mapping[str, Any]]
) -> None:
    """Says that a job is at work in a folder; for process 0, inside the lock of the folder.

    Args:
      folder: A folder that `check` has found good; made if missing.
      facts: From `promise`.
      entries: From `check`.
    """
    for place in (folder, *(folder / name for name in sample_list.FOLDERS)):
        files.remove_unfinished(place)
    if not (folder / SETTINGS).exists():
        files.write_json(folder / SETTINGS, facts)
    files.write_json(folder / _UNFINISHED, {'pairs there': len(entries)})
    sample_list.drop_parts_without(folder, entries)


def is_at_work(folder: epath.Path) -> bool:
    """Whether a job is at work in a folder, or was killed there."""
    return (folder / _UNFINISHED).exists()


def is_finished(folder: epath.Path, entries: Mapping[int, Any], count: int) -> bool:
    """Whether the first `count` pairs are there and in the lists."""
    there = (folder / sample_list.CAPTIONS).exists() and not is_at_work(folder)
    return there and all(number in entries for number in range(count))


def finished_pairs(folder: epath.Path) -> int:
    """How many pairs a finished folder has; 0 for a missing folder, or one that a job works on."""
    captions = folder / sample_list.CAPTIONS
    if is_at_work(folder) or not captions.exists():
        return 0
    return len(sample_list.read_json(captions))


def release(folder: epath.Path) -> None:
    """Says that the job has finished the folder."""
    (folder / _UNFINISHED).unlink(missing_ok=True)
