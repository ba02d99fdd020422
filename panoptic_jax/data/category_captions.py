"""Captions for data sets that have none: a sentence that names the categories of a map.

`data/coco.py` and `data/folder.py` read captions that people wrote.
"""

import collections
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Words of COCO's category names that nobody says, as in 'sky-other-merged' and 'door-stuff'. The
# text encoder learned from sentences that people wrote.
_UNSPOKEN = {'merged', 'other', 'stuff'}


def caption(segments_info: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> str:
    """Says what an image shows, the largest area first: 'a picture of person, dog and grass'.

    Args:
      segments_info: The panoptic annotation's segments: 'category_id' and 'area' in pixels. Without
        areas, the annotation's order decides.
      names: {category id: name}. Segments with other ids are left out.
    """
    areas = collections.Counter()
    for segment in segments_info:
        category = segment.get('category_id')
        if category in names:
            # Categories that share a spoken name count as one.
            areas[_spoken(names[category])] += segment.get('area', 0)
    if not areas:
        return 'a picture of nothing'
    *first, last = [name for name, _ in areas.most_common()]
    if not first:
        return f'a picture of {last}'
    return f'a picture of {", ".join(first)} and {last}'


def _spoken(name: str) -> str:
    """'sky-other-merged' becomes 'sky', and 'traffic_light' becomes 'traffic light'."""
    words = re.split(r'[-_\s]+', name)
    spoken = [word for word in words if word not in _UNSPOKEN]
    # A category named only 'other' keeps its name: it would have no word left.
    return ' '.join(spoken) or name
