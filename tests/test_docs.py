"""What README, documents, configs and docstrings say is true: commands, settings, files, names."""

import ast
import re
import runpy
import shlex

import numpy as np
import pytest
from absl import flags
from code_names import CONFIGS, MODULES, ROOT, TESTS, docstrings, problem, string_templates, tree_of
from ml_collections import config_flags
from PIL import Image

from panoptic_jax import config as settings
from panoptic_jax import main, pipeline
from panoptic_jax.command import config_files
from panoptic_jax.logs import environment

# ml_collections loads config files by it.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

README = (ROOT / 'README.md').read_text()
DOCUMENTS = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]
# Everything that a user may copy commands and settings from.
GUIDES = '\n'.join(path.read_text() for path in DOCUMENTS)
MODES = flags.FLAGS['mode'].parser.enum_values


def parse(arguments):
    """The config and mode that a command line gives, as `main` would read it."""
    values, argv = flags.FlagValues(), ['main', *arguments]
    config_flags.DEFINE_config_file('config', lock_config=True, flag_values=values, sys_argv=argv)
    flags.DEFINE_string('workdir', None, '', flag_values=values)
    flags.DEFINE_enum('mode', 'train', MODES, '', flag_values=values)
    left = values(config_files.with_config_file(argv))
    assert left == ['main'], f'arguments that are no flags: {left[1:]}'
    settings.check(values.config)
    return values.config, values.mode


def commands(text):
    """Arguments of every command that runs a mode and stands on a line of its own."""
    joined = re.sub(r'\\\n\s*', ' ', text)
    command = r'^ *(?:python -m panoptic_jax\.main|panoptic-jax) (.*)$'
    lines = re.findall(command, joined, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    """Config files are named relative to the repository's root."""
    monkeypatch.chdir(ROOT)


def test_parse_knows_the_flags_of_main():
    own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(main)}
    assert own == {'config', 'workdir', 'mode'}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_loads_is_locked_and_says_how_to_run_it(path):
    config = runpy.run_path(str(path))['get_config']()
    assert config.is_locked
    settings.check(config)
    with pytest.raises(AttributeError):
        config.model.dept = 3
    option = f'--config=configs/{path.name}'
    parse([option])
    with pytest.raises((AttributeError, KeyError), match='dept'):
        parse([option, '--config.model.dept=3'])
    with pytest.raises(ValueError, match=r'model\.patch_size is 3'):
        parse([option, '--config.model.patch_size=3'])
    docstring = ast.get_docstring(tree_of(path), clean=False)
    scripts = re.findall(r'^ +bash (launch/\w+\.sh)', docstring, re.MULTILINE)
    assert scripts or [option] in commands(docstring)
    assert config.workdir == f'runs/{path.stem}'
    assert all((ROOT / script).exists() for script in scripts)
    for command in commands(docstring):
        parse(command)
    assert f'`configs/{path.name}`' in README


@pytest.mark.parametrize('name', ['one_stream', 'two_stream'])
def test_config_arguments(name):
    config, _ = parse([f'--config=configs/{name}.py:size=H,patch_factor=4,given_map=1'])
    assert (config.model.name, config.model.depth, config.model.num_heads) == (name, 28, 16)
    assert (config.model.patch_factor, config.model.given_map) == (4, True)
    assert (config.data.autoencoder, config.data.text) == ('sd', 'clip')
    config, _ = parse([f'--config=configs/{name}.py:map_prediction=noise,map_noise=1.4142'])
    assert (config.map.prediction, config.map.noise_std) == ('noise', 1.4142)
    config, _ = parse([f'--config=configs/{name}.py:encoders=light'])
    assert (config.data.autoencoder, config.data.text) == ('taesd', 'words')
    assert config.data.dir == 'data/coco_light'
    with pytest.raises(ValueError, match=r'patch_factor is 3; it must be one of 1, 2, 4'):
        parse([f'--config=configs/{name}.py:patch_factor=3'])
    for wrong, message in (('size=XS', 'one of S, S-deep'), ('sise=S', "no argument 'sise'")):
        get_config = runpy.run_path(f'configs/{name}.py')['get_config']
        with pytest.raises(ValueError, match=message):
            get_config(wrong)


def test_every_command_of_the_documents_parses():
    assert {parse(command)[1] for command in commands(GUIDES)} == set(MODES)
    for command in commands(GUIDES):
        assert any(argument.startswith('--config=') for argument in command)
        config, mode = parse(command)
        named = any(argument.startswith('--workdir=') for argument in command)
        assert named or mode == 'prepare' or config.workdir, command


def test_settings_named_in_the_documents_exist():
    # A one-stream model, which most settings of networks are about. It has one time for both.
    paper = ['--config=configs/quickstart.py:recipe=paper', '--config.model.num_heads=4']
    values = re.findall(r'--config\.([a-z_.]+)=([\w./-]+)', GUIDES)
    values += re.findall(r'`((?:data|model|sample)\.\w+)=([^`]+)`', GUIDES)
    assert len(values) > 25
    for name, value in values:
        # Some lines of tables have a word in capitals in the place of the value.
        if not value.isupper():
            base = ['--config=configs/quickstart.py'] if name.startswith('times.') else paper
            parse([*base, f'--config.{name}={value}'])
    fields = environment.flat(settings.default().to_dict())
    assert {name.rstrip('.') for name in re.findall(r'--config\.([a-z_.]+)', GUIDES)} <= set(fields)
    assert set(re.findall(r'--mode=(\w+)', GUIDES)) <= {*MODES, 'MODE'}


def test_readme_is_short():
    assert len(README.splitlines()) < 350


def test_files_named_in_documents_and_scripts_exist():
    path = r'\b(?:configs|docs|launch|panoptic_jax|tests)/[\w/]+\.\w+'
    scripts = [*ROOT.glob('launch/*'), *ROOT.glob('.*.yaml'), *ROOT.glob('.github/**/*.yml')]
    named = set()
    for file in [*DOCUMENTS, *scripts]:
        # On the worker of a TPU slice the clone itself is the folder panoptic_jax.
        text = file.read_text().replace('panoptic_jax/launch/', 'launch/')
        named |= {(name, file.name) for name in re.findall(path, text)}
    assert len(named) > 20
    assert not sorted((name, file) for name, file in named if not (ROOT / name).exists())


def package_contents():
    """The modules at the top of the package and its folders, as 'main.py' and 'data/'."""
    package = ROOT / 'panoptic_jax'
    files = {path.name for path in package.glob('*.py')} - {'__init__.py'}
    return files | {f'{path.parent.name}/' for path in package.glob('*/__init__.py')}


def test_architecture_has_a_row_for_every_folder():
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    rows = re.findall(r'^\| `(\w+/)` \|', text, re.MULTILINE)
    assert sorted(rows) == sorted(name for name in package_contents() if name[-1] == '/')


@pytest.mark.parametrize(
    'path', [*MODULES, *CONFIGS, *TESTS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_names_in_docstrings_exist(path):
    names = [name for text in docstrings(path) for name in re.findall(r'`([^`\n]+)`', text)]
    problems = {name: problem(name, path) for name in names}
    assert not {name: text for name, text in problems.items() if text}


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_names_in_documents_exist(path):
    prose = re.sub(r'```.*?```', '', path.read_text(), flags=re.DOTALL)
    names = re.findall(r'`([^`\n]+)`', prose)
    # They also name what others made, such as files to download.
    problems = {name: problem(name, path, foreign_names=True) for name in names}
    assert not {name: text for name, text in problems.items() if text}


RIGHT_NAMES = (
    'records.py', 'data/records.py', 'configs/*.py', 'launch/test.sh', 'metrics.json', 'data/',
    'loader.train_batches', 'sharding.make_mesh', 'panoptic_jax.main', 'data.dir', 'config.model',
    'train_batches(seed=0)', 'jax.jit', 'bash launch/test.sh', '--config',
)  # fmt: skip
WRONG_NAMES = (
    'clock.py', 'data/clock.py', 'configs/*.md', 'launch/tset.sh', 'metrix.json', 'date/',
    'loader.test_batches', 'scores.mcd', 'data.dri', 'config.modle', 'read_everything()',
)  # fmt: skip


def test_names_that_do_not_exist_are_noticed():
    file = ROOT / 'panoptic_jax' / 'data' / 'loader.py'
    assert [name for name in RIGHT_NAMES if problem(name, file)] == []
    assert [name for name in WRONG_NAMES if not problem(name, file)] == []


def test_messages_explained_in_the_readme_are_really_said():
    section = README.split('## When something goes wrong')[1].split('## ')[0]
    first_of_bullets = re.findall(r'^- `([^`]+)`', section, re.MULTILINE)
    said = set(first_of_bullets) | set(re.findall('`([^`]*…[^`]*)`', section))
    said -= {"Unable to initialize backend 'tpu'"}  # JAX's
    assert len(said) >= 8
    templates = set(string_templates())
    for message in said:
        assert any(message in template for template in templates), message


def test_files_listed_as_outputs_are_written_by_the_package():
    table = README.split('## What a run leaves')[1].split('## ')[0]
    names = re.findall(r'`([\w/]+(?:/|\.\w+))`', ''.join(re.findall(r'^\|([^|]*)\|', table, re.M)))
    assert len(names) >= 12
    templates = set(string_templates())
    for name in names:
        assert name.rstrip('/').split('/')[-1] in templates, name


def test_python_example_of_the_readme_draws_pairs(tmp_path, monkeypatch):
    (code,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 5
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert Image.open('star.png').size == (256, 256)
    images, maps = found['images'], found['maps']
    assert (images.shape, images.dtype, maps.shape) == ((1, 256, 256, 3), np.uint8, (1, 64, 64))
    assert images.std() > 1
    # It is a night sky over snow.
    rows = images[0].mean(axis=(1, 2))
    assert rows[:20].max() < 80 < 180 < rows[-20:].min()
    draw = pipeline.load('scenes/joint', evaluations=3, guidance=0.0)
    once, twice, other = draw(['a red ball'], 1), draw(['a red ball'], 1), draw(['a red ball'], 2)
    np.testing.assert_array_equal(once[0], twice[0])
    assert np.abs(once[0].astype(int) - other[0]).max() > 10
    with pytest.raises(ValueError, match="has no field 'evaluation'"):
        pipeline.load('scenes/joint', evaluation=3)
