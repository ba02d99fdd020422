"""The training images of a data set, among which near copies of them are looked for.

`quality/training.py` keeps what they look like, and `quality/nearest.py` searches it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from panoptic_jax.data import geometry, loader
from panoptic_jax.data.manifest import Manifest, open_manifest
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.preparation.sources import SourceSettings, open_sources
from panoptic_jax.quality import training
from panoptic_jax.quality.training import Training
from panoptic_jax.scoring import belonging, reference


def open_source(settings: Mapping[str, Any], manifest: Manifest, split: str) -> Any:
    """The images that a split was prepared from.

    Args:
      settings: Fields of `SourceSettings`.
      manifest: The data's.
      split: 'train' or 'validation'.

    Raises:
      FileNotFoundError, ValueError: the errors of `open_sources`; they are other images.
    """
    source = manifest.source
    # As many as were prepared, whatever the config says now.
    prepared = {name: entry for name, entry in source.items() if 'count' in entry}
    counts = {f'{name}_images': entry['count'] for name, entry in prepared.items()}
    sources = open_sources(SourceSettings(**{**settings, **counts}))
    belonging.check_sources(sources, source, split)
    return sources[split]


def of_data(settings: Mapping[str, Any], data_dir: str, cache: str, workdir: str) -> Training:
    """The training images of prepared data; all processes of a job have to call it.

    Args:
      settings: Fields of `SourceSettings`.
      data_dir: The prepared data.
      cache: See `loader.Split`.
      workdir: The run's folder, see `reference.folders_of`.

    Raises:
      FileNotFoundError, ValueError: the errors of `open_manifest`, `open_source` and `read`.
    """
    source = open_source(settings, open_manifest(data_dir), 'train')
    folder, *_ = reference.folders_of(data_dir, workdir)
    return read(source, loader.Split(data_dir, 'train', cache).image_ids(), folder)


def read(
    source: Any,
    image_ids: Sequence[int],
    folder: epath.Path,
    interruption: Interruption = UNINTERRUPTED,
) -> Training:
    """What the training images look like, which is kept in a folder.

    Args:
      source: From `open_source`.
      image_ids: The source's number of each.
      folder: From `reference.folders_of`.
      interruption: Asked between images.

    Raises:
      Interrupted: SIGTERM came; what is looked at until then is lost.
      ValueError: there is one image alone.
    """

    def of_image(number):
        image, category, _ = geometry.fit(source[number])
        return image, category

    own = training.looks_of(
        of_image,
        len(source),
        path=folder / 'looks-train.npz',
        provenance={'pictures': source.description},
        interruption=interruption,
    )
    return training.training_of(own, image_ids)
