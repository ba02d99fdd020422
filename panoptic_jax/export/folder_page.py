"""The pairs of a samples folder as its page shows them, read one at a time.

`export/samples.py` writes the folder and asks for the page, and `export/report.py` writes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from panoptic_jax.export.page_pair import PagePair
from panoptic_jax.export.pairs import Pairs

_SHOWN_APART = ('id', 'file_name', 'caption', 'segments_info')


def pairs_of(
    pairs: Pairs,
    facts: Mapping[str, Any],
    scores: Mapping[str, Sequence[float | None]],
) -> Iterator[PagePair]:
    """Reads the pairs of a complete folder.

    Args:
      pairs: The folder, with maps in the model's own resolution.
      facts: Its settings.json.
      scores: {name: the pairs' numbers in the order of `entries`}; may be fewer than pairs.
    """
    images = pairs.places.images.name
    for index, entry in enumerate(pairs.entries):
        category, instance = pairs.segments(index)
        own = {name: value for name, value in entry.items() if name not in _SHOWN_APART}
        yield PagePair(
            id=str(entry['id']),
            caption=entry['caption'],
            image=f'{images}/{entry["file_name"]}',
            category=category,
            instance=instance,
            scores={n: each[index] if index < len(each) else None for n, each in scores.items()},
            # The request comes first, then what all pairs share.
            provenance={**own, 'weights': facts['weights'], **_sampling(facts)},
        )


def _sampling(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How the pairs were drawn, as far as the job noted it, in the words of the settings."""
    names = ('seed', 'evaluations', 'solver', 'guidance', 'decode')
    return {name: facts['sample'][name] for name in names if name in facts['sample']}
