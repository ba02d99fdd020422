"""The samples folder: how a restartable job fills it, and its page. Its reader is `pairs.py`.

    settings.json      what the samples were made with; a job with other settings is refused
    parts/N.json       the batch that starts at pair N is done; gone when all are
    images/, panoptic/ PNGs; a model without maps has no panoptic/ and no panoptic.json
    panoptic.json      COCO-panoptic results
    captions.json      caption and file of each pair; written last, so the folder is complete
    report.html        the pairs on one page

What to generate is decided in `sample.py`, scores are `evaluate.py`'s.
"""

import io
import json
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from panoptic_jax.data.example import Category
from panoptic_jax.export import coco, pairs, report
from panoptic_jax.logs import json_lines
from panoptic_jax.machine import files

IMAGE_SIZE = 256  # px, of images and of enlarged maps
REPORT_PAIRS = 48  # at most, about 150 kB each
_THREADS = 8  # that write pictures: in a bucket each takes many milliseconds of waiting


def begin(folder: epath.Path, facts: Mapping[str, Any]) -> bool:
    """Claims a folder for a job, or takes up an unfinished one.

    Args:
      folder: Made if missing.
      facts: Everything that the samples depend on, JSON-able. 'categories', 'map_size', 'model',
        'weights', 'ema' and 'sample' (`config.sample`) are read again by this module and others.

    Returns:
      Whether there is work to do.

    Raises:
      ValueError: It holds samples that were made with other settings.
    """
    path = folder / 'settings.json'
    facts = json.loads(json.dumps(facts))
    if path.exists():
        found = json.loads(path.read_text())
        differing = [key for key in facts if found.get(key) != facts[key]]
        if differing:
            raise ValueError(
                f'{folder} holds samples of other settings ({_differences(found, facts)}); delete '
                'it or choose another --workdir.'
            )
    else:
        (folder / 'parts').mkdir(parents=True, exist_ok=True)
        files.write_json(path, facts)
    return not is_finished(folder)


def is_begun(folder: epath.Path) -> bool:
    """Whether a job has claimed the folder."""
    return (folder / 'settings.json').exists()


def is_finished(folder: epath.Path) -> bool:
    """Whether all pairs are there."""
    return (folder / 'captions.json').exists()


def parts(folder: epath.Path) -> set[int]:
    """The batches that are done, each by the number of its first pair."""
    return {int(path.stem) for path in (folder / 'parts').glob('*.json')}


def write_part(
    folder: epath.Path,
    first: int,
    requests: Sequence[Mapping[str, Any]],
    images: np.ndarray,
    ids: np.ndarray | None,
    categories: Sequence[Category],
) -> None:
    """Writes one batch: its PNGs, then the JSON whose presence means that the batch is done.

    Args:
      folder: Claimed by `begin`.
      first: Number of the first pair.
      requests: What was asked for, 'caption' and anything else for captions.json; rows of the
        arrays beyond them are left out.
      images: (B, 256, 256, 3) uint8.
      ids: (B, kh, kw) uint8 category ids, enlarged for the PNGs; None for a model without maps.
      categories: The list that the ids refer to.
    """
    for name in ('images', 'panoptic') if ids is not None else ('images',):
        (folder / name).mkdir(exist_ok=True)
    pictures, entries = {}, []
    for row, request in enumerate(requests):
        file_name = f'{first + row:08d}.png'
        pictures[folder / 'images' / file_name] = images[row]
        entry = {'id': first + row, 'file_name': file_name, **request}
        if ids is not None:
            enlarge = IMAGE_SIZE // ids.shape[1]
            large = ids[row].repeat(enlarge, 0).repeat(enlarge, 1)
            colours, entry['segments_info'] = coco.segments(large, categories)
            pictures[folder / 'panoptic' / file_name] = colours
        entries.append(entry)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(_write_png, pictures.keys(), pictures.values()):
            pass  # but raise what has gone wrong
    files.write_json(_part(folder, first), entries)


def finish(folder: epath.Path, categories: Sequence[Category]) -> None:
    """Joins the parts into panoptic.json and captions.json."""
    parts = sorted((folder / 'parts').glob('*.json'))
    entries = [entry for part in parts for entry in json.loads(part.read_text())]
    if 'segments_info' in entries[0]:
        size = {'width': IMAGE_SIZE, 'height': IMAGE_SIZE}
        coco.write_panoptic_json(
            folder / 'panoptic.json',
            [{'id': e['id'], 'file_name': e['file_name'], **size} for e in entries],
            [
                {
                    'image_id': e['id'],
                    'file_name': e['file_name'],
                    'segments_info': e['segments_info'],
                }
                for e in entries
            ],
            categories,
        )
    captions = [{k: v for k, v in e.items() if k != 'segments_info'} for e in entries]
    files.write_json(folder / 'captions.json', captions)
    (folder / 'parts').rmtree()
    logging.info('Wrote %d pairs to %s.', len(entries), folder)


def read_json(folder: epath.Path, name: str) -> Any:
    """The content of 'settings.json' or 'captions.json'."""
    return json.loads((folder / name).read_text())


def write_page(
    folder: epath.Path,
    log: epath.PathLike,
    metrics: Sequence[report.Metric] = (),
    notes: Sequence[str] | None = None,
) -> None:
    """Writes report.html of a complete folder; one without maps has no pairs and gets no page.

    Args:
      folder: The samples.
      log: metrics.jsonl of the training, for the loss curve; may be missing.
      metrics: Rows of its table.
      notes: A few words beside each of the first captions, as many as the page shows.
    """
    if not (folder / 'panoptic.json').exists():
        logging.info('%s has no maps and so gets no report.html.', folder)
        return
    facts, entries = read_json(folder, 'settings.json'), read_json(folder, 'captions.json')
    found = pairs.Pairs(folder, map_size=facts['map_size'])
    shown = range(min(len(entries), REPORT_PAIRS))
    notes = notes or [''] * len(shown)
    report.write_report(
        folder / 'report.html',
        [report.Pair(found.image(i), found.ids(i), entries[i]['caption'], notes[i]) for i in shown],
        [Category(c['id'], c['name'], c['is_thing']) for c in facts['categories']],
        metrics,
        json_lines.read(log),
        f'{facts["model"]["name"].replace("_", "-")} PDM',
        {
            'weights': facts['weights'] + (', averaged' if facts['ema'] else ''),
            'pairs': len(entries),
            'network evaluations': facts['sample']['evaluations'],
            'guidance': facts['sample']['guidance'],
            'map': f'{facts["map_size"]} x {facts["map_size"]}',
        },
    )
    logging.info('Wrote %s.', folder / 'report.html')


def _part(folder: epath.Path, first: int) -> epath.Path:
    return folder / 'parts' / f'{first:08d}.json'


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The differing facts, those inside 'sample' by name; short values with what they were."""
    listed = []
    for key, value in expected.items():
        there = found.get(key)
        if key == 'sample' and there is not None:
            listed += [
                f'sample.{name}: {there.get(name)!r} there, {here!r} now'
                for name, here in value.items()
                if there.get(name) != here
            ]
        elif there != value:
            brief = isinstance(value, str | int | float)
            listed.append(f'{key}: {there!r} there, {value!r} now' if brief else key)
    return ', '.join(listed)


def _write_png(path: epath.Path, pixels: np.ndarray) -> None:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format='PNG')
    path.write_bytes(content.getvalue())
