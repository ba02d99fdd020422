"""tpu_pod.sh, with a gcloud that notes what it is asked and a Python that ends as it is told.

What a worker of a slice is asked by ssh really runs, in a folder that plays its home.
"""

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from launch_tools import PROMPT, ROOT, RUN, flags_for, program

from panoptic_jax import main

POD = ROOT / 'launch' / 'tpu_pod.sh'

# Notes its call. `describe` says the next of the states; `ssh` and `scp` reach the workers' homes.
FAKE_GCLOUD = """#!/bin/bash
{ printf '%q ' gcloud "$@"; echo; } >>"$CALLS"
[[ $4 != "${FAIL_AT:-none}" ]] || exit 3
worker=all
for argument in "$@"; do
  case $argument in
    --worker=*) worker=${argument#*=} ;;
    --command=*) command=${argument#*=} ;;
  esac
done
case $4 in
  describe)
    state=$(head -n 1 "$STATES")
    [[ $(wc -l <"$STATES") == 1 ]] || sed -i 1d "$STATES"
    case $state in
      NONE) echo 'ERROR: NOT_FOUND: Resource was not found' >&2; exit 1 ;;
      BROKEN) echo 'ERROR: no network' >&2; exit 1 ;;
      *) echo "$state" ;;
    esac ;;
  delete) rm -rf "$WORKERS"/*/panoptic_jax* ;;
  scp) for home in "$WORKERS"/*; do cp "$5" "$home"; done ;;
  ssh)
    for home in "$WORKERS"/*; do
      [[ $worker == all || $home == */"$worker" ]] || continue
      cd "$home" || exit
      # What follows a log waits for its first line, and goes on for ever.
      [[ $command != *' -F '* ]] ||
        timeout 20 bash -c 'until [[ -s panoptic_jax/runs/worker/log ]]; do sleep 0.1; done'
      HOME=$home bash -c "${command/ -F / }" || exit
    done ;;
esac
"""

# Stands for python3.11, for the one in a venv that it makes, and there for the training, whose exit
# codes are the lines of `exits` in the worker's home, the last one for ever.
FAKE_PYTHON = """#!/bin/bash
case "$*" in
  '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  '-m pip install '*) echo "$*" >>"$HOME/installed" ;;
  '-m panoptic_jax.main '*)
    { printf '%s\\n' "LIBTPU_INIT_ARGS=$LIBTPU_INIT_ARGS" "$@"; echo --; } >>"$HOME/started"
    echo 'a line of the log'
    while [[ -e $HOME/block ]]; do sleep 0.1; done
    code=$(head -n 1 "$HOME/exits")
    [[ $(wc -l <"$HOME/exits") == 1 ]] || sed -i 1d "$HOME/exits"
    exit "$code" ;;
esac
"""


class Cloud:
    """A clone of the repository's scripts, a fake gcloud and the homes of two workers."""

    def __init__(self, folder):
        self.clone, self.calls, self.states = (
            folder / 'a clone',
            folder / 'calls',
            folder / 'states',
        )
        self.homes = [folder / 'workers' / str(number) for number in (0, 1)]
        for home in self.homes:
            home.mkdir(parents=True)
        self.exits(0)
        shutil.copytree(ROOT / 'launch', self.clone / 'launch')
        shutil.copy(ROOT / 'requirements.txt', self.clone)
        git = ['git', '-C', self.clone, '-c', 'user.name=a', '-c', 'user.email=a@b']
        for arguments in (['init', '-q'], ['add', '.'], ['commit', '-q', '-m', 'a commit']):
            subprocess.run([*git, *arguments], check=True)
        program(folder / 'bin' / 'gcloud', FAKE_GCLOUD)
        for name in ('python3.11', 'python3.12', 'python3'):
            program(folder / 'bin' / name, FAKE_PYTHON)
        self.environment = os.environ | {
            'PATH': f'{folder / "bin"}{os.pathsep}{os.environ["PATH"]}',
            'CALLS': str(self.calls),
            'STATES': str(self.states),
            'WORKERS': str(folder / 'workers'),
            'TMPDIR': str(folder),
            'POLL_SECONDS': '0.2',
        }

    def exits(self, *codes):
        """What the training will end with on every worker, the last code for ever."""
        for home in self.homes:
            (home / 'exits').write_text(''.join(f'{code}\n' for code in codes))

    def go_on(self):
        """The training goes on until `let_end`."""
        for home in self.homes:
            (home / 'block').touch()

    def let_end(self):
        for home in self.homes:
            (home / 'block').unlink(missing_ok=True)

    def start(self, command, *arguments, states=('ACTIVE',), **environment):
        self.calls.write_text('')
        self.states.write_text('\n'.join(states) + '\n')
        options = ['--name=pdm', '--zone=us-west4-a', '--type=v5litepod-256']
        return subprocess.Popen(
            ['bash', self.clone / 'launch' / 'tpu_pod.sh', command, *options, *arguments],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, **options):
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def called(self):
        """The calls of gcloud's queued-resources: the arguments after that word."""
        calls = [shlex.split(call) for call in self.calls.read_text().splitlines()]
        group = ['gcloud', 'compute', 'tpus', 'queued-resources']
        assert all(call[:4] == group for call in calls)
        return [call[4:] for call in calls]

    def verbs(self):
        """Those calls in short; for ssh, what the workers were told."""
        words = ('worker.sh setup', 'worker.sh start', 'worker.sh status', 'tail')
        return [
            next(word for word in words if word in ' '.join(call)).split()[-1]
            if call[0] == 'ssh'
            else call[0]
            for call in self.called()
            if call[0] != 'describe'
        ]

    def ended(self, home):
        """The exit code that a worker has noted, once it has."""
        path = home / 'panoptic_jax' / 'runs' / 'worker' / 'exit_code'
        deadline = time.monotonic() + 20
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < deadline, f'{path} is not there'
            time.sleep(0.05)
        return int(path.read_text())

    def started(self, home):
        """The command lines that a worker's Python was started with."""
        text = (home / 'started').read_text() if (home / 'started').exists() else ''
        return [part.splitlines() for part in text.split('--\n')[:-1]]


@pytest.fixture
def cloud(tmp_path):
    made = Cloud(tmp_path)
    yield made
    made.let_end()


def test_all_creates_sets_up_runs_and_follows(cloud):
    done = cloud.run('all', *RUN, PROMPT, '--spot', states=('WAITING_FOR_RESOURCES', 'ACTIVE'))
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in cloud.called()] == [
        'create', 'describe', 'describe', 'scp', 'ssh', 'ssh', 'ssh',
    ]  # fmt: skip
    assert cloud.verbs() == ['create', 'scp', 'setup', 'start', 'tail']
    create = cloud.called()[0]
    assert create[1:] == [
        'pdm', '--node-id=pdm', '--accelerator-type=v5litepod-256',
        '--runtime-version=v2-alpha-tpuv5-lite', '--spot', '--zone=us-west4-a',
    ]  # fmt: skip
    for home in cloud.homes:
        assert cloud.ended(home) == 0
        installed = (home / 'installed').read_text()
        assert installed.split('--requirement ')[1] == 'launch/requirements-tpu.txt\n'
        ((flags, *arguments),) = cloud.started(home)
        assert arguments == ['-m', 'panoptic_jax.main', *RUN, PROMPT]
        assert (
            flags.split('=', 1)[1].split() == flags_for('tpu').get('LIBTPU_INIT_ARGS', '').split()
        )
    assert 'a line of the log' in done.stdout
    commit = subprocess.check_output(['git', '-C', cloud.clone, 'rev-parse', 'HEAD'])
    folder = cloud.homes[1] / 'panoptic_jax'
    assert subprocess.check_output(['git', '-C', folder, 'rev-parse', 'HEAD']) == commit


def test_every_command_is_shown_before_it_runs(cloud):
    done = cloud.run('all', *RUN, PROMPT)
    shown = [
        shlex.split(line) for line in done.stdout.splitlines() if line.startswith(('gcloud', 'git'))
    ]
    assert [command[4:] for command in shown if command[0] == 'gcloud'] == cloud.called()
    assert [command[:3] for command in shown if command[0] == 'git'] == [
        ['git', 'bundle', 'create']
    ]


def test_a_dry_run_needs_no_gcloud_and_is_a_script_that_does_the_same(cloud):
    done = cloud.run('all', *RUN, PROMPT)
    calls = cloud.called()
    shutil.rmtree(cloud.homes[0] / 'panoptic_jax')
    (Path(cloud.environment['WORKERS']).parent / 'bin' / 'gcloud').rename(cloud.clone / 'gcloud')
    dry = cloud.run('all', '--dry-run', *RUN, PROMPT)
    assert dry.returncode == 0, dry.stderr
    assert cloud.called() == []
    program(cloud.clone.parent / 'bin' / 'gcloud', FAKE_GCLOUD)
    subprocess.run(
        ['bash', '-e'],
        input=dry.stdout,
        text=True,
        cwd=cloud.clone,
        env=cloud.environment,
        check=True,
    )
    assert cloud.called() == calls
    assert done.returncode == 0


def test_exit_code_75_starts_the_same_command_again(cloud):
    cloud.exits(75, 75, 0)
    assert cloud.run('all', *RUN).returncode == 0
    for home in cloud.homes:
        assert cloud.ended(home) == 0
        started = cloud.started(home)
        assert len(started) == 3
        assert started[0] == started[1] == started[2]


@pytest.mark.parametrize('code', [1, 134])
def test_another_exit_code_ends_the_run(cloud, code):
    cloud.exits(code, 0)
    cloud.run('all', *RUN)
    assert cloud.ended(cloud.homes[0]) == code
    assert len(cloud.started(cloud.homes[0])) == 1


def test_a_worker_runs_one_command_at_a_time(cloud):
    cloud.go_on()
    assert cloud.run('all', *RUN).returncode == 0
    done = cloud.run('run', *RUN)
    assert done.returncode == 1
    assert 'goes on' in done.stderr
    cloud.let_end()
    assert cloud.ended(cloud.homes[0]) == 0
    assert len(cloud.started(cloud.homes[0])) == 1
    deadline = time.monotonic() + 20
    while cloud.run('run', *RUN).returncode:
        assert time.monotonic() < deadline
    assert cloud.ended(cloud.homes[0]) == 0


@pytest.mark.parametrize('verb', ['create', 'scp', 'ssh'])
def test_what_gcloud_fails_at_ends_it_with_its_exit_code(cloud, verb):
    done = cloud.run('all', *RUN, FAIL_AT=verb)
    assert done.returncode == 3
    assert cloud.called()[-1][0] == verb
    assert len([call for call in cloud.called() if call[0] == verb]) == 1


@pytest.mark.parametrize('state', ['FAILED', 'SUSPENDED', 'NONE'])
def test_a_slice_that_does_not_come_is_an_error(cloud, state):
    done = cloud.run('all', *RUN, states=('WAITING_FOR_RESOURCES', state))
    assert done.returncode == 1
    assert f'pdm is not coming, it is {state}' in done.stderr
    assert cloud.verbs() == ['create']


def test_a_second_setup_brings_the_workers_to_the_new_commit(cloud):
    cloud.run('setup')
    git = ['git', '-C', cloud.clone, '-c', 'user.name=a', '-c', 'user.email=a@b']
    subprocess.run([*git, 'rm', '-q', 'launch/test.sh'], check=True)
    (cloud.clone / 'launch' / 'new.sh').touch()
    subprocess.run([*git, 'add', '.'], check=True)
    assert '# Changes that are not committed are not copied.' in cloud.run('setup').stdout
    assert not (cloud.homes[1] / 'panoptic_jax' / 'launch' / 'new.sh').exists()
    subprocess.run([*git, 'commit', '-q', '-m', 'another'], check=True)
    assert '#' not in cloud.run('setup').stdout
    launch = cloud.homes[1] / 'panoptic_jax' / 'launch'
    assert (launch / 'new.sh').exists()
    assert not (launch / 'test.sh').exists()


AGAIN = ['create', 'scp', 'setup', 'start']


@pytest.mark.parametrize(
    ('states', 'verbs'),
    [
        (('SUSPENDED', 'ACTIVE'), ['delete', *AGAIN]),
        (('FAILED', 'WAITING_FOR_RESOURCES', 'ACTIVE'), ['delete', *AGAIN]),
        (('NONE', 'ACTIVE'), AGAIN),
        (('PROVISIONING', 'ACTIVE'), AGAIN[1:]),
        (('ACTIVE',), ['status', *AGAIN[1:]]),
    ],
)
def test_resume_creates_what_is_gone_and_runs_again(cloud, states, verbs):
    done = cloud.run('resume', *RUN, states=states)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == verbs
    for home in cloud.homes:
        assert cloud.ended(home) == 0
        assert cloud.started(home)[0][3:] == list(RUN)


def test_resume_leaves_alone_what_runs_or_is_complete(cloud):
    cloud.go_on()
    cloud.run('all', *RUN)
    done = cloud.run('resume', *RUN)
    assert 'The run goes on.' in done.stdout
    assert cloud.verbs() == ['status']
    cloud.let_end()
    cloud.ended(cloud.homes[0])
    deadline = time.monotonic() + 20
    while 'The run is complete.' not in cloud.run('resume', *RUN).stdout:
        assert cloud.verbs() == ['status']
        assert time.monotonic() < deadline
    assert len(cloud.started(cloud.homes[0])) == 1


def test_resume_does_not_create_where_gcloud_fails(cloud):
    done = cloud.run('resume', *RUN, states=('BROKEN',))
    assert done.returncode == 1
    assert 'no network' in done.stderr
    assert cloud.verbs() == []


def test_watching_outlives_preemptions_and_ends_with_the_run(cloud):
    cloud.go_on()
    cloud.run('all', *RUN)
    process = cloud.start(
        'resume', *RUN, '--watch',
        states=('ACTIVE', 'ACTIVE', 'BROKEN', 'SUSPENDED', 'WAITING_FOR_RESOURCES', 'ACTIVE'),
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while 'start' not in cloud.verbs():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    cloud.let_end()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == 'The run is complete.'
    done = [verb for verb in cloud.verbs() if verb != 'status']
    assert done == ['delete', *AGAIN]


def test_watching_ends_with_an_error_of_the_run(cloud):
    cloud.exits(1)
    cloud.run('all', *RUN)
    cloud.ended(cloud.homes[0])
    done = cloud.run('resume', *RUN, '--watch')
    assert done.returncode == 1
    assert "error: The run ended with exit code 1; 'logs' shows why." in done.stderr
    assert cloud.verbs().count('start') == 1  # by resume itself, which was asked to


def test_several_slices_are_one_request(cloud):
    cloud.run('create', '--slices=2', '--type=v6e-256')
    assert cloud.called()[0][2:6] == [
        '--node-count=2', '--node-prefix=pdm', '--accelerator-type=v6e-256',
        '--runtime-version=v2-alpha-tpuv6e',
    ]  # fmt: skip


@pytest.mark.parametrize('call', [[], ['--help'], ['run', '--help']])
def test_help_names_every_command_and_option(call):
    done = subprocess.run(['bash', POD, *call], capture_output=True, text=True, check=True)
    text = POD.read_text()
    options = set(re.findall(r'^    (--[\w-]+)[=*)]', text, re.MULTILINE))
    assert {'--name', '--dry-run', '--watch'} < options
    for name in options | {'create', 'setup', 'run', 'logs', 'resume', 'delete', 'all'}:
        assert name in done.stdout


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['rnu'], "There is no command 'rnu'"),
        (['run', '--zone=z', *RUN], '--name=NAME is missing'),
        (['run', '--name=n', *RUN], '--zone=ZONE is missing'),
        (['create', '--name=n', '--zone=z'], '--type=TYPE is missing'),
        (['create', '--name=n', '--zone=z', '--type=v9-8'], '--version=VERSION is missing'),
        (['create', '--name=n', '--zone=z', '--type=v4-8', '--slices=two'], "--slices is 'two'"),
        (['run', '--name=n', '--zone=z', RUN[1]], '--config=FILE is missing'),
        (['run', '--name=n', '--zone=z', RUN[0]], '--workdir=gs://BUCKET/FOLDER is missing'),
        (['run', '--name=n', '--zone=z', RUN[0], '--workdir=runs/a'], 'must be in a bucket'),
        (['run', '--name=n', '--zone=z', *RUN, '--sopt'], "There is no option '--sopt'"),
        (['run', '--name=n', '--zone=z', *RUN, 'extra'], "There is no option 'extra'"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_one_sentence(arguments, sentence):
    done = subprocess.run(
        ['bash', POD, *arguments, '--dry-run'], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert re.fullmatch(r'error: .*\.\n', done.stderr)
    assert not done.stdout


def test_workers_know_the_exit_code_of_main():
    text = POD.with_name('tpu_worker.sh').read_text()
    assert re.findall(r'^readonly RUN_AGAIN=(\d+)', text, re.M) == [str(main.RUN_AGAIN)]
