"""The lists of a samples folder: which pairs are there, by part and together.

`export/samples.py` has the layout and writes the parts, `export/sample_claim.py` says whose samples
they are.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent import futures
from typing import Any

from absl import logging
from etils import epath

from panoptic_jax.data import geometry
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.export import coco
from panoptic_jax.machine import files, hosts
from panoptic_jax.machine.interruption import Interruption

CAPTIONS, PANOPTIC = 'captions.json', 'panoptic.json'
FOLDERS = ('images', 'panoptic', 'parts')
THREADS = 8  # that read or write small files: in a bucket each takes many milliseconds of waiting
_NOT_ASKED = ('id', 'file_name', 'segments_info')  # what an entry has besides its request


def read_json(path: epath.Path) -> Any:
    """The content of a JSON file of ours; raises ValueError where it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f'{path} is damaged ({error}); restore it, or delete its folder and sample again.'
        ) from error


def request_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a pair was asked for, see `data/requests.py`."""
    return {name: value for name, value in entry.items() if name not in _NOT_ASKED}


def read(folder: epath.Path, *, has_maps: bool) -> dict[int, dict[str, Any]]:
    """The pairs whose files are there, from the finished lists and from the parts.

    Args:
      folder: The samples folder.
      has_maps: Whether each pair has a map.

    Returns:
      {number of the pair: its entry}: 'id', 'file_name', the request and, with maps,
      'segments_info'. Files that are empty count as missing.
    """
    entries = _finished(folder, has_maps=has_maps)
    with futures.ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(read_json, part_paths(folder).values()):
            entries |= {entry['id']: entry for entry in part}
    for name in FOLDERS[: 1 + has_maps]:
        sizes = files.sizes_and_times(folder / name)
        present = {file_name for file_name, (size, _) in sizes.items() if size}
        entries = {n: entry for n, entry in entries.items() if entry['file_name'] in present}
    return entries


def _finished(folder: epath.Path, *, has_maps: bool) -> dict[int, dict[str, Any]]:
    """The entries of captions.json, with the segments of panoptic.json."""
    if not (folder / CAPTIONS).exists():
        return {}
    entries = {entry['id']: entry for entry in read_json(folder / CAPTIONS)}
    if not has_maps:
        return entries
    # Without this list the maps would have no meaning, and so the pairs are drawn again.
    content = read_json(folder / PANOPTIC) if (folder / PANOPTIC).exists() else {}
    segments = {a['image_id']: a['segments_info'] for a in content.get('annotations', ())}
    return {
        number: {**entry, 'segments_info': segments[number]}
        for number, entry in entries.items()
        if number in segments
    }


def part_paths(folder: epath.Path) -> dict[int, epath.Path]:
    """{number of a batch's first pair: the JSON that says that the batch is done}."""
    names = files.sizes_and_times(folder / 'parts')
    stems = [name.removesuffix('.json') for name in names if name.endswith('.json')]
    return {int(stem): part_path(folder, int(stem)) for stem in stems if stem.isdecimal()}


def part_path(folder: epath.Path, first: int) -> epath.Path:
    """The JSON of the batch that begins with pair `first`."""
    return folder / 'parts' / f'{first:08d}.json'


def drop_parts_without(folder: epath.Path, entries: Mapping[int, Any]) -> None:
    """Removes the parts that name a pair whose files are missing; they are not done."""
    for path in part_paths(folder).values():
        if any(entry['id'] not in entries for entry in read_json(path)):
            path.unlink()


def lacking(there: Collection[int], count: int, batch_size: int) -> dict[int, list[int]]:
    """{first pair of a batch: the numbers of its pairs that are not there}, where any lack.

    Batches begin at the same numbers whatever is there, so that each pair is drawn in the same row.
    """
    numbers = {}
    for first in range(0, count, batch_size):
        batch = range(first, min(first + batch_size, count))
        numbers[first] = [number for number in batch if number not in there]
    return {first: missing for first, missing in numbers.items() if missing}


def wait_for_parts(
    folder: epath.Path, wanted: Mapping[int, Collection[int]], interruption: Interruption
) -> None:
    """Waits until the parts of all processes name the wanted pairs.

    Args:
      folder: The samples folder.
      wanted: From `lacking`.
      interruption: Ends the waiting, too.

    Raises:
      Interrupted: the interruption was asked for.
    """
    awaited = dict(wanted)

    def is_complete() -> bool:
        paths = part_paths(folder)
        for first in [first for first in awaited if first in paths]:
            named = {entry['id'] for entry in read_json(paths[first])}
            # The part may still be that of a smaller job.
            if named.issuperset(awaited[first]):
                del awaited[first]
        return not awaited

    hosts.wait_for(is_complete, 'the pairs of other processes', interruption)


def finish(folder: epath.Path, categories: CategoryList, *, has_maps: bool) -> None:
    """Joins the parts into panoptic.json and captions.json, and adds to what these name already.

    All pairs up to the first gap are joined. A kill at any time leaves lists that name only pairs
    that are there.

    Args:
      folder: The samples folder.
      categories: See `sample_claim.written_categories`.
      has_maps: Whether each pair has a map.
    """
    there = read(folder, has_maps=has_maps)
    count = next(number for number in range(len(there) + 1) if number not in there)
    entries = [there[number] for number in range(count)]
    if has_maps:
        _write_panoptic(folder / PANOPTIC, entries, categories)
    captions = [{k: v for k, v in e.items() if k != 'segments_info'} for e in entries]
    # Last, since it is what a reader asks for.
    files.write_json(folder / CAPTIONS, captions)
    joined = {first: path for first, path in part_paths(folder).items() if first < count}
    if len(joined) == len(part_paths(folder)):
        (folder / 'parts').rmtree(missing_ok=True)
    # A larger job was stopped before; the parts behind the gap are for the next one.
    for path in joined.values():
        path.unlink(missing_ok=True)
    logging.info('Wrote %d pairs to %s.', count, folder)


def _write_panoptic(
    path: epath.Path, entries: Sequence[Mapping[str, Any]], categories: CategoryList
) -> None:
    size = {'width': geometry.IMAGE_SIDE, 'height': geometry.IMAGE_SIDE}
    numbers = zip(categories.entries, categories.source_ids, strict=True)
    coco.write_panoptic_json(
        path,
        [{'id': e['id'], 'file_name': e['file_name'], **size} for e in entries],
        [
            {'image_id': e['id'], 'file_name': e['file_name'], 'segments_info': e['segments_info']}
            for e in entries
        ],
        [category._replace(id=source_id) for category, source_id in numbers],
    )
