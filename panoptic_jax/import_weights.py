"""`--mode=import`: weights that exist as PyTorch's .pth files only become safetensors.

`weights/torch_file.py` reads these files, and `weights/foreign_names.py` knows what the names in
them mean.
"""

import dataclasses
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
from panoptic_jax.data.facts import AutoencoderFacts, CategoryList, TextFacts
from panoptic_jax.data.manifest import check_manifest, open_manifest
from panoptic_jax.diffusion import bits, streams
from panoptic_jax.encoders import inception, safetensors_files
from panoptic_jax.encoders.load import autoencoder_facts, load_autoencoder
from panoptic_jax.encoders.text_encoder import load_text_encoder
from panoptic_jax.machine import files
from panoptic_jax.machine.interruption import UNINTERRUPTED, Interruption
from panoptic_jax.preparation import claim
from panoptic_jax.programs.description import Description, describe, settings_of
from panoptic_jax.weights import file as weights_file
from panoptic_jax.weights import foreign_names, torch_file


def import_weights(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    interruption: Interruption = UNINTERRUPTED,
) -> None:
    """Writes `workdir/weights.safetensors` from the file `config.foreign.path`.

    `config.foreign.kind` says what it holds. A 'model', a U-ViT or PDM as `config.model` describes
    it, gets our names and samples at once. A 'tower', an Inception or CLIP, keeps its own names.
    Process 0 of a job does the work.

    Args:
      config: Checked.
      workdir: Folder of the new file.
      interruption: Asked before the encoders are loaded and before the file is written.

    Raises:
      FileNotFoundError, ValueError: no such file or no weights; missing, extra or misshapen ones;
        numbers that are not finite.
      Interrupted: SIGTERM came.
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
    tensors, sha256, part = torch_file.read_torch(foreign.path, allow_extra)
    source = {'file': epath.Path(foreign.path).name, 'sha256': sha256}
    source |= {'part': part} if part else {}
    # Towers keep their own names: `encoders/` reads those.
    if foreign.kind == 'tower':
        if inception.is_inception([*tensors]):
            shapes = {name: value.shape for name, value in tensors.items()}
            inception.require_fids(foreign.path, shapes)
        content = safetensors_files.with_metadata(safetensors.numpy.save(tensors), source)
        _write(target, content, interruption)
        logging.info('Wrote %d weights under their own names to %s.', len(tensors), target)
        return

    # Before the encoders, whose files may have to come over a network.
    weights = translated(
        tensors,
        _expected(config),
        key=jax.random.key(config.seed),
        path=foreign.path,
        allow_missing=allow_missing,
        allow_extra=allow_extra,
    )
    interruption.leave_if_asked()
    description, empty_text = _describe(config)
    # Files of an earlier import do not name an order, and have the authors'.
    origin = {'source': source, 'bit_order': bits.BIT_ORDER}
    description = dataclasses.replace(description, origin=origin)
    new = weights_file.Weights(weights, empty_text, description)
    _write(target, weights_file.to_bytes(new, str(target)), interruption)
    count = len(flatten_dict(weights))
    logging.info('Wrote %d weights of %s to %s.', count, config.model.name, target)


def _write(target: epath.Path, content: bytes, interruption: Interruption) -> None:
    interruption.leave_if_asked()
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(target, content)


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


def _settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields of `config.model` for an imported model."""
    model = config.model.to_dict()
    if model['name'] == 'two_stream':
        model['zero_conv_bias'] = True  # the biases of the authors' checkpoints are not zero
    return model


def _expected(config: ml_collections.ConfigDict) -> Description:
    """The model that the config describes, as far as it is known without its encoders' weights."""
    data = config.data
    if claim.is_finished(data.dir):
        return _description_by_data(config)
    text = TextFacts(data.text, data.text_tokens, data.text_features)
    return _description(config, autoencoder_facts(data.autoencoder), text)


def _describe(config: ml_collections.ConfigDict) -> tuple[Description, np.ndarray]:
    """The model that the config describes, and the empty caption's features (L, D).

    Its encoders are those of the prepared data where there are any, else those that `config.data`
    names, with COCO's categories.
    """
    data = config.data
    if claim.is_finished(data.dir):
        return _description_by_data(config), loader.empty_text(data.dir)
    autoencoder = load_autoencoder(data.autoencoder, data.autoencoder_weights)
    text = load_text_encoder(
        data.text,
        tokens=data.text_tokens,
        features=data.text_features,
        weights=data.text_weights,
    )
    return _description(config, autoencoder.facts, text.facts), text.encode([''])[0]


def _description_by_data(config: ml_collections.ConfigDict) -> Description:
    """The model that the config describes, with the encoders of the prepared data."""
    manifest = open_manifest(config.data.dir)
    expected = settings.encoding(config)
    del expected['void_wins']  # weights do not depend on it
    check_manifest(manifest, **expected)
    return describe(_settings(config), settings.streams(config), manifest, config.data.dir)


def _description(
    config: ml_collections.ConfigDict, autoencoder: AutoencoderFacts, text: TextFacts
) -> Description:
    """The model that the config describes, with COCO's categories."""
    return Description(
        model=settings_of(_settings(config)),
        streams=streams.of_settings(settings.streams(config)),
        autoencoder=autoencoder,
        text=text,
        categories=CategoryList(categories.COCO, tuple(c.id for c in categories.COCO)),
    )
