"""The table of all settings: of which kind each one is, and the check that asks it.

`config.py` has the defaults with their meaning, and the conditions that join several settings. Its
fields are those of this table, which a test holds.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from panoptic_jax.command import kinds
from panoptic_jax.diffusion.names import PREDICTIONS
from panoptic_jax.models import names

_STEPS = 2**31 - 1  # the optimiser counts them in 32 bits
_IMAGES = 10**9
_BATCH = 10**6  # images at once
_SIZE = 10**6  # channels and features
_SEED = 2**32 - 1  # JAX would take a larger seed for a smaller one, silently

_GROUPLESS = {
    'workdir': kinds.path(empty=True),
    'seed': kinds.whole(0, _SEED),
    'fused_attention': kinds.truth(),
    'steps': kinds.whole(1, _STEPS),
    'batch_size': kinds.whole(1, _BATCH),
    'microbatches': kinds.whole(1, _BATCH),
    'optimizer': kinds.choice(('adamw', 'muon')),
    'learning_rate': kinds.number(0, 100, above=True),
    'warmup_steps': kinds.whole(0, _STEPS),
    'cooldown': kinds.number(0, 1),
    'weight_decay': kinds.number(0, 1000),
    'betas': kinds.pair(kinds.below_one()),
    'ema_decay': kinds.number(0, 1),
    'text_dropout': kinds.number(0, 1),
    'init_weights': kinds.path('hub', empty=True),
    'init_partial': kinds.truth(),
    'export_dtype': kinds.choice(('float32', 'float16')),
    'log_every': kinds.whole(1, _STEPS),
    'validate_every': kinds.whole(0, _STEPS),
    'validation_batches': kinds.whole(1, _BATCH),
    'preview_every': kinds.whole(0, _STEPS),
    'preview_count': kinds.whole(1, _BATCH),
    'checkpoint_every': kinds.whole(1, _STEPS),
    'checkpoint_best': kinds.choice(('', 'agreement', 'mcd', 'loss')),
    'keep_last': kinds.whole(1, _STEPS),
    'keep_every': kinds.whole(0, _STEPS),
    'profile_at': kinds.whole(0, _STEPS),
    'profile_steps': kinds.whole(1, _STEPS),
}
_DATA = {
    'dir': kinds.path(empty=False),
    'cache': kinds.path('local', empty=True),
    'source': kinds.choice(('coco', 'tfds', 'folder', 'scenes')),
    'tfds_name': kinds.text(empty=True, what='the name of a TFDS data set'),
    'root': kinds.path(empty=True),
    'train_split': kinds.name(empty=False),
    'validation_split': kinds.name(empty=True),
    'categories': kinds.path(empty=True),
    'captions': kinds.choice(('file', 'categories')),
    'flips': kinds.truth(),
    'train_images': kinds.whole(0, _IMAGES),
    'validation_images': kinds.whole(0, _IMAGES),
    'scene_seed': kinds.whole(0, 2**63 - 1),
    'repeats': kinds.truth(),
    'images_per_shard': kinds.whole(1, _IMAGES),
    'autoencoder': kinds.choice(('sd', 'taesd', 'pixels')),
    'autoencoder_weights': kinds.path('hub', empty=True),
    'text': kinds.choice(('clip', 'words')),
    'text_weights': kinds.path('hub', empty=True),
    'text_tokens': kinds.whole(1, _SIZE),
    'text_features': kinds.whole(1, _SIZE),
    'void_wins': kinds.truth(),
    'workers': kinds.whole(0, 1024),
}
_MODEL = {
    'name': kinds.choice(names.NAMES),
    'hidden_size': kinds.whole(1, _SIZE),
    'depth': kinds.whole(1, 10_000),
    'num_heads': kinds.whole(1, _SIZE),
    'patch_size': kinds.whole(1, 32),
    'patch_factor': kinds.choice((1, 2, 4)),
    'given_map': kinds.truth(),
    'zero_map_input': kinds.truth(),
    'join': kinds.choice(('tokens', 'channels')),
    'separate_times': kinds.truth(),
    'instance_bits': kinds.choice((0, 8)),
    'zero_conv_bias': kinds.truth(),
    'remat': kinds.truth(),
    'dtype': kinds.choice(('auto', 'float32', 'bfloat16')),
}
_STREAM = {
    'noise_std': kinds.number(0, 1000, above=True),
    'prediction': kinds.choice(PREDICTIONS),
    'unit_input': kinds.truth(),
    'loss_weight': kinds.number(0, 1e6),
    'start_std': kinds.number(0, 1000),
    'clip': kinds.truth(),
}
_TIMES = {
    **{name: kinds.number(0, 1) for name in ('shared', 'clean_image', 'clean_map')},
    'power': kinds.number(0, 10, above=True),
}
_SAMPLE = {
    'weights': kinds.path('hub', empty=True),
    'fallback': kinds.path('hub', empty=True),
    'checkpoint': kinds.choice(('newest', 'best')),
    'ema': kinds.truth(),
    'prompt': kinds.text(empty=True),
    'prompts': kinds.path(empty=True),
    'split': kinds.choice(('train', 'validation')),
    'given': kinds.choice(('nothing', 'map', 'image')),
    'count': kinds.whole(0, _IMAGES),
    'folder': kinds.name(empty=False),
    'name': kinds.name(empty=False),
    'format': kinds.choice(('folder', 'tar')),
    'shard_pairs': kinds.whole(1, 1000),
    'image_format': kinds.choice(('png', 'jpg', 'webp')),
    'refine': kinds.truth(),
    'redo': kinds.choice(('', 'failed')),
    'batch_size': kinds.whole(1, _BATCH),
    'seed': kinds.whole(0, _SEED),
    'evaluations': kinds.whole(1, 100_000),
    'solver': kinds.choice(('fast', '1', '2', '3', '2M')),
    'grid': kinds.choice(('time', 'lambda')),
    'guidance': kinds.number(-100, 100),
    'guidance_ratio_map': kinds.number(0, 100),
    'guidance_from': kinds.number(0, 1),
    'guidance_to': kinds.number(0, 1),
    'offset': kinds.number(-0.5, 0.5),
    'min_area': kinds.number(0, 1),
    'decode': kinds.choice(('nearest', 'no_void', 'threshold')),
    'keep': kinds.text(empty=True),
    'best_of': kinds.text(empty=True),
    'drop_duplicates': kinds.truth(),
    'second_map': kinds.truth(),
}
_OTHERS = {
    'evaluate.folder': kinds.path(empty=True),
    'evaluate.inception': kinds.path('hub', empty=True),
    'evaluate.clip': kinds.path('hub', empty=True),
    'evaluate.mcd_bins': kinds.whole(1, 256),
    'evaluate.synonyms': kinds.path(empty=True),
    'evaluate.nearest': kinds.truth(),
    'evaluate.reference': kinds.path(empty=True),
    'foreign.path': kinds.path('hub', empty=True),
    'foreign.kind': kinds.choice(('model', 'tower')),
    'foreign.allow_missing': kinds.patterns(),
    'foreign.allow_extra': kinds.patterns(),
    'plan.topology': kinds.text(empty=False, what="a TPU slice such as 'v5e:16x16'"),
    'plan.num_slices': kinds.whole(1, 100_000),
    'plan.batch_per_device': kinds.whole(1, _BATCH),
    'plan.xla_only': kinds.truth(),
    'mesh.data': kinds.whole_or(1, _SIZE, word=-1),
    'mesh.fsdp': kinds.whole_or(1, _SIZE, word=-1),
}


def _prefixed(group: str, fields: Mapping[str, kinds.Kind]) -> dict[str, kinds.Kind]:
    return {f'{group}.{name}': kind for name, kind in fields.items()}


FIELDS: Mapping[str, kinds.Kind] = (
    _GROUPLESS
    | _prefixed('data', _DATA)
    | _prefixed('model', _MODEL)
    | _prefixed('image', _STREAM)
    | _prefixed('map', _STREAM)
    | _prefixed('times', _TIMES)
    | _prefixed('sample', _SAMPLE)
    | _OTHERS
)
# The settings that are paths, in which a leading ~ stands for a home folder.
PATHS = (
    'workdir', 'data.dir', 'data.cache', 'data.root', 'data.categories',
    'data.autoencoder_weights', 'data.text_weights', 'init_weights', 'sample.weights',
    'sample.fallback', 'sample.prompts', 'evaluate.folder', 'evaluate.inception',
    'evaluate.clip', 'evaluate.synonyms', 'evaluate.reference', 'foreign.path',
)  # fmt: skip


def check_fields(values: Mapping[str, Any]) -> None:
    """Checks each setting by itself: that it is there, known, of its type and in its range.

    Args:
      values: All settings with dotted names, as `environment.flat` gives them.

    Raises:
      ValueError: one sentence with field, value and what would be right.
    """
    for name in values:
        if name not in FIELDS:
            raise ValueError(unknown(name))
    for name, kind in FIELDS.items():
        if name not in values:
            raise ValueError(
                f'The config lacks the setting {name!r}; a config starts from config.default(), as '
                'the files in configs/ do, and --config.NAME=VALUE sets one setting, not a group.'
            )
        if not kind.holds(values[name]):
            raise ValueError(f'{name} is {shown(values[name])}; it must be {kind.expected}.')


def shown(value: Any) -> str:
    """A value for a sentence: on one line, and cut where it is long."""
    try:
        written = repr(value)
    except ValueError:  # Python writes out no whole number of more than 4300 digits
        return 'a number of thousands of digits'
    return written if len(written) <= 80 else f'{written[:80]}... ({len(written)} characters)'


def unknown(name: str) -> str:
    """The sentence about a setting that does not exist, with the one that resembles it most."""
    found = difflib.get_close_matches(name, FIELDS, n=1)
    hint = f'did you mean {found[0]!r}?' if found else '--help with a config lists them.'
    return f'There is no setting {name!r}; {hint}'
