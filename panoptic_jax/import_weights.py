"""`--mode=import`: weights that exist as PyTorch's .pth files only become safetensors.

This is the one place that imports PyTorch. `weights/foreign_names.py` knows what the names in these
files mean.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import safetensors.numpy
from absl import logging
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from panoptic_jax import config as settings
from panoptic_jax.data import categories, loader
from panoptic_jax.data.facts import CategoryList
from panoptic_jax.data.manifest import check_manifest, open_manifest
from panoptic_jax.diffusion import bits
from panoptic_jax.encoders import weights_files
from panoptic_jax.encoders.load import load_autoencoder, load_text_encoder
from panoptic_jax.machine import files
from panoptic_jax.preparation import claim
from panoptic_jax.programs.description import Description, ModelSettings, describe
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import foreign_names


def import_weights(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes `workdir/weights.safetensors` from the file `config.foreign.path`.

    `config.foreign.kind` says what it holds. A 'model', a U-ViT or PDM as `config.model` describes
    it, gets our names and samples at once. A 'tower', an Inception or CLIP, keeps its own names.
    Process 0 of a job does the work.

    Raises:
      FileNotFoundError, ValueError: no such file or no weights; missing, extra or misshapen ones.
    """
    if jax.process_index():
        return
    foreign = config.foreign
    target = epath.Path(workdir) / 'weights.safetensors'
    # Sampling prefers checkpoints, and would silently pass over the imported file.
    if (target.parent / 'checkpoints').exists():
        raise ValueError(
            f'{workdir} holds checkpoints, which come before imported weights; import into another '
            '--workdir.'
        )
    allow_missing, allow_extra = (
        [pattern.strip() for pattern in text.split(',') if pattern.strip()]
        for text in (foreign.allow_missing, foreign.allow_extra)
    )
    tensors, sha256 = read_torch(foreign.path, allow_extra)
    source = {'file': epath.Path(foreign.path).name, 'sha256': sha256}
    target.parent.mkdir(parents=True, exist_ok=True)
    # Towers keep their own names: `encoders/` reads those.
    if foreign.kind == 'tower':
        files.write_whole(target, safetensors.numpy.save(tensors, metadata=source))
        logging.info('Wrote %d weights under their own names to %s.', len(tensors), target)
        return

    description, empty_text = _describe(config)
    # Files of an earlier import do not name an order, and have the authors'.
    origin = {'source': source, 'bit_order': bits.BIT_ORDER}
    description = dataclasses.replace(description, origin=origin)
    weights = translated(
        tensors,
        description,
        key=jax.random.key(config.seed),
        path=foreign.path,
        allow_missing=allow_missing,
        allow_extra=allow_extra,
    )
    weights_file.save(str(target), weights_file.Weights(weights, empty_text, description))
    count = len(flatten_dict(weights))
    logging.info('Wrote %d weights of %s to %s.', count, config.model.name, target)


def translated(
    tensors: Mapping[str, np.ndarray],
    description: Description,
    *,
    key: jax.Array,
    path: str,
    allow_missing: Sequence[str],
    allow_extra: Sequence[str],
) -> dict[str, Any]:
    """The parameters of a model, filled from a checkpoint's tensors.

    Args:
      tensors: The tensors by torch name.
      description: The model.
      key: Starts the parameters that the checkpoint may lack.
      path: The checkpoint's path, for messages.
      allow_missing: Patterns of torch names that may be missing or of another shape.
      allow_extra: Patterns of torch names that may be left over.

    Raises:
      ValueError: listing what is missing, left over or of another shape.
    """
    abstract = flatten_dict(description.abstract_parameters(), sep='/')
    shapes = {name: leaf.shape for name, leaf in abstract.items()}
    translation = foreign_names.translate(
        tensors, shapes, depth=description.model.depth, map_channels=bits.NUM_BITS
    )
    foreign_names.require_complete(translation, path, allow_missing, allow_extra)
    params = translation.params
    absent = [*translation.missing, *translation.misshapen]
    if absent:
        logging.warning('Fresh, since the file lacks them: %s.', foreign_names.brief(absent))
        # Only now, since a whole checkpoint needs no fresh parameters.
        fresh = flatten_dict(description.initial_parameters(key), sep='/')
        params = {name: np.asarray(value) for name, value in fresh.items()} | params
    for names, why in (
        (translation.dead, 'without effect in the original'),
        (translation.extra, 'allowed'),
    ):
        if names:
            logging.info('Left out, %s: %s.', why, foreign_names.brief(names))
    return unflatten_dict(params, sep='/')


def read_torch(path: str, allow_extra: Sequence[str] = ()) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a state dict by name, in their own precision, and the file's SHA-256.

    Args:
      path: Local path or hf:// address, see `weights_files.locate`.
      allow_extra: Patterns of names that are passed over where they are no tensors.

    Raises:
      FileNotFoundError, ValueError: no such file, no PyTorch, or something else than tensors.
    """
    path = weights_files.locate(path, 'foreign.path', 'a .pth file')
    # Imported here: nothing else in the package needs PyTorch.
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            '--mode=import reads .pth files with PyTorch, which is missing; pip install torch.'
        ) from error
    try:
        # weights_only: a pickle could run any code.
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # pickle, zip and torch errors of many kinds
        reason = str(error).splitlines()[0]
        raise ValueError(f'{path} is no file of weights that can be read ({reason}).') from error
    items = _items(content, path)
    odd = [name for name, value in items.items() if not isinstance(value, torch.Tensor)]
    nested = [name for name in odd if isinstance(items[name], Mapping)]
    if nested:
        raise ValueError(
            f'{path} holds {foreign_names.brief([*items])} instead of weights by name; save the '
            f'one that is wanted alone: torch.save(torch.load(PATH)[{nested[0]!r}], NEW_PATH).'
        )
    not_allowed = foreign_names.refused(odd, allow_extra)
    if not_allowed:
        raise ValueError(
            f'{path} holds more than weights: {foreign_names.brief(not_allowed)}; save its state '
            'dict alone, or name what to pass over with --config.foreign.allow_extra.'
        )

    def to_numpy(value):
        known = value.dtype != torch.bfloat16  # to NumPy
        return (value if known else value.float()).contiguous().numpy()

    tensors = {name: to_numpy(value) for name, value in items.items() if name not in odd}
    with open(path, 'rb') as file:
        return tensors, hashlib.file_digest(file, 'sha256').hexdigest()


def _items(content: Any, path: str) -> dict[str, Any]:
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f'{path} holds no weights by name, but a {type(content).__name__}.')
    return {str(name): value for name, value in content.items()}


def _describe(config: ml_collections.ConfigDict) -> tuple[Description, np.ndarray]:
    """The model that the config describes, and the empty caption's features (L, D).

    Its encoders are those of the prepared data where there are any, else those that `config.data`
    names, with COCO's categories.
    """
    data, model = config.data, config.model.to_dict()
    if model['name'] == 'two_stream':
        model['zero_conv_bias'] = True  # the biases of the authors' checkpoints are not zero
    if claim.is_finished(data.dir):
        manifest = open_manifest(data.dir)
        expected = settings.encoding(config)
        del expected['void_wins']  # weights do not depend on it
        check_manifest(manifest, **expected)
        description = describe(model, config.map_noise_std, manifest, data.dir)
        return description, loader.empty_text(data.dir)
    autoencoder = load_autoencoder(data.autoencoder, data.autoencoder_weights)
    text = load_text_encoder(
        data.text,
        tokens=data.text_tokens,
        features=data.text_features,
        weights=data.text_weights,
    )
    description = Description(
        model=ModelSettings(**model),
        map_noise_std=config.map_noise_std,
        autoencoder=autoencoder.facts,
        text=text.facts,
        categories=CategoryList(categories.COCO, tuple(c.id for c in categories.COCO)),
    )
    return description, text.encode([''])[0]
