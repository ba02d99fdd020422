"""The optimisers: AdamW as U-ViT uses it, and Muon for the matrices between hidden channels.

`programs/state.py` applies them, and the learning rate of a step is there, too.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from optax import contrib

_EPSILON = 1e-8
# Parts of names whose matrices begin or end in something else than hidden channels, or which start
# at zero: Muon would give all their directions the same weight.
_NOT_HIDDEN = ('embed', 'stem', 'head', 'final_conv', 'modulation', 'evidence', 'condition')
_SMALLEST = 16  # channels; matrices of fewer have no directions to balance
# Muon's updates get the size of AdamW's, so that one learning rate serves both (Liu et al. 2025).
_RMS = 0.2
# Three iterations instead of optax's five take half of the time. Each polynomial is the best one
# for the singular values that the ones before it leave (Amsel et al. 2025); together they bring
# what is from 0.015 to 1 times the matrix's norm to 0.84 .. 1.16.
_ITERATIONS = (
    (7.8977, -22.849, 16.8329),
    (3.4068, -2.5541, 0.5175),
    (2.383, -1.7419, 0.4267),
)


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
    muon = contrib.muon(
        learning_rate,
        weight_decay=weight_decay,
        adam_b1=betas[0],
        adam_b2=betas[1],
        adam_weight_decay=weight_decay,
        muon_weight_dimension_numbers=_axes,
        consistent_rms=_RMS,
        ns_coeffs=_ITERATIONS,
    )
    return _on_stacks(muon)


class _Stacks(NamedTuple):
    """A tree of parameters, or of their gradients, in the order in which Muon works best.

    Attributes:
      matrices: {'of_128x512': (n, inputs, outputs)}, all matrices of a shape as one array.
      others: {path: array}, what AdamW takes.
    """

    matrices: dict[str, jax.Array]
    others: dict[str, jax.Array]


def _on_stacks(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser, which sees `_Stacks` of what it is given.

    Muon's products of one matrix are small and many: 30 matrices took a third longer one by one,
    and four times as long to compile.
    """

    def init(params):
        return optimizer.init(_stack(params))

    def update(gradients, state, params):
        updates, state = optimizer.update(_stack(gradients), state, _stack(params))
        return _unstack(updates, params), state

    return optax.GradientTransformation(init, update)


def _stack(tree: Any) -> _Stacks:
    """Sorts a tree's arrays; a convolution's kernel (3, 3, c, d) becomes a matrix (9 c, d)."""
    others = flatten_dict(tree, sep='/')
    matrices = {}
    for shape, paths in _matrices(others).items():
        kernels = [others.pop(path) for path in paths]
        matrices[shape] = jnp.stack([kernel.reshape(-1, kernel.shape[-1]) for kernel in kernels])
    return _Stacks(matrices, others)


def _unstack(stacks: _Stacks, like: Any) -> Any:
    """The tree whose `_Stacks` these are; `like` has its shapes."""
    old = flatten_dict(like, sep='/')
    new = dict(stacks.others)
    for shape, paths in _matrices(old).items():
        for path, matrix in zip(paths, stacks.matrices[shape], strict=True):
            new[path] = matrix.reshape(old[path].shape)
    return unflatten_dict(new, sep='/')


def _axes(stacks: _Stacks) -> _Stacks:
    """The axes of Muon's matrices, and None for what AdamW takes."""
    axes = contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return _Stacks(dict.fromkeys(stacks.matrices, axes), dict.fromkeys(stacks.others))


def _matrices(flat: Mapping[str, Any]) -> dict[str, list[str]]:
    """{shape: paths of the arrays that are matrices of that shape for Muon}."""
    paths = {}
    for path, value in sorted(flat.items()):
        if not path.endswith('kernel') or any(part in path for part in _NOT_HIDDEN):
            continue
        # A convolution is the matrix of all that lies under one filter.
        outputs = value.shape[-1]
        inputs = value.size // outputs
        if min(inputs, outputs) >= _SMALLEST:
            paths.setdefault(f'of_{inputs}x{outputs}', []).append(path)
    return paths
