"""What a sampling job does with its pairs besides drawing them, for `benchmark.py` to time.

The job itself is `sample.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from panoptic_jax.data import geometry
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.export import pair_files
from panoptic_jax.programs import things
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.sampler import Drawn
from panoptic_jax.quality import judge


def work_on(
    records: Sequence[Mapping[str, Any]],
    description: Description,
    *,
    autoencoder_weights: str,
    void_wins: bool,
    min_area: float,
    image_format: str,
) -> Callable[[], None]:
    """A function that decodes, scores and encodes a batch of true pairs, as a job does.

    True pairs, since the maps of fresh weights are noise, whose segments take far longer.

    Args:
      records: Those of a `loader.Split`.
      description: The model.
      autoencoder_weights: The path in `config.data.autoencoder_weights`.
      void_wins: How the data's maps are pooled.
      min_area: The smallest segment, see `things.of_drawn`.
      image_format: The format of the images, 'png' for example.

    Raises:
      FileNotFoundError: there are no such weights.
    """
    decode = load_autoencoder(description.autoencoder.name, autoencoder_weights).decode
    categories, ids = description.categories, None
    latents = np.stack([geometry.true_latents(record) for record in records])
    captions = [record['captions'][0] for record in records]
    if description.has_map:
        side = description.map_side
        ids = np.stack([geometry.true_ids(record, side, void_wins) for record in records])
    maps = int(description.has_map)
    own_judge = judge.judge_of(categories.entries, keep='', best_of='', synonyms='', maps=maps)

    def work() -> None:
        found = things.of_drawn(Drawn(latents, ids), categories.entries, min_area=min_area)
        decoded = decode(latents), *found
        batch = pair_files.Drawn(*decoded, judge.judged(own_judge, decoded, captions))
        for row in range(len(records)):
            pair_files.encoded(batch, row, categories, image_format)

    return work
