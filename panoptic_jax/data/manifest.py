"""`manifest.json`: what a prepared folder holds, and whether it is the data that a run needs.

Preparation writes the manifest as `prepare.json` first and as `manifest.json` last, so a folder
without the latter is unfinished. `preparation/claim.py` claims and finishes folders, `prepare.py`
does the work, `data/loader.py` reads its results.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from panoptic_jax.data import geometry
from panoptic_jax.data.facts import AutoencoderFacts, CategoryList, TextFacts

FORMAT = 1  # of the manifest and the records
CLAIM, SEAL = 'prepare.json', 'manifest.json'  # the first and the last file of a preparation
DATASETS = ('images', 'captions')
VERSION = '1.0.0'  # of the data sets, for TFDS


@dataclasses.dataclass(frozen=True)
class SplitSizes:
    """How many records a split has.

    Attributes:
      images: Image records, mirrored copies included.
      captions: Caption records.
      image_shards: Image records of each shard.
      caption_shards: Caption records of each shard.
      copies: Records per image: 2 where each record is followed by its mirror image, else 1.
    """

    images: int
    captions: int
    image_shards: tuple[int, ...]
    caption_shards: tuple[int, ...]
    copies: int = 1

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> 'SplitSizes':
        """Reads an entry of the manifest's 'splits'."""
        # JSON has lists, and frozen values should be hashable.
        shards = {name: tuple(entry[name]) for name in ('image_shards', 'caption_shards')}
        return cls(**entry | shards)

    def to_json(self) -> dict[str, Any]:
        """Leaves 'copies' out where it is 1: older folders, which lack it, then still fit."""
        entry = dataclasses.asdict(self)
        if self.copies == 1:
            del entry['copies']
        return entry


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything that determines the records of a prepared folder.

    Attributes:
      source: {split: what determines the source's examples, JSON-able}.
      images_per_shard: Images of a full shard, the unit of work.
      stored_map_side: Side of the stored maps in pixels; None for data without maps.
      void_wins: Whether void won the pooling of maps, as the paper's literal pooling has it.
      autoencoder: The autoencoder that made the latents.
      text: The text encoder that made the text features.
      categories: What the map ids stand for.
      splits: {split: its sizes}.
      fingerprint: SHA-256 of everything above, see `to_json`.
      version: Name of the folder in which each data set lies; '' where there is none, as in folders
        that releases before 0.3.0 prepared.
    """

    source: Mapping[str, Mapping[str, Any]]
    images_per_shard: int
    stored_map_side: int | None
    void_wins: bool
    autoencoder: AutoencoderFacts
    text: TextFacts
    categories: CategoryList
    splits: Mapping[str, SplitSizes]
    fingerprint: str = ''
    version: str = ''

    def folder_of(self, dataset: str) -> str:
        """Where a data set, 'images' or 'captions', lies below the prepared folder."""
        return f'{dataset}/{self.version}' if self.version else dataset

    def to_json(self) -> dict[str, Any]:
        """The content of `manifest.json`."""
        content = {
            'format': FORMAT,
            'source': dict(self.source),
            'images_per_shard': self.images_per_shard,
            'image_size': geometry.IMAGE_SIDE,
            'map_size': self.stored_map_side,
            'void_wins': self.void_wins,
            'interpolation': {'image': 'lanczos', 'map': 'nearest'},
            'autoencoder': dataclasses.asdict(self.autoencoder),
            'text': dataclasses.asdict(self.text),
            'categories': self.categories.to_json(),
            'splits': {split: sizes.to_json() for split, sizes in self.splits.items()},
        }
        # The fingerprint of a file that was read stays, whatever a later version would write.
        content['fingerprint'] = self.fingerprint or _fingerprint(content)
        # Where the records lie does not change them.
        if self.version:
            content['version'] = self.version
        return json.loads(json.dumps(content))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> 'Manifest':
        """Reads what `to_json` wrote."""
        splits = content['splits'].items()
        return cls(
            source=content['source'],
            images_per_shard=content['images_per_shard'],
            stored_map_side=content['map_size'],
            void_wins=content['void_wins'],
            autoencoder=AutoencoderFacts.from_json(content['autoencoder']),
            text=TextFacts(**content['text']),
            categories=CategoryList.from_json(content['categories']),
            splits={split: SplitSizes.from_json(sizes) for split, sizes in splits},
            fingerprint=content['fingerprint'],
            version=content.get('version', ''),
        )


def _fingerprint(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_manifest(data_dir: str) -> Manifest:
    """Reads the manifest of a finished folder.

    Raises:
      FileNotFoundError: nothing is prepared there, or the preparation has not finished.
      ValueError: the manifest is of another version, or damaged.
    """
    path = epath.Path(data_dir) / SEAL
    if not path.exists():
        unfinished = path.with_name(CLAIM).exists()
        raise FileNotFoundError(
            f'data.dir is {str(data_dir)!r}, '
            + ('whose preparation has not finished' if unfinished else 'which has no manifest.json')
            + '; run --mode=prepare with the same config first.'
        )
    return read_manifest(path)


def read_manifest(path: epath.Path) -> Manifest:
    """Reads `manifest.json`, or the `prepare.json` that stands there before it.

    Raises:
      ValueError: the manifest is of another version, or damaged.
    """
    try:
        content = json.loads(path.read_text())
        # Another format may hold the same fields with another meaning.
        if content['format'] == FORMAT:
            return Manifest.from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} is damaged ({type(error).__name__}: {error}); restore it, or delete the '
            'folder and run --mode=prepare again.'
        ) from error
    raise ValueError(
        f'{path} has format {content["format"]}, but this version '
        f'reads {FORMAT}; run --mode=prepare into another data.dir.'
    )


def check_manifest(manifest: Manifest, **expected: Any) -> None:
    """Refuses data that do not fit the config.

    Args:
      manifest: The data's manifest.
      **expected: Fields of config.data that the run depends on: any of `autoencoder`, `text`,
        `text_tokens`, `text_features`, `void_wins`.

    Raises:
      ValueError: naming every field that differs, with both values.
    """
    # Fields of `config.data`, and what they were at preparation.
    prepared = {
        'autoencoder': manifest.autoencoder.name,
        'text': manifest.text.name,
        'text_tokens': manifest.text.tokens,
        'text_features': manifest.text.features,
        'void_wins': manifest.void_wins,
    }
    differences = [
        f'data.{field} is {value!r} but the data have {prepared[field]!r}'
        for field, value in expected.items()
        if prepared[field] != value
    ]
    if differences:
        raise ValueError(
            f'The prepared data do not fit the config: {", ".join(differences)}; change the config '
            'or run --mode=prepare into another data.dir.'
        )
