"""The data of a page: inside it for few pairs, in script files beside it for many.

    report.html                the page; with few pairs all in one file, which can be mailed
    report/index-0000-*.js     rows of 1,000 pairs, by which the page searches, filters and sorts
    report/pairs-0000-*.js     200 pairs, which the page loads when it shows one of them

They are scripts, since a page that is opened from disk may not read other files. Each name holds a
hash of the content: pages that are written anew never meet data of the page before. Only one file's
pairs are in memory at a time. `export/page_pair.py` says what is written of a pair.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from panoptic_jax.export import page_pair
from panoptic_jax.export.page_pair import PagePair
from panoptic_jax.machine import files

PAIRS_OF_A_FILE = 200  # as many as the page shows at a time
ROWS_OF_A_FILE = 1000
_OURS = re.compile(r'(index|pairs)-\d{4,}-[0-9a-f]{8}\.js')


class PageData(NamedTuple):
    """What a page has to know of its data.

    Attributes:
      count: Number of pairs.
      scores: Names of the scores, in the order of the rows.
      index_files, pair_files: Paths of the scripts relative to the page; none where the data are to
        stand inside the page.
      rows, details: The data themselves where there are no files, see `page_pair.row` and
        `page_pair.detail`.
    """

    count: int
    scores: Sequence[str]
    index_files: Sequence[str] = ()
    pair_files: Sequence[str] = ()
    rows: Sequence[list[Any]] = ()
    details: Sequence[dict[str, Any]] = ()


def folder_of(page: epath.Path) -> epath.Path:
    """The folder beside a page: 'report' for report.html."""
    return page.parent / page.stem


def write(page: epath.Path, pairs: Iterable[PagePair]) -> PageData:
    """Writes the scripts of a page that has more pairs than fit into it.

    Args:
      page: The page's path; the scripts go to `folder_of` it.
      pairs: The pairs in the order of the page, read once.

    Raises:
      ValueError: a picture's path or content cannot be shown, see `page_pair.picture`.
      FileNotFoundError: a picture that belongs inside the page is missing.
    """
    scores: list[str] = []
    written = ((page_pair.row(pair, scores), pair, page_pair.detail(pair)) for pair in pairs)
    first = [*itertools.islice(written, PAIRS_OF_A_FILE + 1)]
    if len(first) <= PAIRS_OF_A_FILE:
        details = [_with_pictures(detail, pair, page.parent) for _, pair, detail in first]
        return PageData(len(first), scores, rows=[row for row, *_ in first], details=details)
    count, rows, index_files, pair_files = 0, [], [], []
    folder = folder_of(page)
    for batch in _batches(itertools.chain(first, written)):
        details = [_with_pictures(detail, pair, folder=None) for _, pair, detail in batch]
        pair_files.append(_write_script(folder, 'pairs', len(pair_files), details))
        rows += [row for row, *_ in batch]
        count += len(batch)
        if len(rows) >= ROWS_OF_A_FILE:
            index_files.append(_write_script(folder, 'index', len(index_files), rows))
            rows = []
    if rows:
        index_files.append(_write_script(folder, 'index', len(index_files), rows))
    return PageData(count, scores, index_files, pair_files)


def remove_others(page: epath.Path, data: PageData) -> None:
    """Removes the scripts of earlier pages from the folder beside a page that has been written."""
    folder = folder_of(page)
    if not folder.is_dir():
        return
    names = {path.split('/')[-1] for path in (*data.index_files, *data.pair_files)}
    for name in files.sizes_and_times(folder):
        if _OURS.fullmatch(name) and name not in names:
            (folder / name).unlink(missing_ok=True)
    # A bucket has no empty folders; a local one may hold what is not ours.
    if not names and not files.is_remote(folder) and not any(folder.iterdir()):
        folder.rmdir()


def _batches(pairs: Iterator[Any]) -> Iterator[list[Any]]:
    """Gives the pairs in lists, each of them for one file."""
    while batch := [*itertools.islice(pairs, PAIRS_OF_A_FILE)]:
        yield batch


def _with_pictures(
    detail: dict[str, Any], pair: PagePair, folder: epath.Path | None
) -> dict[str, Any]:
    """What the page shows of a pair; with a folder, pictures below it become part of the data."""
    found = detail | {'image': _picture(pair.image, folder)}
    if pair.nearest:
        image = pair.nearest.image
        is_address = isinstance(image, str) and '://' in image
        found['nearest'] = image if is_address else _picture(image, folder)
    return found


def _picture(image: str | bytes, folder: epath.Path | None) -> str:
    address = page_pair.picture(image)
    if folder is None or isinstance(image, bytes):
        return address
    return page_pair.picture((folder / image).read_bytes())


def _write_script(folder: epath.Path, kind: str, number: int, content: list[Any]) -> str:
    """Writes a script that hands `content` to the page; returns its path relative to the page."""
    # In ASCII it stays the same whatever encoding a browser takes it for.
    text = json.dumps(content, separators=(',', ':'), allow_nan=False)
    # A text in quotes is read several times faster than the same thing as program text.
    script = f'panoptic.{kind}({number}, {json.dumps(text)});\n'
    digest = hashlib.blake2b(script.encode(), digest_size=4).hexdigest()
    name = f'{kind}-{number:04d}-{digest}.js'
    files.write_whole(folder / name, script)
    return f'{folder.name}/{name}'
