"""The table of costs: known counts, and what a joint model saves."""

import re

from code_names import ROOT

from panoptic_jax.models import costs

TINY = {'hidden_size': 64, 'depth': 2, 'num_heads': 2}


def test_costs_are_the_models_own():
    found = {name: costs.costs_of(name, 2, **TINY) for name in ('uvit', 'one_stream', 'two_stream')}
    one = found['one_stream']
    # 590 tokens, 3 blocks: qkv 3, proj 1 and MLP 8 times d^2, attention 2 n d, the skip 2 d^2.
    tokens, width = 590, 64
    blocks = 3 * (12 * width**2 + 2 * tokens * width) + 2 * width**2
    assert 2 * tokens * blocks < one.evaluation_flops < 1.2 * 2 * tokens * blocks
    assert one.weight_bytes == 4 * one.parameters
    for name, other in found.items():
        assert other.activation_bytes > 4 * tokens * width, name
    sequence = costs.in_sequence(found['uvit'], one)
    assert sequence.parameters == found['uvit'].parameters + one.parameters
    assert sequence.evaluation_flops > one.evaluation_flops
    assert sequence.activation_bytes == one.activation_bytes


def test_table_has_the_published_counts():
    lines = costs.cost_table().splitlines()
    counts = [re.search(r'\| ([\d.]+) M', line)[1] for line in lines[2:]]
    assert counts == ['44.7', '45.0', '92.5', '44.8', '71.2', '89.6']
    assert len({line.count('|') for line in lines}) == 1
    _, one_stream, _, channels, joint, _ = [float(line.split('|')[3]) for line in lines[2:]]
    # One token for the two patches of a place; training costs three times an evaluation.
    assert channels < 0.6 * one_stream
    assert joint < 0.5 * one_stream
    # The last column, scratch memory, depends on the compiler.
    readme = (ROOT / 'README.md').read_text()
    for line in lines:
        assert line.rsplit('|', 2)[0] in readme
