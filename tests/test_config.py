"""Settings: defaults pass, impossible values and misspelt arguments are refused by name."""

import re
from pathlib import Path

import one_device
import pytest
from absl import flags
from ml_collections import config_flags

from panoptic_jax import config as settings
from panoptic_jax import main, recipes
from panoptic_jax.command import arguments, config_files

# ml_collections loads config files by it.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')


def changed(name, value):
    config = settings.default()
    part = config
    *groups, field = name.split('.')
    for group in groups:
        part = part[group]
    with part.ignore_type():
        part[field] = value
    if name == 'data.tfds_name':
        config.data.source = 'tfds'
    return config


def test_defaults_are_possible():
    settings.check(settings.default())


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('data.source', 'imagenet', "one of 'coco', 'tfds', 'folder', 'scenes'"),
        ('model.name', 'unet', "one of 'uvit', 'one_stream', 'two_stream'"),
        ('model.patch_factor', 3, 'one of 1, 2, 4'),
        ('model.depth', 3, 'even'),
        ('model.hidden_size', 500, 'a multiple of twice model.num_heads (8)'),
        ('model.patch_size', 3, 'a divisor of the latent side 32'),
        ('map.prediction', 'bits', "one of 'noise', 'data', 'velocity'"),
        ('model.join', 'channel', "one of 'tokens', 'channels'"),
        ('times.clean_map', 0.4, None),
        ('sample.guidance_to', -0.1, 'a number from 0 to 1'),
        ('sample.offset', 0.6, 'a number from -0.5 to 0.5'),
        ('model.zero_conv_bias', True, "False for 'one_stream'"),
        ('foreign.kind', 'vae', "one of 'model', 'tower'"),
        ('steps', 0, 'a whole number from 1 to 2,147,483,647'),
        ('learning_rate', -1e-4, 'a number above 0'),
        ('cooldown', 1.5, 'a number from 0 to 1'),
        ('betas', (1.5, 0.9), 'two values, such as (0.9, 0.9)'),
        ('data.tfds_name', '', None),
        ('microbatches', 3, None),
        ('checkpoint_every', 150, 'a multiple of log_every (100)'),
        ('sample.solver', '4', "one of 'fast', '1', '2', '3', '2M'"),
        ('sample.grid', 'uniform', "one of 'time', 'lambda'"),
        ('sample.name', 'annotations', 'none of annotations, images, parts, rejected'),
        ('sample.name', 'semantic_a', 'nothing that begins with semantic_'),
    ],
)
def test_impossible_values_are_refused(name, value, expected):
    with pytest.raises(ValueError, match='must be') as error:
        settings.check(changed(name, value))
    message = str(error.value)
    if expected is not None:
        assert message.startswith(f'{name} is {value!r}')
        assert expected in message
    assert '\n' not in message


def test_noise_of_a_map_needs_a_map_to_predict():
    config = settings.default()
    config.map.prediction = 'noise'
    settings.check(config)
    for name, value in (('given_map', True), ('name', 'uvit'), ('zero_map_input', True)):
        config.model.update(name='one_stream', given_map=False, zero_map_input=False)
        config.model[name] = value
        with pytest.raises(ValueError, match="it must be 'data' where no map is predicted"):
            settings.check(config)


def test_order_of_the_solver_must_divide_the_evaluations():
    config = changed('sample.solver', '3')
    with pytest.raises(ValueError, match=r'sample\.evaluations is 50; it must be a multiple'):
        settings.check(config)
    config.sample.evaluations = 51
    settings.check(config)


def test_misspelt_fields_do_not_exist():
    config = settings.default()
    config.lock()
    with pytest.raises(AttributeError, match='batchsize'):
        config.batchsize = 3


def test_config_arguments():
    defaults = {'patch_factor': 2, 'given_map': False, 'rate': 0.5}
    assert recipes.arguments('', **defaults) == defaults
    assert recipes.arguments('patch_factor=4,given_map=1', **defaults) == {
        'patch_factor': 4,
        'given_map': True,
        'rate': 0.5,
    }
    with pytest.raises(ValueError, match=r"no argument 'patchfactor'; it has patch_factor"):
        recipes.arguments('patchfactor=4', **defaults)
    with pytest.raises(
        ValueError, match=re.escape("patch_factor is 'two'; it must be a whole number")
    ):
        recipes.arguments('patch_factor=two', **defaults)


CONFIGS = Path(__file__).parents[1] / 'configs'


@pytest.mark.parametrize('given', ['', ':patch_factor=4,given_map=1'])
def test_a_config_is_found_by_its_name_from_any_folder(given, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert config_files.find_config(f'two_stream{given}') == f'{CONFIGS / "two_stream.py"}{given}'


@pytest.mark.parametrize(
    'value', ['configs/uvit.py', 'nowhere/uvit.py', 'uvit.py', './uvit', '', 'mine.py:uvit']
)
def test_a_path_is_not_taken_for_a_name(value):
    assert config_files.find_config(value) == value


def test_a_file_wins_over_the_config_of_its_name_and_a_folder_does_not(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path('uvit').write_text('def get_config(): ...')
    Path('quickstart').mkdir()  # as in `runs/`
    assert config_files.find_config('uvit:size=M') == 'uvit:size=M'
    assert config_files.find_config('quickstart') == str(CONFIGS / 'quickstart.py')


def test_an_unknown_name_is_answered_with_the_names_that_exist():
    names = ', '.join(sorted(path.stem for path in CONFIGS.glob('*.py')))
    with pytest.raises(ValueError, match=f"no config named 'quikstart'; the names are {names}, "):
        config_files.find_config('quikstart:size=M')


@pytest.mark.parametrize('flag', ['--config', '-config'])
def test_only_the_value_of_the_flag_config_is_rewritten(flag):
    path = str(CONFIGS / 'uvit.py')
    rest = ['--config.steps=5', '--config.sample.prompts=uvit', '--workdir=uvit', '--mode', 'uvit']
    assert config_files.with_config_file(['main', f'{flag}=uvit', *rest]) == [
        'main', f'{flag}={path}', *rest,
    ]  # fmt: skip
    assert config_files.with_config_file(['main', flag, 'uvit', *rest]) == [
        'main',
        flag,
        path,
        *rest,
    ]
    assert config_files.with_config_file(['main', flag]) == ['main', flag]


def parse(given):
    """The config of a command line; its flags are defined afresh, since a process has them once."""
    values, argv = flags.FlagValues(), ['main', *given]
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    assert arguments.parse_flags(argv, values) == ['main']
    return values.config


@pytest.mark.parametrize(
    ('given', 'sentence'),
    [
        ([], '--config is missing, the experiment by its name or file; for example: '),
        (['--config=quikstart'], "There is no config named 'quikstart'; "),
        (['--config=configs/none.py'], "There is no config file 'configs/none.py'; "),
        (['--config=configs'], "There is no config named 'configs'; "),
        (['--config=README.md'], "There is no config file 'README.md'; "),
        (
            ['--config=configs/coco_overfit.py:size=M'],
            "takes no arguments, but 'size=M' is given; ",
        ),
        (['--config', 'quickstart', '--config.model.dept=3'], "setting 'model.dept'; did you mean"),
        (['--config=quickstart', '--config.steps.x=3'], "There is no setting 'steps.x'; "),
        (['--config=two_stream:size=XS'], "size is 'XS'; it must be one of S, S-deep, "),
        (['--config=two_stream:given_map=yes'], "given_map is 'yes'; it must be 1 or 0."),
        (['--config=uvit', '--config.steps=many'], "steps is 'many'; it must be a whole number"),
        (['--config=uvit', '--config.steps=1.5'], "steps is '1.5'; it must be a whole number"),
        (['--config=uvit', '--config.sample.ema=so'], "sample.ema is 'so'; it must be True or"),
        (['--config=uvit', '--config.data=5'], 'data is a group of settings; set one of them'),
        (['--config=uvit', '--workdri=x'], "Unknown command line flag 'workdri'"),
        (['--config=uvit', 'prepare'], "There is no argument 'prepare'; settings are --config."),
    ],
)
def test_mistakes_in_flags_are_one_sentence(given, sentence, capsys, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    with pytest.raises(SystemExit) as stop:
        parse(given)
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    assert sentence in line


IMPORT = 'from panoptic_jax import config as settings\n'


@pytest.mark.parametrize(
    ('code', 'sentence'),
    [
        ('x = 1\n', ' is no config: it has no function get_config().'),
        ('def get_config(:\n', ', line 1 is not Python: invalid syntax.'),
        ('def get_config():\n  return 5\n', ' is no config: its get_config() returns int; '),
        ("def get_config():\n  return 5 + '5'\n", ', line 2: unsupported operand type'),
        (
            f"{IMPORT}def get_config():\n  c = settings.default()\n  c.steps = 'abc'\n",
            ", line 4: steps is 'abc'; it must be a whole number from 1 to ",
        ),
    ],
)
def test_mistakes_in_a_config_file_name_the_file(code, sentence, capsys, tmp_path):
    path = tmp_path / 'mine [1].py'
    path.write_text(code)
    with pytest.raises(SystemExit):
        parse([f'--config={path}'])
    assert capsys.readouterr().err.startswith(f'error: {path}{sentence}')


def test_a_config_file_may_get_its_function_from_elsewhere(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('from configs.uvit import get_config\n')
    assert config_files.with_config_file([f'--config={path}:size=M']) == [f'--config={path}:size=M']


def test_a_config_by_name_takes_arguments_and_overrides():
    config = parse(['--config', 'two_stream:patch_factor=4', '--config.steps=7'])
    assert config.model.name == 'two_stream'
    assert (config.model.patch_factor, config.steps) == (4, 7)


NOWHERE = '/nowhere/at/all'
NO_CHECKPOINT = 'holds no checkpoint; train into it first'


@pytest.mark.parametrize(
    ('mode', 'values', 'expected'),
    [
        ('train', {'batch_size': -1}, 'batch_size is -1; it must be a whole number from 1 to '),
        ('train', {'data.dir': NOWHERE}, 'data.dir is '),
        ('train', {'data.text_tokens': 23}, 'data.text_tokens is 23 but the data have 24'),
        ('train', {'mesh.fsdp': 3}, 'mesh.data=-1 times mesh.fsdp=3 must be the number of devices'),
        ('train', {'mesh.fsdp': 0}, 'mesh.fsdp is 0; it must be -1 or a whole number'),
        ('train', {'init_weights': NOWHERE}, 'There is no weights file'),
        ('train', {'init_weights': __file__}, 'is not a weights file of panoptic_jax'),
        ('sample', {}, NO_CHECKPOINT),
        ('export', {}, NO_CHECKPOINT),
        ('evaluate', {}, NO_CHECKPOINT),
        ('evaluate', {'data.dir': NOWHERE}, 'run --mode=prepare with the same config first'),
        ('sample', {'sample.weights': NOWHERE}, 'There is no weights file'),
        ('sample', {'sample.weights': __file__}, 'is not a weights file of panoptic_jax'),
        ('sample', {'sample.evaluations': 0}, 'sample.evaluations is 0; it must be '),
    ],
)
def test_expected_errors_are_one_sentence_on_the_command_line(
    mode, values, expected, config, tmp_path, capsys
):
    config.update_from_flattened_dict(values)
    options = {} if mode == 'export' else {'devices': one_device.devices()}
    options |= {'peak_flops': one_device.PEAK_FLOPS} if mode == 'train' else {}
    assert main.run_mode(mode, config, str(tmp_path / 'run'), **options) == 1
    message = capsys.readouterr().err.splitlines()
    (line,) = [line for line in message if line.startswith('error: ')]
    assert expected in line
    assert not [line for line in message if line.startswith('Traceback')]
    assert not (tmp_path / 'run' / 'config.json').exists()
    assert not (tmp_path / 'run' / 'samples').exists()


def test_the_config_is_found_anywhere_on_a_command_line():
    assert config_files.config_of([]) is None
    assert config_files.config_of(['--mode=train', '--config']) is None
    assert config_files.config_of(['--config', 'a', '--config.steps=5']) == 'a'
    assert config_files.config_of(['--config=a', '-config=b', '--mode=train']) == 'b'


def test_only_preparation_does_without_a_workdir(config, capsys):
    assert main.run_mode('sample', config, workdir=None) == 1
    assert '--mode=sample needs --workdir=DIR' in capsys.readouterr().err
