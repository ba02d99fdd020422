"""What the lines of a file give besides captions: whether a model can take it, and the arrays.

Lines are checked before anything is compiled, and their pictures are read once more when their
batch is drawn, so that a long list takes no memory. `data/request_lines.py` has the fields.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from panoptic_jax.data import (
    geometry,
    given_images,
    map_pictures,
    pictures,
    request_lines,
    requests,
)
from panoptic_jax.data.request_lines import Line
from panoptic_jax.data.requests import Request
from panoptic_jax.programs import given_parts
from panoptic_jax.programs.conditions import Conditions
from panoptic_jax.programs.description import Description
from panoptic_jax.programs.tasks import Role, Task, check_task

_HASH_DIGITS = 12
_KEPT = 64  # pictures that are not read again
_UNEQUAL = 0.01  # proportions that differ by less are those of a picture that was resized


def task_of(request: Mapping[str, Any]) -> Task:
    """What the sampler of a line is made for."""
    known = request_lines.parts_of(request, 'known')
    strength = request_lines.parts_of(request, 'strength')
    roles = {
        name: Role(given=name in request, known=name in known, strength=strength.get(name))
        for name in ('image', 'map')
    }
    return Task(**roles)


class LineParts:
    """Reads what lines name, for one model."""

    def __init__(
        self, folder: epath.Path, description: Description, *, void_wins: bool, offset: float
    ) -> None:
        """Reads nothing yet.

        Args:
          folder: Where the paths of the lines start from.
          description: The model.
          void_wins: The pooling of the model's data.
          offset: Share of the evaluations by which the map is ahead of the image.
        """
        self._folder = folder
        self._description = description
        self._offset = offset
        form = map_pictures.Form(description.categories, description.map_side, void_wins)
        self._sides = {'image': description.autoencoder.latent_shape[0], 'map': form.side}
        # The JSON files of maps are read once, see `map_pictures.reader`.
        self._read_map = functools.lru_cache(_KEPT)(map_pictures.reader(form))
        self._read_image = functools.lru_cache(_KEPT)(given_images.read_image)
        self._read_known = functools.lru_cache(_KEPT)(given_images.read_known)

    def accept(self, line: Line) -> Request:
        """The request of a line with hashes of its pictures, see `requests.Accept`."""
        request = requests.as_it_is(line)
        check_task(self._description, task_of(request), self._offset)
        self._check_proportions(request)
        return request | self._hashes(request)

    def conditions(
        self,
        batch: Sequence[Request],
        encode_image: Callable[[np.ndarray], np.ndarray],
        encode_text: Callable[[Sequence[str]], np.ndarray],
    ) -> Conditions:
        """The arrays of a batch whose requests give the same things.

        Args:
          batch: One request for each row.
          encode_image: The autoencoder's.
          encode_text: The text encoder's.

        Raises:
          FileNotFoundError, ValueError: a picture is not the one that `accept` has seen.
        """
        for request in batch:
            if request | self._hashes(request) != request:
                raise ValueError(
                    f'The pictures of {request["caption"]!r} have changed while the job ran; '
                    'restore them and run the same command again.'
                )
        first = batch[0]
        own = Conditions()
        if 'map' in first:
            ids = np.stack([self._map(request) for request in batch])
            own = given_parts.of_ids(ids, self._description)
        if 'image' in first:
            own = own._replace(image=self._latents(batch, encode_image))
        for name in request_lines.parts_of(first, 'known'):
            masks = np.stack([self._known(request, name) for request in batch])
            own = own._replace(**{f'known_{name}': masks})
        if 'guidance' in first:
            own = own._replace(guidance=np.float32([request['guidance'] for request in batch]))
        if 'negative' in first:
            own = own._replace(negative=encode_text([request['negative'] for request in batch]))
        return own

    def _latents(self, batch, encode_image):
        images = [self._read_image(self._folder / request['image']) for request in batch]
        kind = 'moments' if self._description.autoencoder.has_variance else 'latents'
        # The mean of moments: another draw of them would be another image.
        return geometry.true_latents({kind: encode_image(np.stack(images))})

    def _map(self, request):
        beside = self._folder / request['json'] if 'json' in request else None
        return self._read_map(self._folder / request['map'], beside)

    def _known(self, request, name):
        side = self._sides[name]
        mask = request_lines.parts_of(request, 'known')[name]
        if mask == request_lines.ALL:
            return np.ones((side, side), bool)
        return self._read_known(self._folder / mask, side)

    def _hashes(self, request):
        """{name: the beginning of a hash} of the pictures that a request names."""
        arrays = {}
        if 'map' in request:
            arrays['map_sha256'] = [self._map(request)]
        if 'image' in request:
            arrays['image_sha256'] = [self._read_image(self._folder / request['image'])]
        known = request_lines.parts_of(request, 'known')
        if known:
            arrays['known_sha256'] = [self._known(request, name) for name in sorted(known)]
        return {name: _digest(parts) for name, parts in arrays.items()}

    def _check_proportions(self, request):
        """Refuses pictures of one line that cannot lie over one another."""
        named = {name: request[name] for name in ('image', 'map') if name in request}
        known = request_lines.parts_of(request, 'known')
        named |= {f'known ({n})': mask for n, mask in known.items() if mask != request_lines.ALL}
        if len(named) < 2:
            return
        shapes = {
            name: pictures.read_size(self._folder / path, upright=name == 'image')
            for name, path in named.items()
        }
        (first, (width, height)), *others = shapes.items()
        for name, (other_width, other_height) in others:
            if abs(other_width * height / (other_height * width) - 1) > _UNEQUAL:
                raise ValueError(
                    f'The {name} has {other_width}x{other_height} pixels and the {first} '
                    f'{width}x{height}; both must have the same proportions.'
                )


def _digest(arrays):
    content = b''.join(array.tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]
