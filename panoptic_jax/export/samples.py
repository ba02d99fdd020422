"""The samples folder: what lies where, how a batch is written, and the page.

    settings.json      what the samples were made with; a job with other settings is refused
    unfinished.json    a job is at work, or was killed; the same command goes on
    parts/N.json       the batch that starts at pair N is done; gone when all batches are
    images/, panoptic/ PNGs; a model without maps has no panoptic/ and no panoptic.json
    panoptic.json      COCO-panoptic results, with the category ids of the data's source
    captions.json      caption and file of each pair; written last
    report.html        the pairs on one page

A larger job adds pairs to a finished folder. The lists name the earlier pairs until all are there.
`export/sample_claim.py` says whose samples a folder holds, and `export/sample_list.py` which pairs
are there. `sample.py` decides what to generate, `export/pairs.py` reads the folder, and
`evaluate.py` scores the pairs.
"""

import io
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from panoptic_jax.data import geometry, instances
from panoptic_jax.data.categories import things_of
from panoptic_jax.data.example import Category
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.export import coco, folder_page, report, sample_list
from panoptic_jax.logs import json_lines
from panoptic_jax.machine import files


class Drawn(NamedTuple):
    """A batch as the model drew it.

    Attributes:
      images: (B, 256, 256, 3) uint8.
      ids: (B, kh, kw) uint8 category ids, which are enlarged for the PNGs; None for a model without
        maps.
      instances: (B, kh, kw) the numbers of the things, see `instances.separate`; None where every
        connected area of a thing's category is a thing.
    """

    images: np.ndarray
    ids: np.ndarray | None
    instances: np.ndarray | None = None


def folder_of(workdir: epath.PathLike, name: str) -> epath.Path:
    """The samples folder of a run; `name` is `config.sample.folder`."""
    return epath.Path(workdir) / name


def write_part(
    folder: epath.Path,
    *,
    first: int,
    requests: Sequence[Mapping[str, Any]],
    drawn: Drawn,
    categories: CategoryList,
    kept: Mapping[int, Mapping[str, Any]],
) -> None:
    """Writes one batch: its PNGs, then the JSON whose presence means that the batch is done.

    Args:
      folder: A folder that the job has claimed.
      first: Number of the batch's first pair.
      requests: For each pair what was asked for: 'caption' and anything else for captions.json.
        Rows of the arrays beyond them are left out.
      drawn: The batch.
      categories: The list that the ids refer to, and the ids for panoptic.json.
      kept: {number: entry} of pairs that are there; their files stay as they are.
    """
    source_ids = {ours: theirs for theirs, ours in categories.our_ids().items()}
    arrays: dict[epath.Path, np.ndarray] = {}  # {path of a PNG: its content}
    entries = []
    for row, request in enumerate(requests):
        if first + row in kept:
            entries.append(kept[first + row])
            continue
        file_name = f'{first + row:08d}.png'
        arrays[folder / 'images' / file_name] = drawn.images[row]
        entry = {'id': first + row, 'file_name': file_name, **request}
        if drawn.ids is not None:
            colours, segments_info = _segments(drawn, row, categories.entries)
            arrays[folder / 'panoptic' / file_name] = colours
            entry['segments_info'] = [
                segment | {'category_id': source_ids[segment['category_id']]}
                for segment in segments_info
            ]
        entries.append(entry)
    with futures.ThreadPoolExecutor(sample_list.THREADS) as pool:
        # Without reading the results, errors of the threads would be lost.
        for _ in pool.map(_write_png, arrays.keys(), arrays.values()):
            pass
    files.write_json(sample_list.part_path(folder, first), entries)


def _segments(
    drawn: Drawn, row: int, categories: Sequence[Category]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The PNG and the segments of one pair's map, see `coco.segments`."""
    if drawn.instances is None:
        own = instances.separate(drawn.ids[row], thing_ids=things_of(categories))
    else:
        own = drawn.ids[row], drawn.instances[row]
    # COCO's tools expect a map in the size of its image.
    factor = geometry.IMAGE_SIDE // drawn.ids.shape[1]
    enlarged = [each.repeat(factor, axis=0).repeat(factor, axis=1) for each in own]  # (256, 256)
    return coco.segments(*enlarged, categories)


def read_json(folder: epath.Path, name: str) -> Any:
    """The content of 'settings.json' or 'captions.json'; raises ValueError if it is damaged."""
    return sample_list.read_json(folder / name)


def write_page(
    folder: epath.Path,
    log: epath.PathLike,
    metrics: Sequence[report.Metric] = (),
    scores: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Writes report.html of a complete folder; a folder without maps has no pairs and gets no page.

    Args:
      folder: The samples folder.
      log: The metrics.jsonl of the training, for the loss curve; may be missing.
      metrics: Rows of the page's table.
      scores: {name: a number of each pair}, of which low ones are better; the page sorts by them.
    """
    # Only a model that draws maps leaves this file.
    if not (folder / 'panoptic.json').exists():
        logging.info('%s has no maps and so gets no report.html.', folder)
        return
    facts = read_json(folder, 'settings.json')
    entries = read_json(folder, 'captions.json')
    weights = facts['weights']
    report.write_report(
        folder / 'report.html',
        pairs=folder_page.pairs_of(folder, facts, scores or {}),
        categories=CategoryList.from_json(facts['categories']).entries,
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
            lower_is_better=tuple(scores or ()),
        ),
    )
    logging.info('Wrote %s.', folder / 'report.html')


def _write_png(path: epath.Path, pixels: np.ndarray) -> None:
    """Writes (H, W, 3) uint8; the file is there whole or not at all."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format='PNG')
    files.write_whole(path, content.getvalue())
