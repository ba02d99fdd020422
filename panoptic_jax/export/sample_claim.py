"""Whose samples a folder holds: what they were made with, compared with what a job wants.

`settings.json` says it, and the records of the pairs say what each was asked for. The number of
pairs is no part of it, so that a larger job extends a folder. `export/samples.py` has the layout.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.requests import Rejected, Request
from panoptic_jax.export import old_samples, own_json, records, sample_list
from panoptic_jax.export.layout import Layout
from panoptic_jax.export.sample_list import Entry
from panoptic_jax.machine import files
from panoptic_jax.machine.writer_lock import OWN_FILES

SETTINGS = 'settings.json'
REJECTED = 'rejected.jsonl'
_UNFINISHED = 'unfinished.json'  # there while a job is at work, or was killed
# The fields of `config.sample` that say which pairs are wanted and where, and not how they look.
# The weights' name and hash stand beside them.
_NO_PROMISE = (
    'weights', 'fallback', 'checkpoint', 'prompt', 'prompts', 'count', 'folder', 'redo', 'keep',
    'best_of', 'drop_duplicates',
)  # fmt: skip
_OF_TARS = 'shard_pairs'  # a folder of single files has no shards
_OTHER = 'choose another --config.sample.folder, or delete it'


def promise(
    sample: Mapping[str, Any], categories: CategoryList, data: str | None, **others: Any
) -> dict[str, Any]:
    """What `settings.json` says: everything that the pairs depend on besides their requests.

    Args:
      sample: The fields of `config.sample`.
      categories: The model's.
      data: Fingerprint of the data whose captions are drawn; None for prompts.
      **others: 'weights', 'ema', 'model' and 'map_size', which the page and the scores show, and
        'decoder', a hash, or '' where the model says how latents become images.
    """
    left_out = _NO_PROMISE if sample['format'] == 'tar' else (*_NO_PROMISE, _OF_TARS)
    facts = {
        **others,
        'sample': {name: value for name, value in sample.items() if name not in left_out},
        'data': data,
        'categories': categories.to_json(),
    }
    return json.loads(json.dumps(facts))


def check(
    folder: epath.Path,
    facts: Mapping[str, Any],
    requests: Mapping[int, Request],
    *,
    has_maps: bool,
) -> dict[int, Entry]:
    """Refuses a folder that holds anything else than pairs of this job; it is only read.

    Args:
      folder: May be missing.
      facts: From `promise`.
      requests: {number: request} of all pairs of the job; more or fewer than the folder has.
      has_maps: Whether each pair has a map.

    Returns:
      The pairs that are there, see `sample_list.read`.

    Raises:
      ValueError: the folder is a file, or it holds other samples or something else.
    """
    if not check_settings(folder, facts):
        return {}
    promised = own_json.read(folder / SETTINGS)
    if old_samples.is_old(promised):
        entries = old_samples.read(folder)
        differences = old_samples.other_requests(promised, requests, entries)
    else:
        layout = Layout(folder, facts['sample']['name'])
        entries, differences = sample_list.read(layout, has_maps=has_maps), []
    refuse(folder, other_requests(entries, requests) or differences)
    if old_samples.is_old(promised) and not is_finished(folder, entries, requests):
        raise ValueError(
            f'{folder} holds samples of an earlier version, which can be scored, but not added to; '
            f'{_OTHER}.'
        )
    return entries


def check_settings(folder: epath.Path, facts: Mapping[str, Any]) -> bool:
    """Whether a folder has been claimed; raises ValueError where another job did it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'{folder} is a file, and samples need a folder; {_OTHER}.')
    settings = folder / SETTINGS
    if not settings.exists():
        _require_empty(folder)
        return False
    promised = own_json.read(settings)
    # A list is the captions.json of a folder that no job of ours claimed.
    promised = promised if isinstance(promised, Mapping) else {}
    promised = _completed(promised)
    is_hashed = 'requests' in promised
    if old_samples.is_old(promised):
        promised = old_samples.renewed(promised, facts)
    refuse(folder, _differences(promised, facts, unsaid=('data',) if is_hashed else ()))
    return True


def _completed(promised: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder of early version 0.4 promised, with the facts that came later."""
    promised = {'decoder': '', **promised}
    sample = promised.get('sample')
    if isinstance(sample, Mapping):
        promised['sample'] = {'second_map': False, **sample}
    return promised


def refuse(folder: epath.Path, differences: Sequence[str]) -> None:
    """Raises ValueError where there are differences, in words."""
    if differences:
        raise ValueError(
            f'{folder} holds samples of other settings ({", ".join(differences)}); {_OTHER}.'
        )


def _require_empty(folder: epath.Path) -> None:
    """Raises ValueError if a folder without our settings is not empty."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    others = [
        name
        for name in sorted(names)
        if name not in (*OWN_FILES, REJECTED)
        and name[0] != '.'
        and not name.endswith(files.UNFINISHED)
    ]
    if others:
        raise ValueError(
            f'{folder} holds no samples of ours, but {others[0]!r}; choose another '
            '--config.sample.folder.'
        )


def other_requests(entries: Mapping[int, Entry], requests: Mapping[int, Request]) -> list[str]:
    """Which pair was asked for something else, in words; [] if none was."""
    for number, entry in sorted(entries.items()):
        there = entry.request
        if number not in requests or there == requests[number]:
            continue
        now = requests[number]
        names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
        name = 'caption' if 'caption' in names else names[0]
        return [f'{name} of pair {number}: {there.get(name)!r} there, {now.get(name)!r} now']
    return []


def _differences(
    promised: Mapping[str, Any], expected: Mapping[str, Any], unsaid: Sequence[str]
) -> list[str]:
    """The differing facts, those inside 'sample' by name; short values with what they were."""
    differences = []
    for key, value in expected.items():
        there = promised.get(key)
        if key in unsaid:
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


def claim(folder: epath.Path, facts: Mapping[str, Any], rejected: Sequence[Rejected]) -> None:
    """Says that a job is at work in a folder; for process 0, inside the lock of the folder.

    Args:
      folder: A folder that `check` has found good; made if missing.
      facts: From `promise`.
      rejected: Lines of the requests that are wrong.
    """
    layout = Layout(folder, facts['sample']['name'])
    places = [*layout.picture_folders(has_maps=True), layout.maps.parent, layout.parts]
    for place in (folder, *places):
        files.remove_unfinished(place)
    if not (folder / SETTINGS).exists():
        files.write_json(folder / SETTINGS, facts)
    files.write_json(folder / _UNFINISHED, {})
    write_rejected(folder, rejected)


def write_rejected(folder: epath.Path, rejected: Sequence[Rejected]) -> None:
    """Writes a line for each wrong line, with its number and the reason; no file without any."""
    path = folder / REJECTED
    if not rejected:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps(each._asdict(), ensure_ascii=False) + '\n' for each in rejected]
    # A caption may hold halves of characters, which no file can.
    files.write_whole(path, ''.join(lines).encode(errors='replace'))


def is_at_work(folder: epath.Path) -> bool:
    """Whether a job is at work in a folder, or was killed there."""
    return (folder / _UNFINISHED).exists()


def is_finished(
    folder: epath.Path, entries: Mapping[int, Any], requests: Mapping[int, Any]
) -> bool:
    """Whether the pairs of these requests are there and in the lists.

    Args:
      folder: The samples folder.
      entries: What is there, or could not be drawn.
      requests: What is asked for.
    """
    there = (folder / SETTINGS).exists() and not is_at_work(folder)
    return there and all(number in entries for number in requests)


def finished_pairs(folder: epath.Path) -> int:
    """How many pairs a finished folder has; 0 for a missing folder, or one that a job works on."""
    if is_at_work(folder) or not (folder / SETTINGS).exists():
        return 0
    promised = own_json.read(folder / SETTINGS)
    if not isinstance(promised, Mapping) or old_samples.is_old(promised):
        return len(old_samples.read(folder))
    layout = Layout(folder, promised['sample']['name'])
    return sum(1 for _ in records.read_lines(layout.records))


def release(folder: epath.Path) -> None:
    """Says that the job has finished the folder."""
    (folder / _UNFINISHED).unlink(missing_ok=True)
