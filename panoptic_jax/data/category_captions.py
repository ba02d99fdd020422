"""Captions for data sets that have none: the categories that a map shows, as a sentence.

Captions that people wrote are read in `coco.py` and `folder.py`.
"""

import collections
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Of COCO's category names, such as 'sky-other-merged' and 'door-stuff'; nobody writes them.
_UNSPOKEN = {'merged', 'other', 'stuff'}


def caption(segments_info: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> str:
    """'a picture of person, dog and grass': what a picture shows, the largest area first.

    Args:
      segments_info: Of the panoptic annotation: 'category_id' and 'area' in pixels; without areas
        the annotation's order decides.
      names: {category id: name}; segments of other ids are left out.
    """
    areas = collections.Counter()
    for segment in segments_info:
        if segment.get('category_id') in names:
            areas[_spoken(names[segment['category_id']])] += segment.get('area', 0)
    *first, last = [name for name, _ in areas.most_common()] or ['nothing']
    return f'a picture of {", ".join(first)} and {last}' if first else f'a picture of {last}'


def _spoken(name: str) -> str:
    """'sky-other-merged' is 'sky', 'traffic_light' is 'traffic light'."""
    words = re.split(r'[-_\s]+', name)
    return ' '.join(word for word in words if word not in _UNSPOKEN) or name
