"""The forward pass of the TPU's MLP kernel."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models import mlp_layout
from panoptic_jax.models.attention_layout import PLAIN, dot
from panoptic_jax.models.gelu import gelu
from panoptic_jax.models.mlp_layout import Layout, Weights


def forward(
    tokens: jax.Array, weights: Weights, layout: Layout, *, interpret: bool, with_hidden: bool
) -> list[jax.Array]:
    """[the result (B, T, C)], and fc1's (B, T, F) if asked for.

    `weights` are matrices, in the types in which they are read.
    """
    widths = [layout.channels, layout.hidden] if with_hidden else [layout.channels]
    itemsize = tokens.dtype.itemsize
    settings = mlp_layout.compiler_settings(
        layout,
        products=[layout.rows] * 2,
        moved=layout.rows * (layout.channels + sum(widths)) * itemsize,
    )
    return pl.pallas_call(
        functools.partial(_body, layout=layout),
        grid=(layout.cores, layout.examples),
        in_specs=[mlp_layout.examples(layout, layout.channels), *map(mlp_layout.whole, weights)],
        out_specs=[mlp_layout.examples(layout, width) for width in widths],
        out_shape=[
            jax.ShapeDtypeStruct((layout.batch, layout.count, width), tokens.dtype)
            for width in widths
        ],
        scratch_shapes=[pltpu.VMEM((layout.rows, layout.channels), jnp.float32)],
        name='mlp',
        interpret=interpret,
        **settings,
    )(tokens, *weights)


def _body(tokens_ref, *refs, layout):
    weights = Weights(*refs[:6])
    result_ref, *hidden_refs, sums = refs[6:]
    tokens = tokens_ref[0].astype(jnp.float32)  # (rows, C)
    dtype = result_ref.dtype
    normed, _ = mlp_layout.normed(tokens)
    normed = (normed * weights.scale[:] + weights.shift[:]).astype(dtype)
    sums[:] = tokens + weights.bias2[:]

    def work(chunk):
        hidden = dot(normed, weights.kernel1[:, chunk], PLAIN) + weights.bias1[:, chunk]
        hidden = hidden.astype(dtype)  # (rows, a chunk of F)
        for hidden_ref in hidden_refs:
            hidden_ref[0, :, chunk] = hidden
        sums[:] += dot(gelu(hidden), weights.kernel2[chunk], PLAIN)

    mlp_layout.for_chunks(layout, work)
    result_ref[0] = sums[:].astype(dtype)
