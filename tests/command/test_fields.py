"""All settings, walked through with values that no run could use: taken, or one plain sentence."""

import math
import re

import pytest
from absl import flags
from ml_collections import config_flags

from panoptic_jax import config as settings
from panoptic_jax.command import arguments, fields, kinds
from panoptic_jax.logs import environment
from panoptic_jax.models import names

# ml_collections loads config files by it.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

DEFAULTS = environment.flat(settings.default().to_dict())
# Numbers that may be 0 (which often means none) or less, and texts that may not be ''.
MAY_BE_ZERO = {
    'seed', 'data.train_images', 'data.validation_images', 'data.scene_seed', 'data.workers',
    'warmup_steps', 'validate_every', 'preview_every', 'keep_every', 'profile_at', 'sample.count',
    'sample.seed', 'cooldown', 'weight_decay', 'ema_decay', 'text_dropout', 'image.start_std',
    'map.start_std', 'image.loss_weight', 'map.loss_weight', 'times.shared', 'times.clean_image',
    'times.clean_map', 'model.instance_bits', 'sample.guidance', 'sample.guidance_ratio_map',
    'sample.guidance_from', 'sample.guidance_to', 'sample.offset', 'sample.min_area',
}  # fmt: skip
AT_MOST_ONE = {
    'cooldown', 'ema_decay', 'text_dropout', 'times.shared', 'times.clean_image', 'times.clean_map',
    'sample.guidance_from', 'sample.guidance_to', 'sample.offset', 'sample.min_area',
}  # fmt: skip
NOT_ONE = {'model.instance_bits', 'sample.offset'}
MAY_BE_MINUS_ONE = {'mesh.data', 'mesh.fsdp', 'sample.guidance'}
CHOICES = {
    'data.source', 'data.captions', 'data.autoencoder', 'data.text', 'model.name',
    'model.join', 'image.prediction', 'map.prediction', 'model.dtype', 'foreign.kind',
    'sample.split', 'sample.given', 'sample.solver', 'sample.grid', 'sample.decode',
    'sample.checkpoint', 'sample.format', 'sample.image_format', 'optimizer', 'export_dtype',
}  # fmt: skip
NOT_EMPTY = {
    'data.dir', 'data.train_split', 'sample.folder', 'sample.name', 'plan.topology', *CHOICES
}  # fmt: skip

ANYTHING = [
    math.nan, math.inf, -math.inf, -1, 0, 1, -1.0, 0.0, 1.5, 10**30, 10**400, -(10**30), 10**5000,
    1e300, True, False, None, '', ' ', 'abc', 'a\nb', 'a\0b', '\ud800', 'x\u2028y', [], (), (0.5,),
    (1, 2, 3), {}, b'abc', (math.nan, 0.9), (0.9, True),
]  # fmt: skip


def is_right(name, value):
    """Whether a value of `ANYTHING` should be taken, told from the default alone."""
    default = DEFAULTS[name]
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    if isinstance(default, str):
        if not isinstance(value, str):
            return False
        if name in CHOICES:
            return False
        if name in ('checkpoint_best', 'sample.redo'):
            return value == ''
        if name.startswith('foreign.allow') and value == ' ':
            return True
        return value == 'abc' or (value == '' and name not in NOT_EMPTY)
    if isinstance(value, str) or isinstance(default, tuple):
        return False
    if isinstance(default, int) and isinstance(value, float):
        return False
    if value == 0:
        return name in MAY_BE_ZERO
    if value == -1:
        return name in MAY_BE_MINUS_ONE
    if value == 1.5:
        return name not in AT_MOST_ONE
    return value == 1 and name not in NOT_ONE


def test_the_table_has_the_fields_of_the_config_and_the_names_of_the_networks():
    assert set(fields.FIELDS) == set(DEFAULTS)
    assert all(kind.holds(DEFAULTS[name]) for name, kind in fields.FIELDS.items())
    assert fields.FIELDS['model.name'].holds(names.NAMES[0])
    assert set(fields.PATHS) < set(DEFAULTS)


@pytest.mark.parametrize('name', fields.FIELDS)
def test_every_value_is_taken_or_refused_by_field_value_and_what_would_be_right(name):
    for value in ANYTHING:
        values = DEFAULTS | {name: value}
        if is_right(name, value):
            fields.check_fields(values)
            continue
        with pytest.raises(ValueError, match='it must be') as error:
            fields.check_fields(values)
        message = str(error.value)
        assert message.startswith(f'{name} is '), message
        assert re.search(r'; it must be \S', message)
        assert message.isprintable()
        assert len(message) < 300
        if isinstance(value, int | float) and abs(value) < 10**31:
            assert f'{name} is {value!r};' in message


@pytest.mark.parametrize(
    ('name', 'right', 'wrong'),
    [
        ('seed', [2**32 - 1], [2**32]),
        ('sample.seed', [2**32 - 1], [2**32]),
        ('betas', [(0, 0.999), [0.9, 0.95]], [(1.5, 0.9), (0.9, 1.0), (0.9,), '0.9,0.9', 0.9]),
        ('learning_rate', [1, 3e-3], [0, -1e-4, 1e30]),
        ('sample.guidance', [-1, 0.5, 100], [101, 1e30]),
        ('sample.folder', ['step_900', 'Größe 2'], ['a/b', '..', '.', 'a\\b', 'x' * 256, ' a']),
        ('sample.name', ['train2017', 'a b'], ['a/b', '..']),
        ('sample.shard_pairs', [1, 1000], [0, 1001]),
        ('data.train_split', ['train2017', 'train[:10%]'], ['a/b', '../train']),
        ('data.validation_split', ['', 'val'], ['a/b']),
        ('data.tfds_name', ['coco/2017_panoptic', ''], ['a\nb']),
        ('data.dir', ['gs://bucket/x', 'a[1]/b*', '~/x', 'Größe'], ['', '   ', 'hf://a/b/c']),
        ('data.cache', ['', '/tmp/x'], ['gs://bucket/x']),
        ('data.text_weights', ['hf://a/b', 'gs://bucket/x', 'x/y'], ['a\nb']),
        ('workdir', ['', 'runs/[1]'], ['hf://a/b']),
        ('sample.prompt', ['a red ball, "left" of ~\t[it]', '红球'], ['a\nb', 'a\r', '\x1b[2J']),
        ('mesh.fsdp', [-1, 1, 8], [0, -2]),
        ('mesh.data', [-1, 1, 8], [0, -2]),
        ('model.patch_factor', [1, 2, 4], [3, True, 2.0, '2']),
        ('evaluate.mcd_bins', [201, 256], [0, 257]),
        ('foreign.allow_extra', ['ema.*,*.bias,', ''], ['a\0']),
        ('sample.solver', ['2M', '2'], ['4', 2]),
        ('data.workers', [0, 64], [-1, 10**6]),
    ],
)
def test_edges_of_some_settings(name, right, wrong):
    for value in right:
        fields.check_fields(DEFAULTS | {name: value})
    for value in wrong:
        with pytest.raises(ValueError, match=f'^{re.escape(name)} is '):
            fields.check_fields(DEFAULTS | {name: value})


def test_settings_that_lack_or_that_nobody_knows_are_named():
    with pytest.raises(ValueError, match="no setting 'batchsize'; did you mean 'batch_size'"):
        fields.check_fields(DEFAULTS | {'batchsize': 3})
    with pytest.raises(ValueError, match="no setting 'zzz'; --help with a config lists them"):
        fields.check_fields(DEFAULTS | {'zzz': 3})
    lacking = {name: value for name, value in DEFAULTS.items() if name != 'sample.seed'}
    with pytest.raises(ValueError, match=r"lacks the setting 'sample\.seed'"):
        fields.check_fields(lacking)
    config = settings.default()
    config.model.dept = 3  # as a config file might
    with pytest.raises(ValueError, match=r"no setting 'model\.dept'; did you mean 'model\.depth'"):
        settings.check(config)


def parse(arguments_):
    """The checked config of a command line; its flags are defined afresh."""
    values, argv = flags.FlagValues(), ['main', *arguments_]
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    arguments.parse_flags(argv, values)
    settings.check(values.config)
    return environment.flat(values.config.to_dict())


TYPED = ('nan', 'inf', '-1', '0', '1' + 30 * '0', '1' + 400 * '0', 'abc', '')


@pytest.mark.parametrize('name', fields.FIELDS)
def test_every_value_typed_is_taken_or_refused_in_one_sentence(name, capsys):
    default = DEFAULTS[name]
    for text in TYPED:
        try:
            taken = parse(['--config=quickstart', f'--config.{name}={text}'])[name]
        except SystemExit:  # refused while flags are parsed
            (line,) = capsys.readouterr().err.splitlines()
            message = line.removeprefix('error: ')
        except ValueError as error:  # refused by the check
            message = str(error)
        else:
            assert fields.FIELDS[name].holds(taken)
            assert text in ('0', '-1', 'abc', '') or isinstance(default, str)
            continue
        # A field that joins another one may be right by itself, as 0 checkpoints are not.
        assert re.match(rf'{re.escape(name)} is .+; it must be .+', message), message
        assert len(message) < 300


def test_kinds_say_in_words_what_they_hold():
    assert kinds.whole(1, 2000).expected == 'a whole number from 1 to 2,000'
    assert kinds.number(0, 1, above=True).expected == 'a number above 0 and at most 1'
    assert kinds.choice(('a', 1)).expected == "one of 'a', 1"
    assert kinds.whole_or(1, 9, word=-1).expected == '-1 or a whole number from 1 to 9'
    assert all(kind.expected.isprintable() for kind in fields.FIELDS.values())
