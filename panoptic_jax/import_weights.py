"""`--mode=import`: weights that exist as PyTorch's .pth files only become safetensors.

The one place that imports PyTorch. What their names mean is `foreign_names.py`'s.
"""

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

from panoptic_jax.data import categories, loader
from panoptic_jax.data import manifest as manifests
from panoptic_jax.encoders import weights_files
from panoptic_jax.encoders.load import load_autoencoder, load_text_encoder
from panoptic_jax.machine import files
from panoptic_jax.models import build
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import foreign_names


def import_weights(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Writes `workdir/weights.safetensors` from the file `config.foreign.path`.

    `config.foreign.kind` says what it holds: 'model', a U-ViT or PDM as `config.model` describes,
    gets our names and samples at once; 'tower', an Inception or CLIP, keeps its own. Of several
    processes the first one does it.

    Raises:
      FileNotFoundError, ValueError: no such file or no weights; missing, extra or misshapen ones.
    """
    if jax.process_index():
        return
    settings = config.foreign
    target = epath.Path(workdir) / 'weights.safetensors'
    if (target.parent / 'checkpoints').exists():
        raise ValueError(
            f'{workdir} holds checkpoints, which come before imported weights; import into another '
            '--workdir.'
        )
    allow_missing, allow_extra = (
        [pattern.strip() for pattern in text.split(',') if pattern.strip()]
        for text in (settings.allow_missing, settings.allow_extra)
    )
    tensors, sha256 = read_torch(settings.path, allow_extra)
    source = {'file': epath.Path(settings.path).name, 'sha256': sha256}
    target.parent.mkdir(parents=True, exist_ok=True)
    if settings.kind == 'tower':
        files.write_whole(target, safetensors.numpy.save(tensors, metadata=source))
        logging.info('Wrote %d weights under their own names to %s.', len(tensors), target)
        return

    manifest, empty_text = _encoders(config)
    description = weights_file.describe(config, manifest) | {'source': source}
    if config.model.name == 'two_stream':
        description['model']['zero_conv_bias'] = True  # theirs are not zero
    model = weights_file.build_model(description, np.float32)
    inputs = weights_file.model_inputs(description)
    fresh = jax.eval_shape(
        lambda key: build.first_parameters(model, key, inputs), jax.random.key(config.seed)
    )
    shapes = {path: leaf.shape for path, leaf in flatten_dict(fresh, sep='/').items()}
    found = foreign_names.translate(tensors, shapes, config.model.depth)
    foreign_names.require_complete(found, settings.path, allow_missing, allow_extra)
    params = found.params
    absent = [*found.missing, *found.misshapen]
    if absent:
        logging.warning('Fresh, since the file lacks them: %s.', foreign_names.listed(absent))
        start = build.first_parameters(model, jax.random.key(config.seed), inputs)
        params = {path: np.asarray(v) for path, v in flatten_dict(start, sep='/').items()} | params
    for names, why in ((found.dead, 'without effect in the original'), (found.extra, 'allowed')):
        if names:
            logging.info('Left out, %s: %s.', why, foreign_names.listed(names))
    weights_file.save(str(target), unflatten_dict(params, sep='/'), empty_text, description)
    logging.info('Wrote %d weights of %s to %s.', len(params), config.model.name, target)


def read_torch(path: str, allow_extra: Sequence[str] = ()) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a state dict by name, in their own precision, and the file's SHA-256.

    Args:
      path: Local path or hf:// address, see `weights_files.locate`.
      allow_extra: Patterns of names that are passed over where they are no tensors.

    Raises:
      FileNotFoundError, ValueError: no such file, no PyTorch, or something else than tensors.
    """
    path = weights_files.locate(path, 'foreign.path', 'a .pth file')
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            '--mode=import reads .pth files with PyTorch, which is missing; pip install torch.'
        ) from error
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # pickle, zip and torch errors of many kinds
        reason = str(error).splitlines()[0]
        raise ValueError(f'{path} is no file of weights that can be read ({reason}).') from error
    items = _items(content, path)
    odd = [name for name, value in items.items() if not isinstance(value, torch.Tensor)]
    nested = [name for name in odd if isinstance(items[name], Mapping)]
    if nested:
        raise ValueError(
            f'{path} holds {foreign_names.listed([*items])} instead of weights by name; save the '
            f'one that is wanted alone: torch.save(torch.load(PATH)[{nested[0]!r}], NEW_PATH).'
        )
    not_allowed = foreign_names.refused(odd, allow_extra)
    if not_allowed:
        raise ValueError(
            f'{path} holds more than weights: {foreign_names.listed(not_allowed)}; save its state '
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


def _encoders(config: ml_collections.ConfigDict) -> tuple[dict[str, Any], np.ndarray]:
    """What a model must know of its encoders, and the empty caption's features.

    From the prepared data where there are any, else from the encoders that `config.data` names,
    with COCO's categories.
    """
    data = config.data
    if manifests.is_finished(data.dir):
        manifest = manifests.open_manifest(data.dir)
        expected = ('autoencoder', 'text', 'text_tokens', 'text_features')
        manifests.check_manifest(manifest, **{name: data[name] for name in expected})
        return manifest, loader.empty_text(data.dir)
    autoencoder = load_autoencoder(data.autoencoder, data.autoencoder_weights)
    text = load_text_encoder(data.text, data.text_tokens, data.text_features, data.text_weights)
    manifest = {
        'autoencoder': manifests.described(autoencoder, manifests.AUTOENCODER_FIELDS),
        'text': manifests.described(text, manifests.TEXT_FIELDS),
        'categories': [{**c._asdict(), 'source_id': c.id} for c in categories.COCO],
    }
    return manifest, text.encode([''])[0]
