"""What a CLIP's config.json says and its weights do not: heads, activation, epsilon.

The towers are in `encoders/clip.py`. A file that contradicts the weights beside it is refused, and
so is a CLIP that those towers do not compute.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

ACTIVATIONS = ('quick_gelu', 'gelu')
IMAGE_SIDE = 224  # px
_TOWERS = {'text_model': 'text_config', 'vision_model': 'vision_config'}
# What transformers takes where a config.json is silent.
_DEFAULTS = {
    'text_model': {'num_attention_heads': 8, 'hidden_size': 512},
    'vision_model': {'num_attention_heads': 12, 'hidden_size': 768, 'image_size': IMAGE_SIDE},
}
# Fields of a config.json that the weights show as well, by our word for them.
_SHOWN = {'size': 'hidden_size', 'layers': 'num_hidden_layers', 'patch': 'patch_size',
          'vocabulary': 'vocab_size'}  # fmt: skip
_END_TOKENS = (49407, 2)  # the vocabulary's end, and what older files wrote in its place


class Form(NamedTuple):
    """How a tower computes; the defaults are those of OpenAI's CLIPs with ViT.

    Attributes:
      head_size: Features of an attention head.
      activation: 'quick_gelu', x sigmoid(1.702 x), or 'gelu', by the error function.
      epsilon: The variance's summand in layer norms.
    """

    head_size: int = 64
    activation: str = 'quick_gelu'
    epsilon: float = 1e-5


OPENAI = Form()


def read(path: str, sizes: Mapping[str, Any], weights: str) -> dict[str, Form]:
    """The forms of the towers that a weights file holds.

    Args:
      path: A local config.json; '' where there is none: OpenAI's forms are assumed, with a warning.
      sizes: {tower: {'size': ..., 'layers': ...}} as the weights have them, and 'projection'.
      weights: Path of the weights, for messages.

    Raises:
      ValueError: the file cannot be read, belongs to other weights, or describes a CLIP that
        `encoders/clip.py` does not compute.
    """
    towers = [name for name in _TOWERS if name in sizes]
    if not path:
        for name in towers:
            _require_heads_of_openai(sizes[name]['size'], f'{weights} (its {name})')
        logging.warning(
            'No config.json lies beside %s: its attention heads are taken to have %d features and '
            "its activation to be the quick GELU, as in OpenAI's CLIPs. Others', such as LAION's, "
            'need their config.json there.',
            weights, OPENAI.head_size,
        )  # fmt: skip
        return {name: OPENAI for name in towers}
    content = _content(path)
    for name in towers:
        _require_same(content[name], sizes[name], f'{path} ({_TOWERS[name]})', weights)
    projection = content['projection']
    if 'projection' in sizes and projection not in (None, sizes['projection']):
        raise ValueError(
            f'{path} has projection_dim {projection!r}, but the weights in {weights} '
            f'{sizes["projection"]}; put the config.json of these weights there.'
        )
    return {
        name: _form(
            name, content[name], size=sizes[name]['size'], where=f'{path} ({_TOWERS[name]})'
        )
        for name in towers
    }


def _content(path: str) -> dict[str, Any]:
    """{tower: its fields} of a config.json, and 'projection'."""
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is no JSON file ({error}); copy or download it again.') from error
    kind = content.get('model_type', 'clip') if isinstance(content, Mapping) else 'list'
    if kind not in ('clip', 'clip_text_model', 'clip_vision_model'):
        raise ValueError(
            f"{path} describes a {kind!r}; it must be the config.json of a CLIP (model_type 'clip')"
            '.'
        )
    fields = {'projection': content.get('projection_dim')}
    # A tower that is published alone has its fields at the top.
    alone = not any(content.get(key) for key in _TOWERS.values())
    for tower, key in _TOWERS.items():
        # Older files have a second dict, which counts where both say something.
        parts = [content] if alone else [content.get(key), content.get(f'{key}_dict')]
        fields[tower] = dict(_DEFAULTS[tower])
        for part in parts:
            if not isinstance(part or {}, Mapping):
                raise ValueError(f'{path}: {key} must be an object of fields.')
            fields[tower].update(part or {})
    if alone:
        fields['projection'] = None
    return fields


def _require_same(
    fields: Mapping[str, Any], sizes: Mapping[str, int], where: str, weights: str
) -> None:
    """Refuses a config.json of other weights."""
    for ours, theirs in _SHOWN.items():
        if ours in sizes and fields.get(theirs, sizes[ours]) != sizes[ours]:
            raise ValueError(
                f'{where} has {theirs} {fields[theirs]!r}, but the weights in {weights} '
                f'{sizes[ours]}; put the config.json of these weights there.'
            )


def _form(tower: str, fields: Mapping[str, Any], *, size: int, where: str) -> Form:
    """A tower's form; refuses what the towers do not compute."""
    heads = fields['num_attention_heads']
    is_number = isinstance(heads, int) and not isinstance(heads, bool)
    divides = is_number and heads > 0 and size % heads == 0
    activation = fields.get('hidden_act', OPENAI.activation)
    epsilon = fields.get('layer_norm_eps', OPENAI.epsilon)
    inner = fields.get('intermediate_size', 4 * size)
    end = fields.get('eos_token_id', _END_TOKENS[0])
    can = {
        'num_attention_heads': (divides, heads, f'a divisor of hidden_size, {size}'),
        'hidden_act': (activation in ACTIVATIONS, activation, ' or '.join(ACTIVATIONS)),
        'layer_norm_eps': (_is_small(epsilon), epsilon, 'a number between 0 and 0.1'),
        'intermediate_size': (inner == 4 * size, inner, f'4 times hidden_size, {4 * size}'),
    }
    if tower == 'text_model':
        is_end = end in _END_TOKENS
        can['eos_token_id'] = (is_end, end, ' or '.join(map(str, _END_TOKENS)))
    else:
        side = fields['image_size']
        can['image_size'] = (side == IMAGE_SIDE, side, f'{IMAGE_SIDE}, the only size here')
    for field, (good, value, right) in can.items():
        if not good:
            raise ValueError(
                f'{where} has {field} {value!r}; it must be {right}: take such a CLIP.'
            )
    return Form(size // heads, activation, float(epsilon))


def _is_small(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < 0.1


def _require_heads_of_openai(size: int, where: str) -> None:
    """Refuses a width that heads of OpenAI's size do not fill."""
    if size % OPENAI.head_size:
        raise ValueError(
            f'{where} is {size} wide, which heads of {OPENAI.head_size} features do not fill; put '
            'the config.json of these weights beside them, which says how many heads there are.'
        )
