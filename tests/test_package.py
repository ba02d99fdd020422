"""What `pip install .` gives: all files, the requirements, and a command that needs no checkout.

Also the project's other files for people and services: change log, citation, hooks, CI.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
SOURCES = ('panoptic_jax', 'configs', 'pyproject.toml', 'requirements.txt', 'README.md', 'LICENSE')


def pip(*arguments):
    """Runs pip without a network."""
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """A folder into which a wheel of this tree is installed, without its requirements."""
    pytest.importorskip('setuptools', reason='setuptools is not installed: pip install setuptools')
    folder = tmp_path_factory.mktemp('package')
    # A build writes beside its sources, so it gets a copy of them.
    source = folder / 'source'
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns('__pycache__')
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    wheels = folder / 'wheels'
    offline = ('--no-deps', '--no-index')
    pip('wheel', *offline, '--no-build-isolation', '--wheel-dir', str(wheels), str(source))
    (wheel,) = wheels.iterdir()
    pip('install', *offline, '--no-compile', '--target', str(folder / 'site'), str(wheel))
    return folder / 'site'


@pytest.fixture
def command(site, tmp_path):
    """Runs the installed command in a folder of its own; returns what happened."""

    def run(*arguments):
        return subprocess.run(
            [site / 'bin' / 'panoptic-jax', *arguments],
            cwd=tmp_path,
            env=os.environ | {'PYTHONPATH': str(site)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def files_of(folder):
    """Relative paths of all files below a folder, without compiled ones."""
    paths = (path.relative_to(folder) for path in folder.rglob('*') if path.is_file())
    return {path.as_posix() for path in paths if '__pycache__' not in path.parts}


def test_every_file_of_the_package_and_the_configs_is_installed(site):
    expected = files_of(ROOT / 'panoptic_jax')
    expected |= {f'configs/{name}' for name in files_of(ROOT / 'configs')}
    assert files_of(site / 'panoptic_jax') == expected
    # Nothing else comes along, such as a folder `configs` that is everybody's.
    folders = {path.name for path in site.iterdir() if path.suffix != '.dist-info'}
    assert folders == {'bin', 'panoptic_jax'}


def test_version_and_requirements_are_those_of_the_tree(site):
    (installed,) = importlib.metadata.distributions(path=[str(site)])
    assert installed.version == PROJECT['version']
    lines = [line.split('#')[0].strip() for line in (ROOT / 'requirements.txt').open()]
    names = [re.match(r'[\w-]+', line)[0] for line in lines if line]
    assert [re.match(r'[\w-]+', line)[0] for line in installed.requires] == names


def test_the_installed_command_runs_a_config_by_its_name(command, tmp_path):
    done = command(
        '--config=quickstart',
        '--mode=prepare',
        '--config.data.dir=scenes',
        '--config.data.train_images=4',
        '--config.data.validation_images=0',
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'scenes' / 'manifest.json').exists()


def test_the_installed_command_draws_at_once_with_the_weights_of_the_package(command, tmp_path):
    """No data, no training, no download."""
    caption = 'a red circle on sand under a night sky'
    done = command('--config=quickstart', '--mode=sample', f'--config.sample.prompt={caption}')
    assert done.returncode == 0, done.stderr
    folder = tmp_path / 'runs' / 'quickstart' / 'samples'
    image = folder / 'generated' / '00000000.png'
    assert f'The pair is {image.relative_to(tmp_path)}' in done.stderr
    pixels = np.asarray(Image.open(image)).astype(int)
    night, sand = pixels[:20].mean(axis=(0, 1)), pixels[-20:].mean(axis=(0, 1))
    assert night.max() < 110
    assert sand[0] > sand[2] + 50  # yellow
    (annotation,) = json.loads((folder / 'annotations' / 'panoptic_generated.json').read_text())[
        'annotations'
    ]
    assert {93, 97} <= {segment['category_id'] for segment in annotation['segments_info']}


def test_mistakes_on_the_installed_command_line_are_one_sentence(command):
    done = command('--config=quickstart', '--config.model.dept=3')
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == "error: There is no setting 'model.dept'; did you mean 'model.depth'?"


def test_help_of_the_installed_command_explains_the_flags(command):
    done = command('--help')
    assert done.returncode == 0
    assert all(f'  --{name}:' in done.stdout for name in ('config', 'workdir', 'mode'))
    # The examples are those of the command that was called.
    assert '    panoptic-jax --config=quickstart --help' in done.stdout.splitlines()
    assert 'python -m' not in done.stdout


def test_the_installed_command_lists_the_settings_of_a_config(command):
    done = command('--config=quickstart', '--help')
    assert done.returncode == 0
    assert re.search(r"^  workdir = 'runs/quickstart' +folder", done.stdout, re.MULTILINE)
    assert re.search(r'^  sample\.guidance = [\d.]+ +out = cond', done.stdout, re.MULTILINE)


def test_the_changelog_opens_with_the_version():
    headings = re.findall(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert headings[0] == PROJECT['version']


def test_the_citation_is_the_paper_of_the_method():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= set(citation)
    paper = citation['preferred-citation']
    names = [f'{author["given-names"]} {author["family-names"]}' for author in paper['authors']]
    assert names == ['Yinghan Long', 'Kaushik Roy']
    assert paper['url'] in (ROOT / 'README.md').read_text()
    assert 'version' not in citation  # pyproject.toml says it


def test_hooks_and_ci_run_what_the_test_script_runs():
    script = (ROOT / 'launch' / 'test.sh').read_text()
    (hooks,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    for hook in hooks['hooks']:
        assert hook['entry'].removesuffix(' --force-exclude') in script
    workflow = yaml.safe_load((ROOT / '.github' / 'workflows' / 'test.yml').read_text())
    steps = workflow['jobs']['test']['steps']
    assert steps[-1] == {'run': 'bash launch/test.sh'}
    (python,) = (step['with']['python-version'] for step in steps if 'with' in step)
    assert PROJECT['requires-python'] == f'>={python}'
