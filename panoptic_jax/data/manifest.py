"""`manifest.json`: what a prepared folder holds, and whether it is the data that a run needs.

Preparation writes its plan as `prepare.json` first and as `manifest.json` last, so a folder without
the latter is unfinished. The work itself is `prepare.py`'s.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from panoptic_jax.data import geometry
from panoptic_jax.machine import files

FORMAT = 1  # of the manifest and the records

# What a manifest says of the encoders.
AUTOENCODER_FIELDS = ('name', 'latent_shape', 'scale', 'has_variance', 'sha256')
TEXT_FIELDS = ('name', 'tokens', 'features', 'sha256')
# Fields of config.data and where the manifest keeps what they were at preparation.
_CONFIG_FIELDS = {
    'autoencoder': 'autoencoder.name',
    'text': 'text.name',
    'text_tokens': 'text.tokens',
    'text_features': 'text.features',
    'void_wins': 'void_wins',
}


def make_plan(
    sources: Mapping[str, Any],
    source_ids: Mapping[int, int],
    autoencoder: Mapping[str, Any],
    text: Mapping[str, Any],
    images_per_shard: int,
    void_wins: bool,
    flips: bool = False,
) -> dict[str, Any]:
    """Everything that determines the records, known before work starts: the later manifest.

    Args:
      sources: {split: source of examples}.
      source_ids: {our category id: the source's own}.
      autoencoder: `AUTOENCODER_FIELDS`.
      text: `TEXT_FIELDS`.
      images_per_shard: The unit of work.
      void_wins: Of the pooling.
      flips: Each training image is there twice, the second time mirrored.

    Returns:
      The plan; its 'fingerprint' is the SHA-256 of the rest as canonical JSON.
    """
    splits = {}
    for split, source in sources.items():
        starts = range(0, len(source), images_per_shard)
        per_image = [int(count) for count in source.num_captions]
        copies = 2 if flips and split == 'train' else 1  # both with the same captions
        splits[split] = {
            'images': copies * len(source),
            'captions': sum(per_image),
            'image_shards': [
                copies * min(images_per_shard, len(source) - start) for start in starts
            ],
            'caption_shards': [sum(per_image[i : i + images_per_shard]) for i in starts],
        }
        if copies > 1:  # else not named, so that folders prepared before there were any still fit
            splits[split]['copies'] = copies
    plan = {
        'format': FORMAT,
        'source': {split: source.description for split, source in sources.items()},
        'images_per_shard': images_per_shard,
        'image_size': geometry.IMAGE_SIZE,
        'map_size': geometry.MAP_SIZE if sources['train'].categories else None,  # None: no maps
        'void_wins': void_wins,
        'interpolation': {'image': 'lanczos', 'map': 'nearest'},
        'autoencoder': {**autoencoder},
        'text': {**text},
        'categories': [
            {**category._asdict(), 'source_id': source_ids[category.id]}
            for category in sources['train'].categories
        ],
        'splits': splits,
    }
    plan['fingerprint'] = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    return plan


def described(encoder: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an encoder, for `make_plan`."""
    return {field: getattr(encoder, field) for field in fields}


def open_manifest(data_dir: str) -> dict[str, Any]:
    """Reads the manifest of a finished folder.

    Raises:
      FileNotFoundError: nothing is prepared there, or the preparation has not finished.
      ValueError: the manifest is of another version.
    """
    directory = epath.Path(data_dir)
    if not (directory / 'manifest.json').exists():
        unfinished = (directory / 'prepare.json').exists()
        raise FileNotFoundError(
            f'data.dir is {str(data_dir)!r}, '
            + ('whose preparation has not finished' if unfinished else 'which has no manifest.json')
            + '; run --mode=prepare with the same config first.'
        )
    manifest = json.loads((directory / 'manifest.json').read_text())
    if manifest['format'] != FORMAT:
        raise ValueError(
            f'{directory / "manifest.json"} has format {manifest["format"]}, but this version '
            f'reads {FORMAT}; run --mode=prepare into another data.dir.'
        )
    return manifest


def check_manifest(manifest: Mapping[str, Any], **expected: Any) -> None:
    """Refuses data that do not fit the config.

    Args:
      manifest: From `open_manifest`.
      **expected: Fields of config.data that the run depends on: any of `autoencoder`, `text`,
        `text_tokens`, `text_features`, `void_wins`.

    Raises:
      ValueError: naming every field that differs, with both values.
    """
    found = _leaves(manifest)
    differences = [
        f'data.{field} is {value!r} but the data have {found[_CONFIG_FIELDS[field]]!r}'
        for field, value in expected.items()
        if found[_CONFIG_FIELDS[field]] != value
    ]
    if differences:
        raise ValueError(
            f'The prepared data do not fit the config: {", ".join(differences)}; change the config '
            'or run --mode=prepare into another data.dir.'
        )


def copies(manifest: Mapping[str, Any], split: str) -> int:
    """Records per image of a split: 2 where each is followed by its mirror image, else 1."""
    return manifest['splits'][split].get('copies', 1)


def is_begun(data_dir: str) -> bool:
    """Whether a folder is claimed or finished."""
    names = ('manifest.json', 'prepare.json')
    return any((epath.Path(data_dir) / name).exists() for name in names)


def is_finished(data_dir: str) -> bool:
    """Whether a folder is complete."""
    return (epath.Path(data_dir) / 'manifest.json').exists()


def begin(data_dir: str, plan: Mapping[str, Any]) -> bool:
    """Claims a folder for a plan, or takes up unfinished work of the same plan.

    Returns:
      Whether there is work to do: False if the folder is finished.

    Raises:
      ValueError: the folder holds anything but this plan's work.
    """
    directory = epath.Path(data_dir)
    for name in ('manifest.json', 'prepare.json'):
        if not (directory / name).exists():
            continue
        found = json.loads((directory / name).read_text())
        if found['fingerprint'] != plan['fingerprint']:
            raise ValueError(
                f'data.dir {str(data_dir)!r} holds data that were prepared differently '
                f'({_differences(found, plan)}); choose another data.dir or delete this one.'
            )
        if name == 'manifest.json':
            logging.info('%s is finished already: %s.', data_dir, _counts(plan))
            return False
        logging.info('Going on with the unfinished preparation in %s.', data_dir)
        return True
    if directory.exists() and any(path.suffix != '.tmp' for path in directory.iterdir()):
        raise ValueError(
            f'data.dir {str(data_dir)!r} is not empty and no preparation was started there; choose '
            'another data.dir or empty it.'
        )
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / 'prepare.json', plan)
    return True


def finish(data_dir: str, plan: Mapping[str, Any]) -> None:
    """Declares the folder complete: its plan becomes the manifest."""
    directory = epath.Path(data_dir)
    files.write_json(directory / 'manifest.json', plan)
    (directory / 'prepare.json').unlink()
    logging.info('%s is finished: %s.', data_dir, _counts(plan))


def _counts(plan: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{split} {sizes["images"]} images and {sizes["captions"]} captions'
        for split, sizes in plan['splits'].items()
    )


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """At most four differing leaves of two nested dicts."""
    there, here = _leaves(found), _leaves(expected)
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    names.remove('fingerprint')
    return ', '.join(
        f'{name}: {_brief(there.get(name))} there, {_brief(here.get(name))} in this config'
        for name in names[:4]
    )


def _brief(value: Any) -> str:
    return text if len(text := repr(value)) <= 50 else text[:47] + '...'


def _leaves(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves.update(_leaves(value, f'{prefix}{key}.'))
        else:
            leaves[prefix + key] = value
    return leaves
