"""Weights as safetensors in our names, with all that is needed to use them in the metadata.

`--mode=export` turns a checkpoint into such a file. Reading checkpoints is `checkpoint.py`'s.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from panoptic_jax.data import loader
from panoptic_jax.data import manifest as manifests
from panoptic_jax.machine import files, hosts, sharding
from panoptic_jax.models import build
from panoptic_jax.models.forms import PLAIN, Forms
from panoptic_jax.programs import state
from panoptic_jax.weights import checkpoint

EMPTY_TEXT = 'empty_text'  # tensor name of the empty caption's features

# Settings of models that older descriptions lack, as they were then.
_ADDED_SETTINGS = {'map_prediction': 'data', 'zero_conv_bias': False}


def describe(config: ml_collections.ConfigDict, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a sampler has to know besides the parameters; JSON-able, stored with every export.

    Raises:
      ValueError: a model with maps, and data without.
    """
    if config.model.name != 'uvit' and not manifest['categories']:
        raise ValueError(
            f'The data in {config.data.dir} have no maps, which model.name={config.model.name!r} '
            "learns; train 'uvit' on them, or prepare data with maps."
        )
    return {
        'model': {**config.model.to_dict()},
        'map_noise_std': config.map_noise_std,
        'autoencoder': manifest['autoencoder'],
        'text': manifest['text'],
        'categories': manifest['categories'],
    }


def build_model(description: Mapping[str, Any], dtype: Any, forms: Forms = PLAIN) -> Any:
    """The module that `description` (see `describe`) is about."""
    sizes = {key: value for key, value in description['model'].items() if key != 'dtype'}
    return build.build(
        **sizes,
        latent_shape=description['autoencoder']['latent_shape'],
        text_tokens=description['text']['tokens'],
        dtype=dtype,
        forms=forms,
    )


def model_inputs(description: Mapping[str, Any], batch_size: int = 1) -> tuple:
    """Abstract inputs of that module."""
    text = description['text']
    return build.example_inputs(
        description['autoencoder']['latent_shape'],
        description['model']['patch_factor'],
        (text['tokens'], text['features']),
        batch_size,
    )


def save(
    path: str, params: Mapping[str, Any], empty_text: np.ndarray, description: Mapping[str, Any]
) -> None:
    """Writes parameters, the empty caption and the description; the file appears when complete.

    Of several processes the first one writes.
    """
    if jax.process_index():
        return
    tensors = {name: np.asarray(value) for name, value in flatten_dict(params, sep='/').items()}
    tensors[EMPTY_TEXT] = np.asarray(empty_text)
    content = safetensors.numpy.save(tensors, metadata={'description': json.dumps(description)})
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, content)


def load(path: str) -> tuple[dict, np.ndarray, dict[str, Any]]:
    """Reads what `save` wrote.

    Returns:
      (params, empty_text, description).

    Raises:
      FileNotFoundError, ValueError: no such file, or not one of ours.
    """
    content = _read(path)
    try:
        tensors = safetensors.numpy.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], 'little')])
        description = json.loads(header['__metadata__']['description'])
        empty_text = tensors.pop(EMPTY_TEXT)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f'{path} is not a weights file of panoptic_jax ({error}); --mode=export writes one.'
        ) from error
    return unflatten_dict(tensors, sep='/'), empty_text, description


def check_model(now: Mapping[str, Any], before: Mapping[str, Any], workdir: str) -> None:
    """Refuses to go on from a checkpoint in `workdir` whose description is not the config's.

    Raises:
      ValueError: naming the settings that differ. The computation's type may.
    """
    model = _ADDED_SETTINGS | before['model']
    changed = [
        f'model.{name}: {model.get(name)!r} there, {value!r} in this config'
        for name, value in now['model'].items()
        if name != 'dtype' and model.get(name) != value
    ]
    changed += [
        f'{name}: not as in the data that it was trained on'
        for name in ('autoencoder', 'text', 'categories')
        if now[name] != before[name]
    ]
    if changed:
        raise ValueError(
            f'{workdir} holds checkpoints of another model ({", ".join(changed)}); use the config '
            'and data that it was trained with, or another --workdir.'
        )


def check_encoders(description: Mapping[str, Any], manifest: Mapping[str, Any], path: str) -> None:
    """Refuses weights (of `path`) trained on other latents or text features than the data hold.

    Raises:
      ValueError: naming the encoder that differs.
    """
    for kind in ('autoencoder', 'text'):
        theirs, ours = description[kind], manifest[kind]
        if (theirs['name'], theirs['sha256']) != (ours['name'], ours['sha256']):
            raise ValueError(
                f'{path} was trained with {kind} {theirs["name"]!r} (hash '
                f'{theirs["sha256"][:12]}), the data are prepared with {ours["name"]!r} (hash '
                f'{ours["sha256"][:12]}); take other weights or prepare the data again.'
            )


def from_checkpoint(workdir: str, ema: bool) -> tuple[dict, dict[str, Any], int]:
    """Parameters of the newest checkpoint, spread over this process's devices.

    Args:
      workdir: Of the training, which may still be going on.
      ema: Averaged weights rather than the last ones.

    Returns:
      (the whole parameter tree, its description as of `describe`, the step).

    Raises:
      FileNotFoundError: No checkpoint.
    """
    if not checkpoint.has_any(workdir):
        raise FileNotFoundError(_NO_CHECKPOINT.format(workdir))
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    step = hosts.of_first(checkpoints.latest())  # another may be there when the next one looks
    description = checkpoints.meta(step)['description']
    model = build_model(description, np.float32)
    inputs = model_inputs(description)
    params = jax.eval_shape(
        lambda key: build.first_parameters(model, key, inputs), jax.random.key(0)
    )
    trainable, frozen = state.split(params, build.frozen_rule(description['model']['name']))
    name = 'ema' if ema else 'params'
    parts = {name: trainable} | ({'frozen': frozen} if frozen else {})
    shardings = sharding.of_tree(parts, sharding.local_mesh(fsdp=-1))
    restored = checkpoints.restore_parts(step, sharding.abstract(parts, shardings))
    checkpoints.close()
    return state.merge(restored[name], restored.get('frozen', {})), description, step


_NO_CHECKPOINT = (
    '{} holds no checkpoint; train into it first, or name a weights file with '
    '--config.sample.weights=PATH.'
)


def load_for_sampling(
    config: ml_collections.ConfigDict, workdir: str
) -> tuple[dict, np.ndarray, dict[str, Any], str]:
    """What `config.sample.weights` names, else the newest checkpoint, else an imported file.

    Returns:
      (params, empty_text (L, D), description, a name for the weights: file and hash, or step).

    Raises:
      FileNotFoundError, ValueError: No such weights, or data of other encoders.
    """
    path = config.sample.weights
    imported = epath.Path(workdir) / 'weights.safetensors'
    if not path and imported.exists() and not checkpoint.has_any(workdir):
        path = str(imported)
    if path:
        params, empty_text, description = load(path)
        sha256 = hashlib.sha256(_read(path)).hexdigest()
        return params, empty_text, description, f'{epath.Path(path).name} {sha256[:12]}'
    params, description, step = from_checkpoint(workdir, config.sample.ema)
    check_encoders(description, manifests.open_manifest(config.data.dir), workdir)
    return params, loader.empty_text(config.data.dir), description, f'step {step}'


def _read(path: str) -> bytes:
    if not epath.Path(path).is_file():
        raise FileNotFoundError(f'There is no weights file {path}.')
    return epath.Path(path).read_bytes()
