"""The pairs of a samples folder as its page shows them, read one at a time.

`export/samples.py` writes the folder and asks for the page, and `export/report.py` writes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from panoptic_jax.export import records, sample_selection
from panoptic_jax.export.layout import Layout
from panoptic_jax.export.page_pair import PagePair
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.export.records import Record

_SHOWN_APART = ('id', 'file_name', 'caption', 'captions', 'segments_info')


def pairs_of(
    folder: epath.Path,
    pairs: Pairs,
    facts: Mapping[str, Any],
    scores: Mapping[str, Sequence[float | None]],
) -> Iterator[PagePair]:
    """Reads the pairs of a complete folder: those that were kept, then those that were rejected.

    Args:
      folder: The folder.
      pairs: Those that were kept, with maps in the model's own resolution.
      facts: Its settings.json.
      scores: {name: numbers of the pairs that were kept, in their order}; may be fewer than pairs.
    """
    known = {}
    name = facts['sample'].get('name')
    if name:
        layout = Layout(folder, name)
        known = {line.file_name: line for line in records.read_lines(layout.records)}
    yield from _pairs(pairs, facts, place='', scores=scores, known=known)
    if any(line.rejected for line in known.values()):
        apart = sample_selection.rejected(layout).folder
        others = Pairs(apart, map_side=facts['map_size'])
        yield from _pairs(others, facts, place=f'{apart.name}/', scores={}, known=known)


def _pairs(
    pairs: Pairs,
    facts: Mapping[str, Any],
    *,
    place: str,
    scores: Mapping[str, Sequence[float | None]],
    known: Mapping[str, Record],
) -> Iterator[PagePair]:
    images = f'{place}{pairs.places.images.name}'
    for index, entry in enumerate(pairs.entries):
        category, instance = pairs.segments(index)
        own = {name: value for name, value in entry.items() if name not in _SHOWN_APART}
        line = known.get(entry['file_name'])
        caption = entry['caption'] if line is None else line.request['caption']
        added = {n: each[index] if index < len(each) else None for n, each in scores.items()}
        yield PagePair(
            id=str(entry['id']) if line is None else line.stem,
            caption=caption,
            image=f'{images}/{entry["file_name"]}',
            category=category,
            instance=instance,
            scores=added | ({} if line is None else line.scores),
            accepted=line is None or not line.rejected,
            reason='' if line is None else line.rejected,
            # The request comes first, then what all pairs share.
            provenance={**own, 'weights': facts['weights'], **_sampling(facts, line)},
        )


def _sampling(facts: Mapping[str, Any], line: Record | None) -> dict[str, Any]:
    """How a pair was drawn, as far as the job noted it, in the words of the settings."""
    names = ('seed', 'evaluations', 'solver', 'guidance', 'decode')
    shared = {name: facts['sample'][name] for name in names if name in facts['sample']}
    if line is None:
        return shared
    return shared | {'seed': line.seed, 'copy': line.copy, 'guidance': line.guidance}
