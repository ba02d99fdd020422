"""The first half of a U-ViT block as a TPU kernel: norm and the product behind it.

Between separate operations the norm's statistics take a pass over the tokens of their own, and so
does its gradient. `models/forms.py` says which arrays get the kernel.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from panoptic_jax.models import block_layout
from panoptic_jax.models.attention_layout import PLAIN, TRANSPOSED, dot, zero_rows_from
from panoptic_jax.models.block_halves import ProductWeights
from panoptic_jax.models.block_layout import sum_of_rows

_KERNELS = 1


def kernel_normed_product(
    tokens: jax.Array, weights: ProductWeights, cores: int = 1, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The same as `block_halves.normed_product`.

    Where no weight is differentiated, none has its gradient computed.

    Args:
      tokens: (B, T, C) bfloat16, see `product_takes`; B is one device's.
      weights: The parameters of norm and layer; the kernel has the type of `tokens`.
      cores: Cores of a device, which share the examples.
      interpret: Run as plain JAX, for tests on any platform.

    Returns:
      (B, T, F) and `tokens`.
    """
    width = weights.kernel.shape[1]
    layout = block_layout.layout_of(tokens.shape, width, _KERNELS, cores)
    matrices = ProductWeights(*(jnp.atleast_2d(array) for array in weights))
    return _product(tokens, matrices, layout, interpret)


def product_takes(tokens: jax.Array, width: int, vector_memory: int) -> bool:
    """Whether the kernel takes such tokens; see `block_layout.fits`."""
    return block_layout.fits(tokens, width, _KERNELS, vector_memory)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(tokens, weights, layout, interpret):
    settings = block_layout.compiler_settings(
        layout, products=[layout.rows], widths=[layout.channels, layout.width]
    )
    product = pl.pallas_call(
        functools.partial(_forward_body, layout=layout),
        grid=(layout.cores, layout.examples),
        in_specs=block_layout.inputs(layout, [layout.channels], weights),
        out_specs=block_layout.examples(layout, layout.width),
        out_shape=jax.ShapeDtypeStruct((*tokens.shape[:2], layout.width), tokens.dtype),
        name='normed_product',
        interpret=interpret,
        **settings,
    )(tokens, *weights)
    return product, tokens


def _forward(tokens, weights, layout, interpret):
    with_weights = any(array.perturbed for array in weights)
    tokens, weights = tokens.value, ProductWeights(*(array.value for array in weights))
    results = _product(tokens, weights, layout, interpret)
    saved = tokens, weights
    # Their place tells the backward pass what is asked for: values cannot, being arrays.
    return results, ((None, saved) if with_weights else (saved, None))


def _backward(layout, interpret, saved, gradients):
    without_weights, with_weights = saved
    tokens, weights = without_weights or with_weights
    arrays = [tokens, *(_numbers(gradient) for gradient in gradients)]
    widths = [layout.channels, layout.width, layout.channels]
    asked = weights if with_weights else ()
    shapes, blocks = block_layout.gradients(layout, tokens, asked)
    products = [layout.rows] + [layout.whole_rows] * (1 if with_weights else 0)
    settings = block_layout.compiler_settings(
        layout, products=products, widths=[*widths, layout.channels]
    )
    of_tokens, *of_weights = pl.pallas_call(
        functools.partial(_backward_body, layout=layout, with_weights=bool(with_weights)),
        grid=(layout.cores, layout.examples),
        in_specs=block_layout.inputs(layout, widths, weights),
        out_specs=blocks,
        out_shape=shapes,
        scratch_shapes=[
            pltpu.VMEM((layout.rows, layout.channels), jnp.float32),
            pltpu.VMEM((layout.channels, layout.rows), tokens.dtype),
            pltpu.VMEM((layout.channels, layout.width), jnp.float32),
        ],
        name='normed_product_gradient' + ('' if with_weights else '_of_tokens'),
        interpret=interpret,
        **settings,
    )(*arrays, *weights)
    if not with_weights:
        return of_tokens, None
    return of_tokens, ProductWeights(*map(block_layout.sum_of_cores, of_weights))


# Thus the forward pass is told what is differentiated.
_product.defvjp(_forward, _backward, symbolic_zeros=True)


def _numbers(gradient):
    if isinstance(gradient, SymbolicZero):
        return jnp.zeros(gradient.shape, gradient.dtype)
    return gradient


def _forward_body(tokens_ref, *refs, layout):
    weights, product_ref = ProductWeights(*refs[:-1]), refs[-1]
    normed, _ = block_layout.normed(tokens_ref[0].astype(jnp.float32))  # (rows, C)
    normed = (normed * weights.scale[:] + weights.shift[:]).astype(product_ref.dtype)

    def work(chunk):
        product = dot(normed, weights.kernel[:, chunk], PLAIN)
        product_ref[0, :, chunk] = product.astype(product_ref.dtype)

    block_layout.for_chunks(layout, work)


def _backward_body(tokens_ref, product_ref, others_ref, *refs, layout, with_weights):
    """`product_ref` is the product's gradient, `others_ref` what the tokens get from elsewhere."""
    count = len(ProductWeights._fields)
    weights, of_tokens, *refs = ProductWeights(*refs[:count]), *refs[count:]
    of_weights = ProductWeights(*refs[:count]) if with_weights else None
    of_normed, turned, of_kernel = refs[-3:]
    if with_weights:
        sums = of_kernel, of_weights.scale, of_weights.shift
        pl.when(pl.program_id(1) == 0)(lambda: _set_to_zero(sums))
    # What lies beyond the tokens may be NaN, which would reach every gradient of a weight.
    clean = functools.partial(zero_rows_from, layout.count)
    normed, inverse = block_layout.normed(clean(tokens_ref[0]).astype(jnp.float32))
    if with_weights:
        scaled = normed * weights.scale[:] + weights.shift[:]
        turned[:] = clean(scaled.astype(turned.dtype)).T
    of_normed[:] = jnp.zeros_like(of_normed)

    def work(chunk):
        gradient = clean(product_ref[0, :, chunk])  # (rows, a chunk of F)
        of_normed[:] += dot(gradient, weights.kernel[:, chunk], TRANSPOSED)
        if with_weights:
            of_kernel[:, chunk] += dot(turned[:], gradient, PLAIN)

    block_layout.for_chunks(layout, work)
    gradient = of_normed[:]
    if with_weights:
        of_weights.shift[0] += sum_of_rows(gradient)
        of_weights.scale[0] += sum_of_rows(gradient * normed)
        is_last = pl.program_id(1) == layout.examples - 1
        pl.when(is_last)(lambda: _write(of_kernel, of_weights.kernel))
    through_norm = block_layout.normed_gradient(gradient * weights.scale[:], normed, inverse)
    of_tokens[0] = (others_ref[0].astype(jnp.float32) + through_norm).astype(of_tokens.dtype)


def _set_to_zero(references):
    for reference in references:
        reference[:] = jnp.zeros_like(reference)


def _write(sums, result):
    result[0] = sums[:].astype(result.dtype)
