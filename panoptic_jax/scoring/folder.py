"""A folder of pairs as it is scored: its maps with the ids of the data, and names for its scores.

`export/pairs.py` reads folders, `scoring/belonging.py` compares categories, and `scoring/truth.py`
finds the true images.
"""

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from panoptic_jax.data.facts import CategoryList
from panoptic_jax.export import own_json, sample_claim
from panoptic_jax.export.pairs import Pairs
from panoptic_jax.scoring.belonging import translation
from panoptic_jax.scoring.truth import check_entries

DEFAULT = 'samples'  # the folder whose scores have the plain names


@dataclasses.dataclass(frozen=True)
class Folder:
    """Pairs that are scored.

    Attributes:
      path: The folder.
      pairs: Its pairs.
      facts: What the pairs were made with, see `sample_claim.promise`; of others' pairs little is
        known: 'weights', 'ema' and 'sample'.
      is_own: Whether `sample.py` made them in this run.
      table: (256,) uint8 that turns the maps' ids into the data's; None where no map is compared.
      kept: {number: its map, packed} of the maps that were read; several scores ask for each.
    """

    path: epath.Path
    pairs: Pairs
    facts: Mapping[str, Any]
    is_own: bool
    table: np.ndarray | None
    kept: dict[int, tuple] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def entries(self) -> Sequence[Mapping[str, Any]]:
        """One dict for each pair, see `Pairs`."""
        return self.pairs.entries

    @property
    def given_map(self) -> bool:
        """Whether the maps were given, so that there is nothing to score in them."""
        return _is_given(self.facts)

    @property
    def given_image(self) -> bool:
        """Whether the images were given, so that the maps should be the true ones."""
        return self.facts.get('sample', {}).get('given') == 'image'

    @property
    def suffix(self) -> str:
        """Ends the names of what is written about this folder; '' for the run's own samples.

        Scores of several folders, which one workdir may hold, then lie side by side.
        """
        if self.is_own:
            return '' if self.path.name == DEFAULT else f'_{self.path.name}'
        # Samples of several runs lie in folders of one name.
        parts = [part for part in self.path.parts[-2:] if re.search(r'\w', part)]
        return '_' + re.sub(r'[^\w.-]+', '-', '_'.join(parts)).strip('-')

    def image(self, number: int) -> np.ndarray:
        """The image of a pair: (H, W, 3) uint8."""
        return self.pairs.image(number)

    def ids(self, number: int) -> np.ndarray:
        """The map of a pair: (h, w) uint8 ids of the data's categories, 0 for void."""
        ids, _ = self.segments(number)
        return ids

    def segments(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The map of a pair, and the numbers of its things: (h, w) uint8 each, 0 for none."""
        if number not in self.kept:
            ids, instances = self.pairs.segments(number)
            both = np.stack([ids if self.table is None else self.table[ids], instances])
            # A map has few areas: packed, 30,000 of them take some ten megabytes.
            self.kept[number] = both.shape, zlib.compress(both.tobytes(), level=1)
        shape, packed = self.kept[number]
        ids, instances = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape).copy()
        return ids, instances


def of_samples(path: epath.Path, data: CategoryList) -> Folder:
    """The samples that this run has drawn.

    Args:
      path: A finished samples folder.
      data: The categories of the prepared data.

    Raises:
      ValueError: the maps have categories that the data lack.
    """
    # The folder's own settings count: the config may have changed since it was made.
    facts = own_json.read(path / sample_claim.SETTINGS)
    return _opened(path, facts, data, is_own=True)


def of_others(path: str, data: CategoryList) -> Folder:
    """A folder that the config names: images, maps and captions by anyone, see `export/pairs.py`.

    Args:
      path: The folder.
      data: The categories of the prepared data.

    Raises:
      FileNotFoundError, ValueError: the errors of `Pairs`; captions.json has an entry that would be
        misread; the maps have categories that the data lack.
    """
    folder = epath.Path(path)
    facts = {'weights': folder.name, 'ema': False, 'sample': {}, 'map_size': None}
    # It may be the samples folder of another run.
    if (folder / 'settings.json').exists():
        known = own_json.read(folder / sample_claim.SETTINGS)
        facts |= known if isinstance(known, Mapping) and 'model' in known else {}
    return _opened(folder, facts, data, is_own=False)


def _opened(
    path: epath.Path, facts: Mapping[str, Any], data: CategoryList, *, is_own: bool
) -> Folder:
    pairs = Pairs(path, map_side=facts['map_size'])
    check_entries(pairs.entries, pairs.places.captions)
    table = None
    # A map that was given is the data's own, and data without maps have nothing to compare.
    if pairs.has_maps and data.entries and not _is_given(facts):
        what = f'{pairs.places.panoptic}'
        table = translation(pairs.categories, pairs.used_ids(), data, what)
    return Folder(path, pairs, facts, is_own, table)


def _is_given(facts: Mapping[str, Any]) -> bool:
    by_model = bool(facts.get('model', {}).get('given_map'))
    return by_model or facts.get('sample', {}).get('given') == 'map'
