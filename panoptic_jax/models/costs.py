"""What the models cost: the table that the paper's section 2.4 promises.

    python -m panoptic_jax.models.costs

Parameters, arithmetic and memory of a joint model against two models in sequence: a U-ViT for the
image, then a model of the same blocks that reads caption and finished image and draws the map.
"""

from typing import NamedTuple

import jax

from panoptic_jax.models import build, uvit

EVALUATIONS = 50  # of the network for a sample, each twice for guidance
_LATENT, _TEXT = (32, 32, 4), (77, 768)


class Costs(NamedTuple):
    """Of one network.

    Attributes:
      parameters: All, trained or not.
      evaluation_flops: Matrix products and convolutions of one evaluation of one example.
      weight_bytes: Of float32 parameters.
      activation_bytes: The compiler's scratch memory for one evaluation of one example, float32, on
        the platform at hand.
    """

    parameters: int
    evaluation_flops: int
    weight_bytes: int
    activation_bytes: int


def costs_of(name: str, patch_factor: int, **sizes: int) -> Costs:
    """Costs of a model by the name and sizes of `build.build`."""
    model = build.build(
        name, latent_shape=_LATENT, text_tokens=_TEXT[0], patch_factor=patch_factor, **sizes
    )
    inputs = build.example_inputs(_LATENT, patch_factor, _TEXT)
    params = jax.eval_shape(
        lambda key: build.first_parameters(model, key, inputs), jax.random.key(0)
    )
    evaluate = jax.jit(lambda params, *arrays: model.apply({'params': params}, *arrays))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    memory = evaluate.lower(params, *inputs).compile().memory_analysis()
    flops = build.matmul_flops(evaluate, params, *inputs)
    return Costs(count, flops, 4 * count, memory.temp_size_in_bytes)


def in_sequence(image: Costs, image_to_map: Costs) -> Costs:
    """Two models of which one runs after the other: both sets of weights, the larger scratch."""
    return Costs(
        image.parameters + image_to_map.parameters,
        image.evaluation_flops + image_to_map.evaluation_flops,
        image.weight_bytes + image_to_map.weight_bytes,
        max(image.activation_bytes, image_to_map.activation_bytes),
    )


def table(size: str = 'S', patch_factor: int = 2) -> str:
    """Markdown; a sample is `EVALUATIONS` evaluations of each network with guidance."""
    sizes = uvit.SIZES[size]
    uvit_costs, one_stream, two_stream = (
        costs_of(name, patch_factor, **sizes) for name in build.NAMES
    )
    rows = {
        'U-ViT (no map)': uvit_costs,
        'one-stream': one_stream,
        'two-stream': two_stream,
        # The second of the two has the tokens and blocks of a one-stream model.
        'two models in sequence': in_sequence(uvit_costs, one_stream),
    }
    lines = [
        f'| size {size}, patch factor {patch_factor} | parameters | GFLOP an evaluation | '
        'TFLOP a sample | weights, MiB | activations, MiB |',
        '|---|---|---|---|---|---|',
    ]
    for name, costs in rows.items():
        sample = 2 * EVALUATIONS * costs.evaluation_flops
        lines.append(
            f'| {name} | {costs.parameters / 1e6:.1f} M | {costs.evaluation_flops / 1e9:.1f} | '
            f'{sample / 1e12:.2f} | {costs.weight_bytes / 2**20:.0f} | '
            f'{costs.activation_bytes / 2**20:.0f} |'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    print(table())
