"""The random keys of pairs: what makes a pair the same in any batch and any job.

`programs/sampler.py` draws a pair's starting noise from its key.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_COPIES = 2**32 - 1  # before the number of a copy, which then is no stream's number
_WORD = 2**32


def pair_keys(seed: int, first: int, count: int) -> jax.Array:
    """(count,) keys of the pairs from number `first` on: pair n has the same key in any batch."""
    # A pair's number decides its key, not its place in a batch.
    numbers = jnp.arange(first, first + count)
    return jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)


class _Source(NamedTuple):
    """What a key is made of, uint32 each.

    Attributes:
      seed: The job's or the line's.
      first: A number, or the first word of an id's hash.
      second: The hash's second word.
      is_hashed: Whether there is a second word.
      copy: Which copy of an id.
    """

    seed: Any
    first: Any
    second: Any = 0
    is_hashed: Any = 0
    copy: Any = 0


def request_keys(
    seed: int, numbers: Sequence[int], requests: Sequence[Mapping[str, Any]]
) -> jax.Array:
    """(n,) keys of pairs; each depends on its own number and request alone.

    A pair without an id has the key of its number, or with a seed of its own that of pair number
    'copy' of that seed, wherever it stands. With an id, (seed, id, copy) make the key. An id of
    digits stands for the pair of that number: "00000017" gives what pair 17 of a list without ids
    has.

    Args:
      seed: The job's seed.
      numbers: For each pair its number.
      requests: For each pair what was asked for: of 'id', 'seed' and 'copy' those that it has.
    """
    sources = [_source(seed, *pair) for pair in zip(numbers, requests, strict=True)]
    columns = _Source(*(np.array(column, np.uint32) for column in zip(*sources, strict=True)))
    return _keys(columns)


def _source(seed: int, number: int, request: Mapping[str, Any]) -> _Source:
    own_seed, copy = request.get('seed', seed), request.get('copy', 0)
    name = request.get('id')
    if name is None:
        return _Source(own_seed, copy if 'seed' in request else number)
    if name.isascii() and name.isdecimal() and int(name) < _WORD:
        return _Source(own_seed, int(name), copy=copy)
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[place : place + 4], 'big') for place in (0, 4)]
    return _Source(own_seed, *words, is_hashed=1, copy=copy)


@jax.jit
def _keys(sources: _Source) -> jax.Array:
    def key_of(source):
        key = jax.random.fold_in(jax.random.key(source.seed), source.first)
        key = jnp.where(source.is_hashed > 0, jax.random.fold_in(key, source.second), key)
        copied = jax.random.fold_in(jax.random.fold_in(key, jnp.uint32(_COPIES)), source.copy)
        return jnp.where(source.copy > 0, copied, key)

    return jax.vmap(key_of)(sources)
