"""What a user gives to `pipeline.load`'s function -> the task and the arrays of `Conditions`.

Pictures are read in `data/map_pictures.py` and `data/given_images.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from panoptic_jax.data import geometry, instances, map_pictures
from panoptic_jax.data.categories import things_of
from panoptic_jax.data.given_images import read_image, read_known
from panoptic_jax.data.map_pictures import Form
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.tasks import Role, Task

_STREAMS = ('image', 'map')


def of_each(value: Any, given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """{stream: value}, from such a dictionary or from one value of all streams that are given.

    Raises:
      ValueError: it names something else than 'image' and 'map', or a stream that is not given.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        if not given:
            raise ValueError(f'{what} is set, and neither maps nor images are given; give some.')
        return dict.fromkeys(given, value)
    for name in value:
        if name not in _STREAMS:
            raise ValueError(f"{what} has an entry {name!r}; it may have 'image' and 'map'.")
        if name not in given:
            raise ValueError(f'{what} is set for the {name}, and no {name}s are given; give some.')
    return {name: part for name, part in value.items() if part is not None}


def check_counts(
    given: Mapping[str, Any], masks: Mapping[str, Any], count: int, needs_map: bool
) -> None:
    """Refuses lists that have not one entry for each caption.

    Args:
      given: The lists of maps and images that are given.
      masks: The lists of masks of these.
      count: Captions.
      needs_map: Whether the model draws images of given maps only.
    """
    if needs_map and 'map' not in given:
        raise ValueError(
            f'This model needs a map for each of the {count} captions, and got none; give maps= a '
            'list of pictures or arrays.'
        )
    named = {f'{name}s': values for name, values in given.items()}
    named |= {f'known (of the {name})': values for name, values in masks.items()}
    for name, values in named.items():
        is_list = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str | bytes)
        if not is_list or len(values) != count:
            there = len(values) if is_list else repr(values)
            raise ValueError(
                f'{name} needs one for each of the {count} captions, and got {there}; give a list '
                'of pictures or arrays.'
            )


def task(given: Mapping[str, Any], masks: Mapping[str, Any], strengths: Mapping[str, Any]) -> Task:
    """What the sampler is made for."""
    for name, strength in strengths.items():
        if isinstance(strength, bool) or not isinstance(strength, int | float | np.number):
            raise ValueError(f'The strength of the {name} is {strength!r}; it must be a number.')
    return Task(
        **{
            name: Role(
                given=name in given,
                known=name in masks,
                strength=float(strengths[name]) if name in strengths else None,
            )
            for name in _STREAMS
        }
    )


def read(
    given: Mapping[str, Sequence[Any]],
    masks: Mapping[str, Sequence[Any]],
    description: Description,
    *,
    encode: Callable[[np.ndarray], np.ndarray],
    void_wins: bool,
) -> Conditions:
    """The arrays of what is given.

    Args:
      given: {stream: a picture or an array for each caption}.
      masks: The same for the known parts.
      description: The model.
      encode: The autoencoder's.
      void_wins: The pooling of the model's data.

    Raises:
      FileNotFoundError, ValueError: the errors of `map_pictures.reader`, `given_images.read_image`
        and `given_images.read_known`.
    """
    sides = {'image': description.autoencoder.latent_shape[0], 'map': description.map_side}
    known = {
        name: np.stack([read_known(mask, sides[name]) for mask in each])
        for name, each in masks.items()
    }
    parts = {f'known_{name}': mask for name, mask in known.items()}
    if 'image' in given:
        encoded = encode(np.stack([read_image(each) for each in given['image']]))
        kind = 'moments' if description.autoencoder.has_variance else 'latents'
        # The mean of moments: another draw of them would be another image.
        parts['image'] = geometry.true_latents({kind: encoded})
    if 'map' not in given:
        return Conditions(**parts)
    form = Form(description.categories, sides['map'], void_wins)
    return of_ids(_maps(given['map'], form), description)._replace(**parts)


def of_ids(ids: np.ndarray, description: Description) -> Conditions:
    """Given maps (n, side, side) uint8, and for a model of instances their connected areas."""
    things = _things(ids, description) if description.model.instance_bits else None
    return Conditions(map=ids, instances=things)


def _maps(maps, form):
    """(n, side, side) uint8."""
    read_file = map_pictures.reader(form)
    return np.stack(
        [
            map_pictures.of_ids(each, form)
            if isinstance(each, np.ndarray)
            else read_file(epath.Path(each))
            for each in maps
        ]
    )


def _things(ids, description):
    """(n, side, side) uint8 numbers of things: connected areas, the largest first."""
    thing_ids = things_of(description.categories.entries)
    _, numbers = instances.of_batch(ids, codes=None, thing_ids=thing_ids)
    # There are 255 codes. Areas beyond are of a few pixels each, and count as a crowd.
    return np.where(numbers < 256, numbers, 0).astype(np.uint8)
