"""Frechet distance between two sets of features, from statistics that are summed in float64.

Which features, and of which pictures, is the caller's affair: FID takes Inception's 2048. Files of
statistics are .npz with U-ViT's names, 'mu' and 'sigma'; ours say besides what they were made of.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from panoptic_jax.machine import files

MINIMUM = 2  # images; with fewer there is no covariance
FULL_RANK = 2049  # images; with fewer the covariance of 2048 features is singular and FID biased


class Statistics(NamedTuple):
    """Of a set of feature vectors.

    Attributes:
      count: Vectors; 0 where a file does not say.
      mean: (d,) float64.
      covariance: (d, d) float64, divided by count - 1.
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray


def statistics(blocks: Iterable[np.ndarray]) -> Statistics:
    """Mean and covariance of features that come in blocks, of which one is held at a time.

    Args:
      blocks: (n, d) arrays, any n.

    Raises:
      ValueError: fewer than 2 vectors in all.
    """
    count, mean, scatter = 0, 0.0, 0.0
    for block in blocks:
        block = np.asarray(block, np.float64)
        if not len(block):
            continue
        # Chan et al.: sums about the blocks' own means, so that no large squares cancel.
        own, total = block.mean(axis=0), count + len(block)
        centred, shift = block - own, own - mean
        scatter = scatter + centred.T @ centred
        scatter = scatter + np.outer(shift, shift) * (count * len(block) / total)
        mean = mean + shift * (len(block) / total)
        count = total
    if count < MINIMUM:
        raise ValueError(
            f'FID was asked for {count} image(s); it needs at least {MINIMUM}, and {FULL_RANK} or '
            'more to mean something.'
        )
    return Statistics(count, mean, scatter / (count - 1))


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) in float64.

    The trace of the root is that of (R S_2 R)^(1/2) with R = S_1^(1/2), which is symmetric: its
    eigenvalues are real and stay at zero where covariances are singular.

    Raises:
      ValueError: features of different lengths.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(
            f'The statistics are of {len(one.mean)} and of {len(other.mean)} features; both must '
            'come from the same network.'
        )
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(_without_noise(values))) @ vectors.T
    product = root @ other.covariance @ root
    shared = np.sqrt(_without_noise(np.linalg.eigvalsh((product + product.T) / 2))).sum()
    difference = one.mean - other.mean
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return float(difference @ difference + traces - 2 * shared)


def _without_noise(eigenvalues: np.ndarray) -> np.ndarray:
    """Zero for what rounding leaves of zero eigenvalues, whose roots would add up."""
    noise = eigenvalues.max() * len(eigenvalues) * np.finfo(np.float64).eps
    return np.where(eigenvalues > noise, eigenvalues, 0.0)


def write(path: epath.PathLike, values: Statistics, provenance: Mapping[str, Any]) -> None:
    """Writes statistics with what they were made of, JSON-able; the file appears when complete."""
    content = io.BytesIO()
    np.savez(
        content,
        mu=values.mean,
        sigma=values.covariance,
        count=values.count,
        provenance=json.dumps(provenance),
    )
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, content.getvalue())


def read(path: epath.PathLike) -> tuple[Statistics, dict[str, Any]]:
    """Reads statistics and their provenance; files of U-ViT's hold neither count nor provenance.

    Raises:
      FileNotFoundError, ValueError: no such file, or not one of statistics.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'There is no file of reference statistics {path}.')
    try:
        with path.open('rb') as file:
            found = np.load(file, allow_pickle=False)  # a plain array, where it is an .npy
            mean, covariance = np.float64(found['mu']), np.float64(found['sigma'])
            count = int(found['count']) if 'count' in found else 0
            provenance = json.loads(str(found['provenance'])) if 'provenance' in found else {}
    except (
        *(OSError, ValueError, KeyError, IndexError, EOFError),
        *(zipfile.BadZipFile, zlib.error),  # of a file that was cut off or damaged
    ) as error:
        raise ValueError(
            f"{path} is not a file of reference statistics ({error}); it must be an .npz with 'mu' "
            "and 'sigma'."
        ) from error
    if mean.ndim != 1 or covariance.shape != mean.shape * 2:
        raise ValueError(
            f"{path}: 'mu' has shape {mean.shape} and 'sigma' {covariance.shape}; they must be "
            '(d,) and (d, d).'
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path}: 'mu' or 'sigma' is not finite; make the statistics again.")
    return Statistics(count, mean, covariance), provenance
