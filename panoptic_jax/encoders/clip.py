"""CLIP's text and vision towers, whose sizes are read from the weights.

It restates the transformers of Radford et al. 2021 and reads safetensors files with the key names
of transformers' `CLIPModel`. ViT-L/14's text tower conditions the diffusion models, and ViT-B/32
scores images. `encoders/clip_config.py` reads what weights cannot tell, and
`encoders/clip_tokens.py` makes tokens of captions.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from panoptic_jax.encoders import clip_config, safetensors_files, torch_layout
from panoptic_jax.encoders.clip_config import IMAGE_SIDE, OPENAI, Form

TOKENS = 77
_OWNER = "a CLIP with ViT (OpenAI's ViT-B/32 or L/14, say) with transformers' names"
# Constants that older files carry along.
_IGNORED = ('*.position_ids', 'logit_scale')
_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def _norm(form: Form, name: str) -> nn.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
    return nn.LayerNorm(form.epsilon, use_fast_variance=False, name=name)


class _Layer(nn.Module):
    """Pre-norm transformer layer: (B, T, D) to the same shape."""

    causal: bool
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, count, size = x.shape
        hidden = _norm(self.form, 'layer_norm1')(x)
        heads = []
        for kind in 'qkv':
            projected = nn.Dense(size, name=f'self_attn.{kind}_proj')(hidden)
            # (B, T, heads, features of a head)
            heads.append(projected.reshape(batch, count, -1, self.form.head_size))
        mixed = jax.nn.dot_product_attention(*heads, is_causal=self.causal)
        mixed = mixed.reshape(x.shape)
        x = x + nn.Dense(size, name='self_attn.out_proj')(mixed)
        hidden = _norm(self.form, 'layer_norm2')(x)
        hidden = nn.Dense(4 * size, name='mlp.fc1')(hidden)
        if self.form.activation == 'quick_gelu':
            hidden = hidden * jax.nn.sigmoid(1.702 * hidden)
        else:
            hidden = jax.nn.gelu(hidden, approximate=False)
        return x + nn.Dense(size, name='mlp.fc2')(hidden)


class Text(nn.Module):
    """(B, 77) tokens -> (B, 77, D) last hidden states after the final LayerNorm."""

    vocabulary: int
    size: int
    layers: int
    form: Form = OPENAI

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embed = nn.Embed(self.vocabulary, self.size, name='embeddings.token_embedding')
        positions = nn.Embed(TOKENS, self.size, name='embeddings.position_embedding')
        x = embed(tokens) + positions(jnp.arange(TOKENS))  # (B, 77, D)
        for i in range(self.layers):
            x = _Layer(causal=True, form=self.form, name=f'encoder.layers.{i}')(x)
        return _norm(self.form, 'final_layer_norm')(x)


class Vision(nn.Module):
    """(B, 224, 224, 3) normalised pixels -> (B, D), the class token after the last LayerNorm."""

    patch: int
    size: int
    layers: int
    form: Form = OPENAI

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
        x = _norm(self.form, 'pre_layrnorm')(x)  # transformers spells it so
        for i in range(self.layers):
            x = _Layer(causal=False, form=self.form, name=f'encoder.layers.{i}')(x)
        return _norm(self.form, 'post_layernorm')(x[:, 0])


def load(path: str, config: str = '') -> tuple[dict[str, Any], str, dict[str, Form]]:
    """Reads both towers, or the text tower alone where the file has no other.

    Args:
      path: Local safetensors file with the keys of transformers' `CLIPModel` or `CLIPTextModel`.
      config: Local path of the config.json of these weights; '' where there is none.

    Returns:
      {'text_model': params}, float32; a hash of the file and of what is not as in OpenAI's CLIPs;
      and the towers' forms. A whole file also gives 'vision_model' and the projections
      'text_projection' and 'visual_projection'.

    Raises:
      ValueError: the file lacks a weight, holds one too many or one of another shape, or it is no
        CLIP that the towers here compute.
    """
    sizes = _sizes(path)
    forms = clip_config.read(config, sizes, path)
    networks = _networks(sizes, forms)
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
    params, sha256 = torch_layout.load(path, shapes, owner=_OWNER, ignored=_IGNORED)
    others = {name: tuple(form) for name, form in forms.items() if form != OPENAI}
    # The same weights in another form give other features, and hashes of before stay as they were.
    if others:
        sha256 = hashlib.sha256(f'{sha256} {sorted(others.items())}'.encode()).hexdigest()
    return params, sha256, forms


def _sizes(path: str) -> dict[str, Any]:
    """Arguments of `Text` and `Vision`, and the projections' size, from a file's shapes."""
    with safetensors_files.opened(path, _OWNER) as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    try:
        vocabulary, size = shapes['text_model.embeddings.token_embedding.weight']
        sizes = {'text_model': {'vocabulary': vocabulary, 'size': size}}
        if 'vision_model.embeddings.patch_embedding.weight' in shapes:
            size, _, _, patch = shapes['vision_model.embeddings.patch_embedding.weight']
            sizes['vision_model'] = {'patch': patch, 'size': size}
            sizes['projection'], _ = shapes['text_projection.weight']
    except KeyError as error:
        raise ValueError(f'{path} is not {_OWNER}: it lacks {error}.') from error
    except ValueError as error:
        raise ValueError(f'{path} is not {_OWNER}: its embeddings have other axes.') from error
    for name in sizes.keys() & {'text_model', 'vision_model'}:
        matches = [re.match(rf'{name}\.encoder\.layers\.(\d+)\.', key) for key in shapes]
        # By the largest number: where a layer in between is missing, the message can name it.
        numbers = [int(match[1]) for match in matches if match]
        sizes[name]['layers'] = 1 + max(numbers, default=-1)
        if sizes[name]['layers'] > len(shapes) or not all(sizes[name].values()):
            raise ValueError(f'{path} is not {_OWNER}: its {name} has sizes {sizes[name]}.')
    return sizes


def _networks(sizes: Mapping[str, Any], forms: Mapping[str, Form]) -> dict[str, nn.Module]:
    networks = {'text_model': Text(**sizes['text_model'], form=forms['text_model'])}
    if 'vision_model' in sizes:
        networks['vision_model'] = Vision(**sizes['vision_model'], form=forms['vision_model'])
    return networks


def _layers(params: Mapping[str, Any]) -> int:
    """The number of layers in a tower's parameters."""
    return sum(name.startswith('encoder.layers.') for name in params)


def text_states(params: Mapping[str, Any], tokens: jax.Array, form: Form = OPENAI) -> jax.Array:
    """(B, 77) int32 tokens -> (B, 77, D) last hidden states; padding counts, as in U-ViT."""
    tower = params['text_model']
    vocabulary, size = tower['embeddings.token_embedding']['embedding'].shape
    network = Text(vocabulary, size, _layers(tower), form)
    return network.apply({'params': tower}, tokens)


def text_embeddings(params: Mapping[str, Any], tokens: jax.Array, form: Form = OPENAI) -> jax.Array:
    """(B, 77) int32 tokens -> (B, P) projected state of the end token, not normalised."""
    states = text_states(params, tokens, form)
    # The end token has the vocabulary's largest number, and argmax takes the first of several.
    end = jnp.argmax(tokens, axis=1)
    end_states = states[jnp.arange(len(states)), end]  # (B, D)
    return end_states @ params['text_projection']['kernel']


def image_embeddings(
    params: Mapping[str, Any], pixels: jax.Array, form: Form = OPENAI
) -> jax.Array:
    """(B, 224, 224, 3) uint8 pixels -> (B, P) projected class token, not normalised."""
    tower = params['vision_model']
    kernel = tower['embeddings.patch_embedding']['kernel']
    network = Vision(kernel.shape[0], kernel.shape[-1], _layers(tower), form)
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
