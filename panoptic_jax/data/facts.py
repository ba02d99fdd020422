"""What prepared data and trained models say alike: which encoders, and which categories.

A manifest (`data/manifest.py`) and a model's description (`programs/description.py`) hold these
facts, and both are JSON on disk. The encoders themselves are in `encoders/load.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from panoptic_jax.data.example import Category


@dataclasses.dataclass(frozen=True)
class AutoencoderFacts:
    """What identifies a frozen autoencoder of 256 px images.

    Attributes:
      name: 'sd', 'taesd' or 'pixels', see `config.data.autoencoder`.
      latent_shape: (h, w, c) of one image's latents.
      scale: Factor of the latents before training, so that their standard deviation is near 1.
      has_variance: Whether `encode` gives moments (n, h, w, 2c): mean and log variance.
      sha256: Hash of the weights; '' where no weights were looked at.
    """

    name: str
    latent_shape: tuple[int, int, int]
    scale: float
    has_variance: bool
    sha256: str = ''

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> 'AutoencoderFacts':
        """Reads an entry of a manifest or a description; JSON has lists in the place of tuples."""
        return cls(**entry | {'latent_shape': tuple(entry['latent_shape'])})


@dataclasses.dataclass(frozen=True)
class TextFacts:
    """What identifies a frozen text encoder.

    Attributes:
      name: 'clip' or 'words', see `config.data.text`.
      tokens: L, tokens per caption.
      features: D, numbers per token.
      sha256: Hash of the weights, or of what stands for them; '' where nothing was looked at.
    """

    name: str
    tokens: int
    features: int
    sha256: str = ''


@dataclasses.dataclass(frozen=True)
class CategoryList:
    """The categories that map ids stand for.

    Attributes:
      entries: Our categories, ids 1..254; () for data without maps.
      source_ids: For each entry the id that the source's files use.
    """

    entries: tuple[Category, ...]
    source_ids: tuple[int, ...]

    @classmethod
    def of_source(
        cls, categories: Sequence[Category], source_ids: Mapping[int, int]
    ) -> 'CategoryList':
        """Joins a source's categories with its {our id: the source's own id}."""
        ids = tuple(source_ids[category.id] for category in categories)
        return cls(tuple(categories), ids)

    @classmethod
    def from_json(cls, entries: Sequence[Mapping[str, Any]]) -> 'CategoryList':
        """Reads what `to_json` wrote; an entry without 'source_id' has the source's id itself."""
        # Descriptions of plans and of early exports have no ids of a source.
        categories = tuple(Category(e['id'], e['name'], e['is_thing']) for e in entries)
        return cls(categories, tuple(entry.get('source_id', entry['id']) for entry in entries))

    def to_json(self) -> list[dict[str, Any]]:
        """One dict per category: 'id', 'name', 'is_thing' and 'source_id'."""
        pairs = zip(self.entries, self.source_ids, strict=True)
        return [{**category._asdict(), 'source_id': number} for category, number in pairs]

    def our_ids(self) -> dict[int, int]:
        """{the source's id: our id}."""
        # Others' maps and annotations use the source's ids.
        numbers = zip(self.entries, self.source_ids, strict=True)
        return {source_id: category.id for category, source_id in numbers}
