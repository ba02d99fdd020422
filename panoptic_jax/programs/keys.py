"""The random keys of pairs: what makes a pair the same in any batch and any job.

`programs/sampler.py` draws a pair's starting noise from its key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def pair_keys(seed: int, first: int, count: int) -> jax.Array:
    """(count,) keys of the pairs from number `first` on: pair n has the same key in any batch."""
    # A pair's number decides its key, not its place in a batch.
    numbers = jnp.arange(first, first + count)
    return jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)


def request_keys(seed: int, first: int, requests: Sequence[Mapping[str, Any]]) -> jax.Array:
    """(n,) keys of consecutive pairs, where some may have a seed of their own.

    Args:
      seed: The job's seed.
      first: Number of the first pair.
      requests: For each pair what was asked for; with 'seed' and 'copy' (0 if it is missing) the
        key is that of pair number 'copy' of that seed, wherever the pair stands.
    """
    keys = pair_keys(seed, first, len(requests))
    if not any('seed' in request for request in requests):
        return keys
    own = [
        pair_keys(request['seed'], request.get('copy', 0), 1)
        if 'seed' in request
        else keys[row : row + 1]
        for row, request in enumerate(requests)
    ]
    return jnp.concatenate(own)
