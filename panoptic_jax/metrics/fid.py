"""Frechet distance between two sets of features, from statistics that are summed in float64.

FID (Heusel et al. 2017) is this distance between Inception's 2048 features of two sets of images;
`encoders/inception.py` computes the features. Files of statistics are .npz files with the names of
U-ViT's, 'mu' and 'sigma'. Our files also say what they were made of.
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

MINIMUM = 2  # images; fewer have no covariance
FEATURES = 2048  # of Inception
FULL_RANK = (
    FEATURES + 1
)  # images; of fewer the covariance of 2048 features is singular and FID is biased

# Rounding in float32 leaves about a thousandth of this, relative to the largest value.
_ROUNDING = 1e-4

# What numpy and zipfile raise for a file that is no .npz file, lacks a name or is damaged.
UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, IndexError, EOFError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Statistics(NamedTuple):
    """Mean and covariance of a set of feature vectors.

    Attributes:
      count: Number of vectors; 0 where a file does not say.
      mean: (d,) float64.
      covariance: (d, d) float64, divided by count - 1.
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray


def statistics(blocks: Iterable[np.ndarray]) -> Statistics:
    """Mean and covariance of features that come in blocks, of which one is held at a time.

    Args:
      blocks: (n, d) arrays with any n.

    Raises:
      ValueError: all blocks together have fewer than 2 vectors.
    """
    count, mean, scatter = 0, 0.0, 0.0
    for block in blocks:
        block = np.asarray(block, np.float64)  # (n, d)
        if not len(block):
            continue
        # The pairwise update of Chan, Golub and LeVeque 1983 ("Algorithms for Computing the Sample
        # Variance"): sums about each block's own mean, so that no large squares cancel.
        total = count + len(block)
        block_mean = block.mean(axis=0)  # (d,)
        centred = block - block_mean  # (n, d)
        shift = block_mean - mean  # (d,)
        scatter = scatter + centred.T @ centred  # (d, d)
        scatter = scatter + np.outer(shift, shift) * (count * len(block) / total)
        mean = mean + shift * (len(block) / total)
        count = total
    if count < MINIMUM:
        raise ValueError(
            f'FID was asked for {count} image(s); it needs at least {MINIMUM}, and {FULL_RANK} or '
            'more to mean something.'
        )
    return Statistics(count=count, mean=mean, covariance=scatter / (count - 1))


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """The squared Frechet distance of two Gaussians (Heusel et al. 2017, Eq. 6), in float64.

        |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

    The trace of the root is the trace of (R S_2 R)^(1/2) with R = S_1^(1/2). R S_2 R is symmetric,
    so its eigenvalues are real, and they stay at zero where covariances are singular.

    Raises:
      ValueError: the features of the two sets have different lengths, or statistics are none of any
        set of features: not finite, or with variances below zero.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(
            f'The statistics are of {len(one.mean)} and of {len(other.mean)} features; both must '
            'come from the same network.'
        )
    for each in (one, other):
        _require_finite(each, "FID's mean or covariance")
    values, vectors = np.linalg.eigh(one.covariance)  # (d,), (d, d)
    root = (vectors * np.sqrt(_without_noise(values))) @ vectors.T  # R, (d, d)
    product = root @ other.covariance @ root  # (d, d)
    # Rounding leaves the product not quite symmetric, which `eigvalsh` takes for granted.
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)  # (d,)
    for each in (values, eigenvalues):
        if each.min() < -_ROUNDING * each.max():
            raise ValueError(
                f'FID needs covariances, whose eigenvalues are not negative; one here is '
                f'{each.min():.3g} beside {each.max():.3g}: make the statistics again.'
            )
    trace_of_root = np.sqrt(_without_noise(eigenvalues)).sum()
    difference = one.mean - other.mean  # (d,)
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return float(difference @ difference + traces - 2 * trace_of_root)  # Eq. 6


def _without_noise(eigenvalues: np.ndarray) -> np.ndarray:
    """Sets to zero what rounding leaves of zero eigenvalues; the roots of that would add up."""
    noise = eigenvalues.max() * len(eigenvalues) * np.finfo(np.float64).eps
    return np.where(eigenvalues > noise, eigenvalues, 0.0)


def write(path: epath.PathLike, values: Statistics, provenance: Mapping[str, Any]) -> None:
    """Writes statistics; the file is there whole or not at all.

    Args:
      path: The .npz file, local or remote; missing folders are made.
      values: The statistics.
      provenance: What the statistics were made of, JSON-able.
    """
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


def read(path: epath.PathLike, features: int | None = None) -> tuple[Statistics, dict[str, Any]]:
    """Reads statistics and their provenance.

    The files of U-ViT hold neither count nor provenance: the count is then 0, the provenance {}.

    Args:
      path: The .npz file.
      features: How many features the statistics must be of; None for any number.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not one of statistics, or of another number of features.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'There is no file of reference statistics {path}.')
    try:
        with path.open('rb') as file:
            # The content of an .npy file is a plain array, which has no names.
            content = np.load(file, allow_pickle=False)
            mean = _real(content['mu'])
            covariance = _real(content['sigma'])
            count = int(content['count']) if 'count' in content else 0
            provenance = json.loads(str(content['provenance'])) if 'provenance' in content else {}
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is not a file of reference statistics ({error}); it must be an .npz with 'mu' "
            "and 'sigma'."
        ) from error
    if mean.ndim != 1 or covariance.shape != mean.shape * 2:
        raise ValueError(
            f"{path}: 'mu' has shape {mean.shape} and 'sigma' {covariance.shape}; they must be "
            '(d,) and (d, d).'
        )
    if features is not None and len(mean) != features:
        raise ValueError(
            f'{path} has the statistics of {len(mean)} features; FID compares {features} of '
            "Inception's: take statistics that were made with it."
        )
    values = Statistics(count=count, mean=mean, covariance=covariance)
    _require_finite(values, f"{path}: 'mu' or 'sigma'")
    unevenness = np.abs(covariance - covariance.T).max(initial=0.0)
    if unevenness > _ROUNDING * np.abs(covariance).max(initial=0.0):
        raise ValueError(
            f"{path}: 'sigma' is not symmetric (two entries that must be equal differ by "
            f'{unevenness:.3g}), so it is no covariance; make the statistics again.'
        )
    return values, provenance


def _real(array: np.ndarray) -> np.ndarray:
    """The array in float64; raises ValueError for what are no real numbers."""
    if array.dtype.kind not in 'fiu':
        raise ValueError(f'its numbers have the type {array.dtype}')
    return np.float64(array)


def _require_finite(values: Statistics, what: str) -> None:
    """Raises ValueError where statistics hold NaN or infinity; `what` begins the sentence."""
    if not (np.isfinite(values.mean).all() and np.isfinite(values.covariance).all()):
        raise ValueError(f'{what} is not finite; make the statistics again.')
