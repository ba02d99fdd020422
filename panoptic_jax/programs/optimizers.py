"""The optimisers: AdamW as U-ViT uses it, and Muon for the matrices between hidden channels.

`programs/state.py` applies them, and the learning rate of a step is there, too.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import contrib

_EPSILON = 1e-8
# Parts of names whose matrices begin or end in something else than hidden channels, or which start
# at zero: Muon would give all their directions the same weight.
_NOT_HIDDEN = ('embed', 'stem', 'head', 'final_conv', 'modulation', 'evidence', 'condition')
_SMALLEST = 16  # channels; matrices of fewer have no directions to balance
# Muon's updates get the size of AdamW's, so that one learning rate serves both (Liu et al. 2025).
_RMS = 0.2


def make(
    name: str, learning_rate: Callable, weight_decay: float, betas: tuple[float, float]
) -> optax.GradientTransformation:
    """An optimiser without clipping, which decays every parameter.

    Args:
      name: 'adamw', or 'muon' (Jordan et al. 2024), which gives the update of a matrix equal
        weight in all directions; vectors and the first and last matrices keep AdamW.
      learning_rate: Optimiser steps done -> rate of the next step.
      weight_decay: Share of a parameter that a rate of 1 takes off it.
      betas: AdamW's.
    """
    if name == 'adamw':
        # optax decays every parameter unless a mask says otherwise, as U-ViT wants it.
        return optax.adamw(learning_rate, *betas, eps=_EPSILON, weight_decay=weight_decay)
    return contrib.muon(
        learning_rate,
        weight_decay=weight_decay,
        adam_b1=betas[0],
        adam_b2=betas[1],
        adam_weight_decay=weight_decay,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=_RMS,
    )


def _matrices(params: Any) -> Any:
    """Which parameters Muon takes: the axes of each matrix, and None for AdamW's."""

    def axes(path, value):
        names = jax.tree_util.keystr(path, simple=True, separator='/')
        *inputs, output = range(value.ndim) or (0,)
        if not names.endswith('kernel') or any(part in names for part in _NOT_HIDDEN):
            return None
        if min(value.shape[output], value.size // value.shape[output]) < _SMALLEST:
            return None
        # A convolution is the matrix of all that lies under one filter.
        return contrib.MuonDimensionNumbers(tuple(inputs), (output,))

    return jax.tree_util.tree_map_with_path(axes, params)
