"""CLIP's text and vision towers, whose sizes are read from the weights.

It restates the transformers of Radford et al. 2021 and reads safetensors files with the key names
of transformers' `CLIPModel`. ViT-L/14's text tower conditions the diffusion models, and ViT-B/32
scores images. `encoders/clip_tokens.py` makes tokens of captions.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from PIL import Image

from panoptic_jax.encoders import torch_layout

TOKENS = 77
IMAGE_SIDE = 224  # px
# The weights do not tell the heads apart. Every published CLIP but the ResNets has heads of 64.
_HEAD_SIZE = 64
_OWNER = "a CLIP of OpenAI's (ViT-B/32, L/14) with transformers' names"
# Constants that older files carry along.
_IGNORED = ('*.position_ids', 'logit_scale')
_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def _norm(name: str) -> nn.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
    return nn.LayerNorm(1e-5, use_fast_variance=False, name=name)


class _Layer(nn.Module):
    """Pre-norm transformer layer with the quick GELU, x sigmoid(1.702 x): (B, T, D) to the same."""

    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, count, size = x.shape
        hidden = _norm('layer_norm1')(x)
        heads = []
        for kind in 'qkv':
            projected = nn.Dense(size, name=f'self_attn.{kind}_proj')(hidden)
            heads.append(projected.reshape(batch, count, -1, _HEAD_SIZE))  # (B, T, heads, 64)
        mixed = jax.nn.dot_product_attention(*heads, is_causal=self.causal)
        mixed = mixed.reshape(x.shape)
        x = x + nn.Dense(size, name='self_attn.out_proj')(mixed)
        hidden = _norm('layer_norm2')(x)
        hidden = nn.Dense(4 * size, name='mlp.fc1')(hidden)
        hidden = hidden * jax.nn.sigmoid(1.702 * hidden)
        return x + nn.Dense(size, name='mlp.fc2')(hidden)


class Text(nn.Module):
    """(B, 77) tokens -> (B, 77, D) last hidden states after the final LayerNorm."""

    vocabulary: int
    size: int
    layers: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embed = nn.Embed(self.vocabulary, self.size, name='embeddings.token_embedding')
        positions = nn.Embed(TOKENS, self.size, name='embeddings.position_embedding')
        x = embed(tokens) + positions(jnp.arange(TOKENS))  # (B, 77, D)
        for i in range(self.layers):
            x = _Layer(causal=True, name=f'encoder.layers.{i}')(x)
        return _norm('final_layer_norm')(x)


class Vision(nn.Module):
    """(B, 224, 224, 3) normalised pixels -> (B, D), the class token after the last LayerNorm."""

    patch: int
    size: int
    layers: int

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        batch = len(pixels)
        embed = nn.Conv(
            self.size,
            (self.patch, self.patch),
            strides=self.patch,
            padding='VALID',
            use_bias=False,
            name='embeddings.patch_embedding',
        )
        patches = embed(pixels).reshape(batch, -1, self.size)
        first = self.param('embeddings.class_embedding', nn.initializers.zeros, (self.size,))
        first = jnp.broadcast_to(first, (batch, 1, self.size))
        x = jnp.concatenate([first, patches], axis=1)  # (B, 1 + patches, D)
        positions = nn.Embed(x.shape[1], self.size, name='embeddings.position_embedding')
        x = x + positions(jnp.arange(x.shape[1]))
        x = _norm('pre_layrnorm')(x)  # transformers spells it so
        for i in range(self.layers):
            x = _Layer(causal=False, name=f'encoder.layers.{i}')(x)
        return _norm('post_layernorm')(x[:, 0])


def load(path: str) -> tuple[dict[str, Any], str]:
    """Reads both towers, or the text tower alone where the file has no other.

    Args:
      path: Local safetensors file with the keys of transformers' `CLIPModel` or `CLIPTextModel`.

    Returns:
      {'text_model': params}, float32, and the file's SHA-256. A whole file also gives
      'vision_model' and the projections 'text_projection' and 'visual_projection'.

    Raises:
      ValueError: the file lacks a weight, holds one too many or one of another shape.
    """
    sizes = _sizes(path)
    networks = _networks(sizes)
    inputs = {
        'text_model': jax.ShapeDtypeStruct((1, TOKENS), jnp.int32),
        'vision_model': jax.ShapeDtypeStruct((1, IMAGE_SIDE, IMAGE_SIDE, 3), jnp.float32),
    }
    shapes = {
        name: jax.eval_shape(network.init, jax.random.key(0), inputs[name])['params']
        for name, network in networks.items()
    }
    # The text tower of Stable Diffusion is published without projections, which only scores need.
    if 'vision_model' in networks:
        for tower, name in (('text', 'text_projection'), ('vision', 'visual_projection')):
            shape = (sizes[f'{tower}_model']['size'], sizes['projection'])
            shapes[name] = {'kernel': jax.ShapeDtypeStruct(shape, jnp.float32)}
    return torch_layout.load(path, shapes, owner=_OWNER, ignored=_IGNORED)


def _sizes(path: str) -> dict[str, Any]:
    """Arguments of `Text` and `Vision`, and the projections' size, from a file's shapes."""
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        vocabulary, size = shapes['text_model.embeddings.token_embedding.weight']
        sizes = {'text_model': {'vocabulary': vocabulary, 'size': size}}
        if patches := shapes.get('vision_model.embeddings.patch_embedding.weight'):
            sizes['vision_model'] = {'patch': patches[-1], 'size': patches[0]}
            sizes['projection'] = shapes['text_projection.weight'][0]
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f'{path} is not {_OWNER} ({error}).') from error
    for name in sizes.keys() & {'text_model', 'vision_model'}:
        matches = [re.match(rf'{name}\.encoder\.layers\.(\d+)\.', key) for key in shapes]
        # By the largest number: where a layer in between is missing, the message can name it.
        numbers = [int(match[1]) for match in matches if match]
        sizes[name]['layers'] = 1 + max(numbers, default=-1)
    return sizes


def _networks(sizes: Mapping[str, Any]) -> dict[str, nn.Module]:
    networks = {'text_model': Text(**sizes['text_model'])}
    if 'vision_model' in sizes:
        networks['vision_model'] = Vision(**sizes['vision_model'])
    return networks


def _layers(params: Mapping[str, Any]) -> int:
    """The number of layers in a tower's parameters."""
    return sum(name.startswith('encoder.layers.') for name in params)


def text_states(params: Mapping[str, Any], tokens: jax.Array) -> jax.Array:
    """(B, 77) int32 tokens -> (B, 77, D) last hidden states; padding counts, as in U-ViT."""
    tower = params['text_model']
    vocabulary, size = tower['embeddings.token_embedding']['embedding'].shape
    network = Text(vocabulary=vocabulary, size=size, layers=_layers(tower))
    return network.apply({'params': tower}, tokens)


def text_embeddings(params: Mapping[str, Any], tokens: jax.Array) -> jax.Array:
    """(B, 77) int32 tokens -> (B, P) projected state of the end token, not normalised."""
    states = text_states(params, tokens)
    # The end token has the vocabulary's largest number, and argmax takes the first of several.
    end = jnp.argmax(tokens, axis=1)
    end_states = states[jnp.arange(len(states)), end]  # (B, D)
    return end_states @ params['text_projection']['kernel']


def image_embeddings(params: Mapping[str, Any], pixels: jax.Array) -> jax.Array:
    """(B, 224, 224, 3) uint8 pixels -> (B, P) projected class token, not normalised."""
    tower = params['vision_model']
    kernel = tower['embeddings.patch_embedding']['kernel']
    network = Vision(patch=kernel.shape[0], size=kernel.shape[-1], layers=_layers(tower))
    normalised = (pixels / jnp.float32(255) - jnp.array(_PIXEL_MEAN)) / jnp.array(_PIXEL_STD)
    class_token = network.apply({'params': tower}, normalised)  # (B, D)
    return class_token @ params['visual_projection']['kernel']


def fit(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (224, 224, 3): CLIP's own bicubic resizing and centre crop."""
    original = Image.fromarray(image)
    scale = IMAGE_SIDE / min(original.size)
    # Rounding down must not make the short side 223.
    size = [max(IMAGE_SIDE, int(side * scale)) for side in original.size]
    resized = original.resize(size, Image.Resampling.BICUBIC)
    left, top = ((side - IMAGE_SIDE) // 2 for side in size)
    return np.asarray(resized.crop((left, top, left + IMAGE_SIDE, top + IMAGE_SIDE)))
