"""What generated images are compared with: real images and their statistics, or a file of others.

Features and statistics of real images lie beside the prepared data, since all runs share them, or
in the workdir where the data are read-only. `scoring/features.py` computes the features.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import logging
from etils import epath

from panoptic_jax.machine import files, hosts
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.metrics import fid
from panoptic_jax.scoring.features import Features, Images, listing_digest
from panoptic_jax.scoring.networks import CHUNK, Networks


class Reference(NamedTuple):
    """What generated images are compared with.

    Attributes:
      features: Features of real images; None where only their statistics are known.
      provenance: What the images are and which network looks at them, JSON-able.
      paths: Where statistics of the features may be, .npz: the first one is written, the others
        are only read.
    """

    features: Features | None
    provenance: Mapping[str, Any]
    paths: Sequence[epath.Path]


def of_file(path: str) -> Reference:
    """The statistics of others, such as U-ViT's, which come without images: FID only."""
    return Reference(features=None, provenance={}, paths=[epath.Path(path)])


def folders_of(data_dir: str, workdir: str) -> list[epath.Path]:
    """Where what is made of real images is kept: the first folder is written, all are read.

    All processes of a job have to call it.
    """
    shared, own = epath.Path(data_dir) / 'reference', epath.Path(workdir) / 'features'
    if hosts.of_first(_is_writable(shared)):
        return [shared]
    logging.info('%s cannot be written, so what is made of real images goes to %s.', shared, own)
    return [own, shared]


def of_source(
    source: Any,
    networks: Networks,
    *,
    split: str,
    folders: Sequence[epath.Path],
    chunk: int = CHUNK,
    interruption: Interruption = UNINTERRUPTED,
) -> Reference:
    """Real images, whose features are kept in folders.

    Args:
      source: The images of a split, see `sources.open_sources`.
      networks: From `load_networks`.
      split: The split's name.
      folders: From `folders_of`.
      chunk: Images whose features are kept together.
      interruption: Asked between blocks of images.
    """
    # The source's own hashes do not cover its picture files.
    pictures = {'pictures': source.description, 'files': listing_digest(_listing(source))}
    images = Images(
        count=len(source),
        image=lambda i: source[i].image,
        name=lambda i: f'number {i} of the split {split!r}',
        identity=pictures,
    )
    features = Features(folders, networks, images, chunk=chunk, interruption=interruption)
    # Another Inception gives other statistics, so the name tells them apart.
    digest = networks.hashes.get('inception', '')
    paths = [folder / f'{split}-{digest[:12]}.npz' for folder in folders]
    return Reference(features, {**pictures, 'inception': digest}, paths)


def _listing(source: Any) -> list[Any]:
    """Name, bytes and time of the picture files of a source; [] for pictures in no files."""
    paths = [epath.Path(path) for path in getattr(source, 'image_paths', ())]
    of_folder = {
        parent: files.sizes_and_times(parent) for parent in {path.parent for path in paths}
    }
    return [[path.name, *of_folder[path.parent].get(path.name, ())] for path in paths]


def _is_writable(folder: epath.Path) -> bool:
    """Whether files can be written into a folder; only a try can tell, also in a bucket."""
    if jax.process_index():
        return False  # whatever it is: the first process decides
    probe = folder / 'writable'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_whole(probe, b'')
        probe.unlink(missing_ok=True)
    except (OSError, ValueError):
        return False
    return True


def statistics_of(reference: Reference) -> fid.Statistics:
    """The statistics of a reference, read, or computed and left there by process 0.

    Raises:
      FileNotFoundError, ValueError: there is no file of others, or it is not one of statistics.
    """
    if reference.features is None:
        statistics, _ = fid.read(reference.paths[0], fid.FEATURES)
        return statistics
    for path in reference.paths:
        if path.exists():
            statistics, origin = fid.read(path)
            # A file of other images or another Inception is made anew, not believed.
            if origin == dict(reference.provenance):
                return statistics
    statistics = fid.statistics(reference.features.chunks('inception'))
    if not jax.process_index():
        fid.write(reference.paths[0], statistics, reference.provenance)
        logging.info(
            'Wrote the statistics of %d real images to %s.', statistics.count, reference.paths[0]
        )
    return statistics
