"""The forward pass of the TPU's MLP kernel."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models import block_layout
from panoptic_jax.models.attention_layout import PLAIN, dot
from panoptic_jax.models.block_halves import MlpWeights
from panoptic_jax.models.block_layout import Layout
from panoptic_jax.models.gelu import gelu


def forward(
    tokens: jax.Array, weights: MlpWeights, layout: Layout, *, interpret: bool, with_hidden: bool
) -> list[jax.Array]:
    """[the result (B, T, C)], and the hidden layer before its GELU (B, T, F) if asked for.

    `weights` are matrices.
    """
    widths = [layout.channels, layout.width] if with_hidden else [layout.channels]
    settings = block_layout.compiler_settings(
        layout, products=[layout.rows] * 2, widths=[layout.channels, *widths]
    )
    return pl.pallas_call(
        functools.partial(_body, layout=layout),
        grid=(layout.cores, layout.examples),
        in_specs=block_layout.inputs(layout, [layout.channels], weights),
        out_specs=[block_layout.examples(layout, width) for width in widths],
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
    count = len(MlpWeights._fields)
    weights = MlpWeights(*refs[:count])
    result_ref, *hidden_refs, sums = refs[count:]
    tokens = tokens_ref[0].astype(jnp.float32)  # (rows, C)
    dtype = result_ref.dtype
    normed, _ = block_layout.normed(tokens)
    normed = (normed * weights.scale[:] + weights.shift[:]).astype(dtype)
    sums[:] = tokens + weights.bias2[:]

    def work(chunk):
        hidden = dot(normed, weights.kernel1[:, chunk], PLAIN) + weights.bias1[:, chunk]
        hidden = hidden.astype(dtype)  # (rows, a chunk of F)
        for hidden_ref in hidden_refs:
            hidden_ref[0, :, chunk] = hidden
        sums[:] += dot(gelu(hidden), weights.kernel2[chunk], PLAIN)

    block_layout.for_chunks(layout, work)
    result_ref[0] = sums[:].astype(dtype)
