"""What training shows of itself: pairs of the same captions and noise each time.

`train.py` asks for previews between its steps; `sample.py` is the offline sampling job.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from panoptic_jax.data import categories, loader
from panoptic_jax.data.geometry import true_ids
from panoptic_jax.data.manifest import open_manifest
from panoptic_jax.encoders.load import Autoencoder, check_same, load_autoencoder
from panoptic_jax.machine import sharding
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.keys import pair_keys
from panoptic_jax.programs.sampler import Sampling, make_sampler
from panoptic_jax.scoring import preview_scores
from panoptic_jax.scoring.scene_scores import are_scenes

Preview = Callable[[dict], tuple[dict[str, np.ndarray], dict[str, float | None]]]

_COLUMNS = 4  # pairs in a row of the grid
_ROW_GAP, _COLUMN_GAP = 4, 8  # white pixels between pairs


class PreviewData(NamedTuple):
    """What a preview needs besides parameters.

    Attributes:
      records: Prepared images: their first captions are drawn, their maps are the truth.
      void_wins: Whether void won the pooling that the data were prepared with.
      empty_text: (L, D) features of the empty caption.
      autoencoder: Decodes the drawn latents.
      yardsticks: What the MCD is read beside; None where maps are not compared.
      is_scenes: Whether the data are the embedded scenes, which can be read back.
    """

    records: Sequence[Mapping[str, Any]]
    void_wins: bool
    empty_text: np.ndarray
    autoencoder: Autoencoder
    yardsticks: preview_scores.Yardsticks | None
    is_scenes: bool


def open_data(
    description: Description, *, data_dir: str, cache: str, autoencoder_weights: str, count: int
) -> PreviewData:
    """The first held-out images, or training images where none are held out; and the decoder.

    Args:
      description: The model.
      data_dir: A prepared folder.
      cache: Folder for copies of shards in a bucket, see `shard_copies.local_copies`.
      autoencoder_weights: The path in `config.data.autoencoder_weights`.
      count: Pairs of the preview; a smaller split repeats.

    Raises:
      FileNotFoundError, ValueError: no such data or weights, or another autoencoder's weights.
    """
    manifest = open_manifest(data_dir)
    autoencoder = load_autoencoder(description.autoencoder.name, autoencoder_weights)
    check_same(autoencoder.facts, description.autoencoder, 'autoencoder')
    name = 'validation' if 'validation' in manifest.splits else 'train'
    split = loader.Split(data_dir, name, cache)
    yardsticks = None
    # The process that shows is the one that scores.
    if description.predicts_map and not jax.process_index():
        yardsticks = preview_scores.yardsticks_of(
            split, side=description.map_side, void_wins=manifest.void_wins
        )
    return PreviewData(
        records=[split[i % len(split)] for i in range(count)],
        void_wins=manifest.void_wins,
        empty_text=loader.empty_text(data_dir),
        autoencoder=autoencoder,
        yardsticks=yardsticks,
        is_scenes=are_scenes(manifest),
    )


def make_preview(
    description: Description,
    sampling: Sampling,
    *,
    data: PreviewData,
    mesh: jax.sharding.Mesh,
    fused_attention: bool,
) -> Preview:
    """The train loop's preview: the same captions and noise each time, as a grid and scores.

    Args:
      description: The model.
      sampling: How its pairs are drawn.
      data: Captions, true maps and the decoder.
      mesh: The devices of the training.
      fused_attention: Whether to take the platform's attention kernel.

    Returns:
      A function params -> ({'preview': grid picture}, scores of `preview_scores.score`). A model
      without maps gives its images alone. Processes other than the first give nothing.
    """
    count = len(data.records)
    truth = None
    if description.has_map:
        side = description.map_side
        truth = np.stack([true_ids(record, side, data.void_wins) for record in data.records])
    text = np.stack([record['texts'][0] for record in data.records])  # (n, L, D)
    sampler = make_sampler(
        description,
        sampling,
        empty_text=data.empty_text,
        dtype=compute_dtype(description.model.dtype, mesh),
        forms=for_mesh(mesh, fused_attention),
    )
    whole = sharding.replicated(mesh)
    # Fewer pairs than devices cannot be split; each device then draws all of them.
    rows = whole if count % mesh.size else sharding.of_batch(mesh)
    compared = preview_scores.Truth(
        captions=[record['captions'][0] for record in data.records],
        maps=truth,
        compares_maps=description.predicts_map,
        yardsticks=data.yardsticks,
        is_scenes=data.is_scenes,
    )
    # A model of given maps gets the true ones, and nothing of them is left to compare.
    given = truth if description.given_map else None
    text, given = sharding.place((text, given), rows)

    @functools.partial(jax.jit, out_shardings=whole)  # the parameters stay as they lie
    def draw(params, text, given):
        keys = jax.lax.with_sharding_constraint(pair_keys(seed=0, first=0, count=count), rows)
        return sampler(params, text, keys, Conditions(map=given))[:2]

    def preview(params):
        latents, ids = draw(params, text, given)
        # All processes draw, since all hold parameters; one of them shows.
        if jax.process_index():
            return {}, {}
        images = data.autoencoder.decode(np.asarray(latents))
        if not description.has_map:
            return {'preview': images}, {}
        ids = np.asarray(ids)
        pictures = {'preview': grid_of_pairs(images, ids, columns=_COLUMNS)}
        return pictures, preview_scores.score(images, ids, compared)

    return preview


def grid_of_pairs(images: np.ndarray, maps: np.ndarray, columns: int) -> np.ndarray:
    """Pairs side by side, image | coloured map, in rows of `columns` pairs.

    Args:
      images: (N, H, W, 3) uint8.
      maps: (N, h, w) uint8 category ids; enlarged to the images' size without interpolation, so H
        and W must be multiples of h and w.
      columns: Pairs in a row; the last row is filled up with white.

    Returns:
      (rows (H + 4) - 4, columns (2 W + 8) - 8, 3) uint8.

    Raises:
      ValueError: not as many maps as images, or sizes that do not divide.
    """
    count, height, width, _ = images.shape
    if len(maps) != count or height % maps.shape[1] or width % maps.shape[2]:
        raise ValueError(
            f'maps have shape {maps.shape} for images of shape {images.shape}; expected one map '
            "per image, with sides that divide the image's"
        )
    enlarged = maps.repeat(height // maps.shape[1], axis=1).repeat(width // maps.shape[2], axis=2)
    row_height, column_width = height + _ROW_GAP, 2 * width + _COLUMN_GAP
    rows = -(-count // columns)
    size = (rows * row_height - _ROW_GAP, columns * column_width - _COLUMN_GAP, 3)
    canvas = np.full(size, 255, np.uint8)
    for number, (image, ids) in enumerate(zip(images, enlarged, strict=True)):
        row, column = divmod(number, columns)
        top, left = row * row_height, column * column_width
        canvas[top : top + height, left : left + width] = image
        middle = left + width
        canvas[top : top + height, middle : middle + width] = categories.colour(ids)
    return canvas
