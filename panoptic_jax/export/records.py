"""One line about each pair: what it was asked for, how it was drawn, and what its map shows.

`pairs_NAME.jsonl` holds these lines, the parts of a job hold some of them, and COCO's lists are
made of them (`export/coco_lists.py`), so that nothing has to be counted twice.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from etils import epath

from panoptic_jax.data.requests import Request, name_of
from panoptic_jax.export import own_json
from panoptic_jax.quality.judge import Judged


class Segment(msgspec.Struct, omit_defaults=True):
    """A segment as COCO's panoptic list has it; `counts` is the mask of a thing, see `rle.py`."""

    id: int
    category_id: int
    area: int
    bbox: list[int]
    iscrowd: int
    counts: str = ''


class Record(msgspec.Struct, omit_defaults=True):
    """A pair.

    Attributes:
      id: Its number, which COCO's lists call image_id.
      file_name: The image's; the maps' names differ in the ending.
      request: What it was asked for, see `data/requests.py`.
      seed: The seed of its noise, its own or the job's.
      copy: Which of the pairs of one id or seed.
      weights: Name and hash, or step, of the weights.
      ema: Whether they were averaged.
      evaluations: Network evaluations.
      guidance: Its own, or the job's.
      segments_info: What the map shows; None for a model without maps.
      scores: What was measured of the pair, by name, see `quality/scores.py`.
      nearest: The training image that is nearest; None if none was looked for.
      rejected: Why it is not kept; '' if it is.
    """

    id: int
    file_name: str
    request: dict[str, Any]
    seed: int
    weights: str
    ema: bool
    evaluations: int
    guidance: float
    copy: int = 0
    segments_info: list[Segment] | None = None
    scores: dict[str, float] = {}
    nearest: dict[str, Any] | None = None
    rejected: str = ''

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return name_of(self.id, self.request)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def made(
    number: int,
    request: Request,
    facts: Mapping[str, Any],
    *,
    file_name: str,
    segments_info: list[Segment] | None,
    judged: Judged,
) -> Record:
    """The record of a pair that has just been drawn; `facts` are of `sample_claim.promise`."""
    settings = facts['sample']
    return Record(
        id=number,
        file_name=file_name,
        request=request,
        seed=request.get('seed', settings['seed']),
        weights=facts['weights'],
        ema=facts['ema'],
        evaluations=settings['evaluations'],
        guidance=request.get('guidance', settings['guidance']),
        copy=request.get('copy', 0),
        segments_info=segments_info,
        scores=judged.scores,
        nearest=judged.nearest,
    )


def line_of(record: Record) -> bytes:
    """The line of a record, with its end."""
    return _encoder.encode(record) + b'\n'


def read_lines(path: epath.PathLike) -> Iterator[Record]:
    """The records of a file, one after another; none where there is no file.

    Raises:
      ValueError: a line is damaged.
    """
    path = epath.Path(path)
    if not path.exists():
        return
    with path.open('rb') as lines:
        for line in lines:
            yield own_json.parsed(line, path, _decoder.decode)


def read_all(path: epath.Path) -> list[Record]:
    """The records of a small file, read at once; the error of `read_lines`."""
    lines = path.read_bytes().splitlines()
    return [own_json.parsed(line, path, _decoder.decode) for line in lines]


def joined(lines: Iterable[Record]) -> bytes:
    """The content of a small file."""
    return b''.join(map(line_of, lines))
