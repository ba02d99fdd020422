"""What the models cost: the table that the paper's section 2.4 promises.

    python -m panoptic_jax.models.costs

Parameters, arithmetic and memory of a model of pairs against two models in sequence: a U-ViT for
the image, then a model of the same blocks that reads caption and finished image and draws the map.
"""

from typing import NamedTuple

import jax

from panoptic_jax.diffusion.bits import NUM_BITS
from panoptic_jax.models import build, uvit

EVALUATIONS = 50  # of the network for a sample, each twice for guidance
# Stable Diffusion's latents of 256 px images, and CLIP's features of a caption.
_LATENT_SHAPE = 32, 32, 4
_TEXT_SHAPE = 77, 768
_MIB = 2**20
_OWN_TIMES = {'separate_times': True}
# The paper's networks, and those of a token for each place, with times as they are trained.
_NETWORKS = {
    'U-ViT (no map)': ('uvit', {}),
    'one-stream': ('one_stream', {}),
    'two-stream': ('two_stream', {}),
    'one-stream, join=channels': ('one_stream', {'join': 'channels'} | _OWN_TIMES),
    'joint': ('joint', _OWN_TIMES),
}


class Costs(NamedTuple):
    """What one network costs.

    Attributes:
      parameters: Number of all parameters, trained or not.
      evaluation_flops: Matrix products and convolutions of one evaluation of one example.
      weight_bytes: Memory of the float32 parameters.
      activation_bytes: The compiler's scratch memory for one evaluation of one example, float32, on
        the platform at hand.
    """

    parameters: int
    evaluation_flops: int
    weight_bytes: int
    activation_bytes: int


def costs_of(
    name: str, patch_factor: int, *, separate_times: bool = False, **settings: int | str
) -> Costs:
    """The costs of a model by the name and settings of `build.build`, for maps of bits."""
    model = build.build(
        name,
        latent_shape=_LATENT_SHAPE,
        text_tokens=_TEXT_SHAPE[0],
        map_channels=NUM_BITS,
        patch_factor=patch_factor,
        separate_times=separate_times,
        **settings,
    )
    inputs = build.example_inputs(
        latent_shape=_LATENT_SHAPE,
        patch_factor=patch_factor,
        text_shape=_TEXT_SHAPE,
        map_channels=NUM_BITS,
        separate_times=separate_times,
    )
    params = build.abstract_parameters(model, inputs)
    evaluate = jax.jit(lambda params, *arrays: model.apply({'params': params}, *arrays))
    memory = evaluate.lower(params, *inputs).compile().memory_analysis()
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Costs(
        parameters=count,
        evaluation_flops=build.matmul_flops(evaluate, params, *inputs),
        weight_bytes=4 * count,  # float32
        activation_bytes=memory.temp_size_in_bytes,
    )


def in_sequence(image: Costs, image_to_map: Costs) -> Costs:
    """Two models of which one runs after the other: both sets of weights, the larger scratch."""
    return Costs(
        parameters=image.parameters + image_to_map.parameters,
        evaluation_flops=image.evaluation_flops + image_to_map.evaluation_flops,
        weight_bytes=image.weight_bytes + image_to_map.weight_bytes,
        activation_bytes=max(image.activation_bytes, image_to_map.activation_bytes),
    )


def cost_table(size: str = 'S', patch_factor: int = 2) -> str:
    """A Markdown table; a sample is `EVALUATIONS` evaluations of each network with guidance.

    Args:
      size: A name of `uvit.SIZES`.
      patch_factor: Map pixels per latent pixel, along each side.
    """
    costs = {
        row: costs_of(name, patch_factor, **settings, **uvit.SIZES[size])
        for row, (name, settings) in _NETWORKS.items()
    }
    # The second of two models in sequence has the tokens and blocks of a one-stream model.
    costs['two models in sequence'] = in_sequence(costs['U-ViT (no map)'], costs['one-stream'])
    rows = [
        f'| size {size}, patch factor {patch_factor} | parameters | GFLOP an evaluation | '
        'TFLOP a sample | weights, MiB | activations, MiB |',
        '|---|---|---|---|---|---|',
        *(_row(name, of_network) for name, of_network in costs.items()),
    ]
    return '\n'.join(rows)


def _row(name: str, costs: Costs) -> str:
    # Guidance asks the network twice, with the caption and without.
    sample_flops = 2 * EVALUATIONS * costs.evaluation_flops
    cells = (
        name,
        f'{costs.parameters / 1e6:.1f} M',
        f'{costs.evaluation_flops / 1e9:.1f}',
        f'{sample_flops / 1e12:.2f}',
        f'{costs.weight_bytes / _MIB:.0f}',
        f'{costs.activation_bytes / _MIB:.0f}',
    )
    return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
    print(cost_table())
