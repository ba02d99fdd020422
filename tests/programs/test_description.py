"""What a description says of its network without building it."""

import jax
import jax.numpy as jnp
import pytest

from panoptic_jax import config
from panoptic_jax.data.facts import AutoencoderFacts, TextFacts
from panoptic_jax.diffusion import streams
from panoptic_jax.models import forms
from panoptic_jax.programs.description import assume
from panoptic_jax.weights import initial


def described(name, **settings):
    model = config.default().model
    model.update(name=name, hidden_size=32, depth=2, num_heads=2, patch_size=4, **settings)
    paper = {stream: vars(streams.PAPER[stream]) for stream in streams.NAMES}
    autoencoder = AutoencoderFacts('pixels', (32, 32, 3), scale=1.0, has_variance=False)
    return assume(model.to_dict(), paper, autoencoder, TextFacts('words', 24, 16))


@pytest.mark.parametrize('separate_times', [False, True])
@pytest.mark.parametrize(
    ('name', 'join'),
    [
        ('uvit', 'tokens'),
        ('one_stream', 'tokens'),
        ('one_stream', 'channels'),
        ('two_stream', 'tokens'),
        ('joint', 'tokens'),
    ],
)
def test_tokens_are_those_that_attention_gets(name, join, separate_times):
    if name == 'uvit' and separate_times:
        return
    description = described(name, join=join, separate_times=separate_times)
    counts = set()

    def attention(qkv, num_heads, queries=None):
        counts.add(qkv.shape[1])
        return forms.PLAIN.attention(qkv, num_heads, queries)

    model = description.build(jnp.float32, forms.PLAIN._replace(attention=attention))
    params = description.abstract_parameters()
    jax.eval_shape(model.apply, {'params': params}, *description.inputs())
    assert max(counts) == description.num_tokens


def test_a_joint_network_takes_no_image_stream():
    joint, uvit, pair = (
        described(name).abstract_parameters() for name in ('joint', 'uvit', 'one_stream')
    )
    for params, loaded in ((joint, uvit), (joint, pair), (uvit, joint), (pair, joint)):
        with pytest.raises(ValueError, match='file holds a network of another kind: its parts'):
            initial.fill(params, loaded, 'file')
