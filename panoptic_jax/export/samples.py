"""The samples folder: what lies where, how a batch is written, and the page.

    NAME/*.png                   the images (or .jpg, .webp); NAME is `sample.name`
    annotations/
      panoptic_NAME.json         segments of the maps, with the category ids of the data's source
      panoptic_NAME/*.png        the maps, coloured by segment id as COCO does
      instances_NAME.json        the things with their masks, for detection tools
      captions_NAME.json
    semantic_NAME/*.png          places in the list of categories, 255 for void
    pairs_NAME.jsonl             a line for each pair, see `export/records.py`; written last
    report.html                  the pairs on one page
    settings.json                what the samples were made with; another job is refused
    rejected.jsonl, failed.jsonl lines of the requests that are wrong; pairs that were not finite
    unfinished.json              a job is at work, or was killed; the same command goes on
    parts/N.jsonl                the batch that starts at pair N is done; gone when all batches are
    rejected/, selection.json    pairs that were not kept, see `export/sample_selection.py`

A model without maps leaves images and captions alone. A larger job adds pairs to a finished folder;
the lists name the earlier pairs until all are there. `export/layout.py` has the paths,
`export/sample_claim.py` says whose samples a folder holds, and `export/sample_list.py` which pairs
are there. `export/sample_tars.py` is the other form. `sample.py` decides what to generate,
`export/pairs.py` reads the folder, and `evaluate.py` scores the pairs.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent import futures
from typing import Any

from absl import logging
from etils import epath

from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.requests import Request
from panoptic_jax.export import (
    folder_page,
    own_json,
    pair_files,
    records,
    report,
    sample_list,
)
from panoptic_jax.export.layout import Layout
from panoptic_jax.export.pair_files import Drawn
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.logs import json_lines
from panoptic_jax.machine import files
from panoptic_jax.quality.scores import KINDS

_LOWER_IS_BETTER = tuple(name for name, kind in KINDS.items() if kind.better < 0)


def folder_of(workdir: epath.PathLike, name: str) -> epath.Path:
    """The samples folder of a run; `name` is `config.sample.folder`."""
    return epath.Path(workdir) / name


def write_part(
    layout: Layout,
    rows: Mapping[int, int],
    *,
    requests: Mapping[int, Request],
    drawn: Drawn,
    facts: Mapping[str, Any],
    kept: Collection[int],
) -> None:
    """Writes one batch: its pictures, then the lines whose presence means that it is done.

    Args:
      layout: The set, in a folder that the job has claimed.
      rows: {number of a pair: its row}, the batch's first pair first.
      requests: What the pairs were asked for.
      drawn: The batch; other rows are left out.
      facts: From `sample_claim.promise`.
      kept: Pairs that are there; their files stay as they are.
    """

    categories = CategoryList.from_json(facts['categories'])

    def write(number: int) -> records.Record:
        own, record = pair_files.of_pair(
            drawn,
            rows[number],
            number=number,
            request=requests[number],
            facts=facts,
            categories=categories,
        )
        contents = {layout.images / record.file_name: own.image}
        if own.panoptic is not None:
            contents[layout.maps / f'{record.stem}.png'] = own.panoptic
            contents[layout.semantic / f'{record.stem}.png'] = own.semantic
        for path, content in contents.items():
            files.write_whole(path, content)
        return record

    wanted = [number for number in rows if number not in kept]
    with futures.ThreadPoolExecutor(sample_list.THREADS) as pool:
        lines = list(pool.map(write, wanted))
    sample_list.write_part(layout, next(iter(rows)), lines, kept)


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
    facts = own_json.read(folder / 'settings.json')
    if facts['sample'].get('format') == 'tar':
        logging.info('%s has shards and no single files, and so gets no report.html.', folder)
        return
    # The page shows maps in the model's own resolution; the PNGs are larger.
    pairs = Pairs(folder, map_side=facts['map_size'])
    if not pairs.has_maps:
        logging.info('%s has no maps and so gets no report.html.', folder)
        return
    weights = facts['weights']
    report.write_report(
        folder / 'report.html',
        pairs=folder_page.pairs_of(folder, pairs, facts, scores or {}),
        categories=CategoryList.from_json(facts['categories']).entries,
        metrics=metrics,
        log_lines=json_lines.read(log),
        heading=report.Heading(
            title=f'{facts["model"]["name"].replace("_", "-")} PDM',
            settings={
                'weights': f'{weights}, averaged' if facts['ema'] else weights,
                'pairs': len(pairs),
                'network evaluations': facts['sample']['evaluations'],
                'guidance': facts['sample']['guidance'],
                'map': f'{facts["map_size"]} x {facts["map_size"]}',
            },
            lower_is_better=(*(scores or ()), *_LOWER_IS_BETTER),
        ),
    )
    logging.info('Wrote %s.', folder / 'report.html')
