"""The samples folder: how a restartable job fills it, and its page.

    settings.json      what the samples were made with; a job with other settings is refused
    parts/N.json       the batch that starts at pair N is done; gone when all batches are
    images/, panoptic/ PNGs; a model without maps has no panoptic/ and no panoptic.json
    panoptic.json      COCO-panoptic results
    captions.json      caption and file of each pair; written last, so the folder is complete
    report.html        the pairs on one page

`sample.py` decides what to generate, `export/pairs.py` reads the folder, and `evaluate.py` scores
the pairs.
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

from panoptic_jax.data import geometry
from panoptic_jax.data.example import Category
from panoptic_jax.export import coco, report
from panoptic_jax.export.cards import Pair
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.logs import json_lines
from panoptic_jax.machine import files
from panoptic_jax.machine.work_folder import WorkFolder

REPORT_PAIRS = 48  # a page shows no more pairs; each takes about 150 kB
_THREADS = 8  # threads that write PNGs: in a bucket each PNG takes many milliseconds of waiting


def work_folder(folder: epath.Path) -> WorkFolder:
    """The folder as one that a job fills: `settings.json` claims it, `captions.json` seals it."""
    return WorkFolder(folder, claim='settings.json', seal='captions.json')


def begin(folder: epath.Path, facts: Mapping[str, Any]) -> bool:
    """Claims a folder for a job, or takes up an unfinished one.

    Args:
      folder: Made if missing.
      facts: Everything that the samples depend on, JSON-able. This module and others read
        'categories', 'map_size', 'model', 'weights', 'ema' and 'sample' (`config.sample`) again.

    Returns:
      Whether there is work to do.

    Raises:
      ValueError: It holds samples that were made with other settings.
    """
    facts = json.loads(json.dumps(facts))

    def check(promised: Mapping[str, Any] | None) -> None:
        if promised is None:
            return
        # A list is the captions.json of a folder that no job of ours claimed.
        promised = promised if isinstance(promised, Mapping) else {}
        if any(promised.get(key) != value for key, value in facts.items()):
            raise ValueError(
                f'{folder} holds samples of other settings ({_differences(promised, facts)}); '
                'delete it or choose another --workdir.'
            )

    remains = work_folder(folder).begin(facts, check)
    if remains:
        (folder / 'parts').mkdir(exist_ok=True)
    return remains


def parts(folder: epath.Path) -> set[int]:
    """The batches that are done, each by the number of its first pair."""
    return {int(path.stem) for path in (folder / 'parts').glob('*.json')}


def write_part(
    folder: epath.Path,
    *,
    first: int,
    requests: Sequence[Mapping[str, Any]],
    images: np.ndarray,
    ids: np.ndarray | None,
    categories: Sequence[Category],
) -> None:
    """Writes one batch: its PNGs, then the JSON whose presence means that the batch is done.

    Args:
      folder: A folder that `begin` has claimed.
      first: Number of the batch's first pair.
      requests: For each pair what was asked for: 'caption' and anything else for captions.json.
        Rows of the arrays beyond them are left out.
      images: (B, 256, 256, 3) uint8.
      ids: (B, kh, kw) uint8 category ids, which are enlarged for the PNGs; None for a model without
        maps.
      categories: The list that the ids refer to.
    """
    (folder / 'images').mkdir(exist_ok=True)
    if ids is not None:
        (folder / 'panoptic').mkdir(exist_ok=True)
    arrays: dict[epath.Path, np.ndarray] = {}  # {path of a PNG: its content}
    entries = []
    for row, request in enumerate(requests):
        file_name = f'{first + row:08d}.png'
        arrays[folder / 'images' / file_name] = images[row]
        entry = {'id': first + row, 'file_name': file_name, **request}
        if ids is not None:
            # COCO's tools expect a map in the size of its image.
            factor = geometry.IMAGE_SIDE // ids.shape[1]
            enlarged = ids[row].repeat(factor, axis=0).repeat(factor, axis=1)  # (256, 256)
            colours, segments_info = coco.segments(enlarged, categories)
            arrays[folder / 'panoptic' / file_name] = colours
            entry['segments_info'] = segments_info
        entries.append(entry)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        # Without reading the results, errors of the threads would be lost.
        for _ in pool.map(_write_png, arrays.keys(), arrays.values()):
            pass
    files.write_json(_part(folder, first), entries)


def finish(folder: epath.Path, categories: Sequence[Category]) -> None:
    """Joins the parts into panoptic.json and captions.json."""
    parts = sorted((folder / 'parts').glob('*.json'))
    entries = [entry for part in parts for entry in json.loads(part.read_text())]
    if 'segments_info' in entries[0]:
        size = {'width': geometry.IMAGE_SIDE, 'height': geometry.IMAGE_SIDE}
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
    """Writes report.html of a complete folder; a folder without maps has no pairs and gets no page.

    Args:
      folder: The samples folder.
      log: The metrics.jsonl of the training, for the loss curve; may be missing.
      metrics: Rows of the page's table.
      notes: A few words beside each of the first captions, as many as the page shows.
    """
    # Only a model that draws maps leaves this file.
    if not (folder / 'panoptic.json').exists():
        logging.info('%s has no maps and so gets no report.html.', folder)
        return
    facts = read_json(folder, 'settings.json')
    entries = read_json(folder, 'captions.json')
    # The page shows maps in the model's own resolution; the PNGs are larger.
    pairs = Pairs(folder, map_side=facts['map_size'])
    count = min(len(entries), REPORT_PAIRS)
    notes = notes or [''] * count
    shown = []
    for index in range(count):
        pair = Pair(
            image=pairs.image(index),
            category=pairs.ids(index),
            caption=entries[index]['caption'],
            note=notes[index],
        )
        shown.append(pair)
    weights = facts['weights']
    report.write_report(
        folder / 'report.html',
        pairs=shown,
        categories=[_category(entry) for entry in facts['categories']],
        metrics=metrics,
        log_lines=json_lines.read(log),
        heading=report.Heading(
            title=f'{facts["model"]["name"].replace("_", "-")} PDM',
            settings={
                'weights': f'{weights}, averaged' if facts['ema'] else weights,
                'pairs': len(entries),
                'network evaluations': facts['sample']['evaluations'],
                'guidance': facts['sample']['guidance'],
                'map': f'{facts["map_size"]} x {facts["map_size"]}',
            },
        ),
    )
    logging.info('Wrote %s.', folder / 'report.html')


def _category(entry: Mapping[str, Any]) -> Category:
    """A category as settings.json writes it."""
    return Category(id=entry['id'], name=entry['name'], is_thing=entry['is_thing'])


def _part(folder: epath.Path, first: int) -> epath.Path:
    return folder / 'parts' / f'{first:08d}.json'


def _differences(promised: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The differing facts, those inside 'sample' by name; short values with what they were."""
    differences = []
    for key, value in expected.items():
        there = promised.get(key)
        if key == 'sample' and there is not None:
            differences += [
                f'sample.{name}: {there.get(name)!r} there, {here!r} now'
                for name, here in value.items()
                if there.get(name) != here
            ]
        elif there != value:
            brief = isinstance(value, str | int | float)
            differences.append(f'{key}: {there!r} there, {value!r} now' if brief else key)
    return ', '.join(differences)


def _write_png(path: epath.Path, pixels: np.ndarray) -> None:
    """Writes (H, W, 3) uint8; a file cut short by a kill is written again with its whole batch."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format='PNG')
    path.write_bytes(content.getvalue())
