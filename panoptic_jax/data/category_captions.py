"""Captions for data sets that have none: a sentence that names the categories of a map.

`data/coco.py` and `data/folder.py` read captions that people wrote.
"""

import collections
import re
from collections.abc import Mapping

import numpy as np

# Words of COCO's category names that nobody says, as in 'sky-other-merged' and 'door-stuff'. The
# text encoder learned from sentences that people wrote.
_UNSPOKEN = {'merged', 'other', 'stuff'}


def caption(ids: np.ndarray, names: Mapping[int, str]) -> str:
    """Says what a map shows, the largest area first: 'a picture of person, dog and grass'.

    Args:
      ids: (H, W) uint8 category ids of the map that is stored: an annotation names what the crop
        cuts away as well.
      names: {category id: name}. Void and other ids are left out.
    """
    areas: collections.Counter[str] = collections.Counter()
    counts = np.bincount(ids.ravel(), minlength=256)
    for category in np.flatnonzero(counts).tolist():
        if category in names:
            # Categories that share a spoken name count as one.
            areas[spoken(names[category])] += int(counts[category])
    if not areas:
        return 'a picture of nothing'
    # Among equal areas the smaller id comes first.
    *first, last = [name for name, _ in areas.most_common()]
    if not first:
        return f'a picture of {last}'
    return f'a picture of {", ".join(first)} and {last}'


def spoken(name: str) -> str:
    """'sky-other-merged' becomes 'sky', and 'traffic_light' becomes 'traffic light'."""
    words = re.split(r'[-_\s]+', name)
    kept = [word for word in words if word not in _UNSPOKEN]
    # A category named only 'other' keeps its name: it would have no word left.
    return ' '.join(kept) or name
