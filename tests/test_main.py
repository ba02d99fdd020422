"""The command as a process and as a function: exit codes, sentences, workdirs, interruptions."""

import errno
import inspect
import os
import signal
import subprocess
import sys
import time

import pytest

from panoptic_jax import benchmark, evaluate, export_weights, main, prepare, sample, train
from panoptic_jax import config as settings
from panoptic_jax.machine import hosts
from panoptic_jax.machine.interruption import Interrupted


def lines_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if not line.startswith('I1')]


@pytest.fixture
def quick(tmp_path):
    """A config whose modes are replaced, so that nothing of it is run."""
    config = settings.default()
    config.data.source = 'scenes'
    config.data.dir = str(tmp_path / 'data')
    return config


@pytest.fixture
def preparation(monkeypatch):
    """Replaces the work of --mode=prepare by a function of the test."""

    def replace(work):
        def prepare_(config, *, interruption=None):
            return work(config, interruption)

        monkeypatch.setattr(prepare, 'prepare', prepare_)

    return replace


def raising(error):
    def work(config, interruption):
        raise error

    return work


@pytest.mark.parametrize(
    ('error', 'code', 'said'),
    [
        (ValueError('data.dir is wrong.'), 1, 'error: data.dir is wrong.'),
        (FileNotFoundError('There is no such file: x.'), 1, 'error: There is no such file: x.'),
        (FloatingPointError('Step 3 is not finite.'), 1, 'error: Step 3 is not finite.'),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), '/x/y'), 1, 'error: /x/y cannot be'),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/x/y'), 1, 'error: The disk of the'),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), '/x/y'), 1, 'error: /x/y cannot be'),
        (OSError(errno.ENAMETOOLONG, 'File name too long', 'x' * 300), 1, 'error: xxx'),
        (PermissionError(errno.EACCES, 'Permission denied', '/x/y'), 1, 'error: /x/y cannot'),
        (NotADirectoryError(errno.ENOTDIR, 'Not a directory', '/x/y'), 1, 'error: /x/y cannot'),
        (MemoryError('Unable to allocate 10 GiB'), 1, 'error: The memory does not suffice (Una'),
        (RuntimeError('RESOURCE_EXHAUSTED: 9 GiB\nmore'), 1, 'error: The memory does not suff'),
        (KeyboardInterrupt(), 130, 'interrupted; the same command goes on'),
        (Interrupted('SIGTERM came; the same command goes on.'), 75, 'SIGTERM came; the same'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_expected_ends_are_one_sentence_and_an_exit_code(
    error, code, said, quick, preparation, capsys
):
    preparation(raising(error))
    assert main.run_mode('prepare', quick, None) == code
    (line,) = lines_of(capsys)
    assert line.startswith(said)


def test_a_mistake_in_the_code_keeps_its_traceback(quick, preparation):
    for error in (ZeroDivisionError('division by zero'), RuntimeError('odd'), KeyError('name')):
        preparation(raising(error))
        with pytest.raises(type(error)):
            main.run_mode('prepare', quick, None)


def test_every_mode_that_goes_on_is_told_of_sigterm():
    functions = (
        prepare.prepare,
        train.train,
        sample.sample,
        evaluate.evaluate,
        export_weights.export_weights,
    )
    for function in functions:
        parameter = inspect.signature(function).parameters['interruption']
        assert parameter.kind == parameter.KEYWORD_ONLY


def test_sigterm_is_a_question_to_the_mode_and_exit_code_75(quick, preparation, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def work(config, interruption):
        assert not interruption.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        limit = time.monotonic() + 5
        while not interruption.asked() and time.monotonic() < limit:
            time.sleep(0.01)
        interruption.leave_if_asked()

    preparation(work)
    assert main.run_mode('prepare', quick, None) == main.RUN_AGAIN
    assert 'the same command goes on' in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_ends_a_mode_that_does_not_go_on(quick, tmp_path, monkeypatch):
    before, seen = signal.getsignal(signal.SIGTERM), []

    def measure(config, workdir):
        seen.append(signal.getsignal(signal.SIGTERM))

    monkeypatch.setattr(benchmark, 'benchmark', measure)
    assert main.run_mode('benchmark', quick, str(tmp_path / 'run')) == 0
    assert seen == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_processes_of_a_job_leave_together_after_sigterm_and_at_once_after_ctrl_c(
    quick, preparation, monkeypatch
):
    called = []
    monkeypatch.setattr(hosts, 'leave_together', lambda: called.append('together'))
    monkeypatch.setattr(hosts, 'leave_failed_job', lambda code: called.append(code))
    preparation(raising(Interrupted('now')))
    assert main.run_mode('prepare', quick, None) == 75
    preparation(raising(KeyboardInterrupt()))
    assert main.run_mode('prepare', quick, None) == 130
    preparation(raising(ValueError('wrong')))
    assert main.run_mode('prepare', quick, None) == 1
    assert called == ['together', 130, 1]


@pytest.fixture
def sampled_in(monkeypatch):
    """The workdirs and configs that --mode=sample was called with."""
    calls = []
    monkeypatch.setattr(
        sample, 'sample', lambda config, workdir, **_: calls.append((config, workdir))
    )
    return calls


def test_the_workdir_of_the_command_line_wins_over_that_of_the_config(quick, sampled_in, tmp_path):
    quick.workdir = str(tmp_path / 'proposed')
    for given in (None, '', str(tmp_path / 'given')):
        assert main.run_mode('sample', quick, given) == 0
    assert [workdir for _, workdir in sampled_in] == [
        str(tmp_path / name) for name in ('proposed', 'proposed', 'given')
    ]
    # What is written down about the run does not depend on how its folder was called.
    assert {config.workdir for config, _ in sampled_in} == {quick.workdir}


def test_a_tilde_in_the_command_is_the_home_folder(quick, sampled_in, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    quick.data.dir = '~/data'
    quick.sample.prompts = '~/prompts.txt'
    assert main.run_mode('sample', quick, '~/run') == 0
    ((config, workdir),) = sampled_in
    assert workdir == str(tmp_path / 'run')
    assert (config.data.dir, config.sample.prompts) == (
        f'{tmp_path}/data',
        f'{tmp_path}/prompts.txt',
    )
    assert not (tmp_path / '~').exists()


@pytest.mark.parametrize(
    ('workdir', 'said'),
    [
        ('a\0b', "error: --workdir is 'a\\x00b'; it must be a path of one line"),
        ('a\nb', "error: --workdir is 'a\\nb'; it must be a path of one line"),
        ('   ', "error: --workdir is '   '; it must be a path of one line"),
        (
            '~nobody1/x',
            "error: --workdir is '~nobody1/x', and there is no home folder of '~nobody1'",
        ),
        (__file__, f"error: The workdir is '{__file__}', but {__file__} is no folder"),
        (f'{__file__}/x', f"error: The workdir is '{__file__}/x', but {__file__} is no folder"),
        (None, 'error: --mode=sample needs --workdir=DIR, the folder of the run; for example: '),
        ('s3://bucket/x', 'error: s3://bucket/x is neither a local path nor one of a bucket'),
    ],
)
def test_workdirs_that_cannot_work_are_refused_at_the_start(
    workdir, said, quick, sampled_in, capsys
):
    assert main.run_mode('sample', quick, workdir) == 1
    (line,) = lines_of(capsys)
    assert line.startswith(said)
    assert not sampled_in


def test_data_that_would_lie_in_a_file_are_refused_before_they_are_prepared(quick, capsys):
    quick.data.dir = f'{__file__}/data'
    assert main.run_mode('prepare', quick, None) == 1
    assert f'but {__file__} is no folder' in capsys.readouterr().err


def test_two_streams_without_a_uvit_say_how_to_get_one_before_anything_is_read(
    quick, capsys, tmp_path
):
    quick.model.name = 'two_stream'
    quick.init_weights = str(tmp_path / 'weights.safetensors')
    assert main.run_mode('train', quick, str(tmp_path / 'run')) == 1  # and there are no data
    (line,) = lines_of(capsys)
    assert line.startswith(f"error: init_weights is '{quick.init_weights}'. There is no weights")
    assert '--mode=import' in line
    assert '--mode=export' in line
    assert not (tmp_path / 'run').exists()


SLOW_CONFIG = """
import time
def get_config():
    print('loading', flush=True)
    time.sleep(1)
    from panoptic_jax import config
    return config.default()
"""


@pytest.mark.parametrize(
    ('number', 'code', 'said'),
    [(signal.SIGINT, 130, 'interrupted'), (signal.SIGTERM, 75, 'SIGTERM')],
)
def test_a_signal_during_the_start_ends_the_process_without_a_traceback(
    number, code, said, tmp_path
):
    (tmp_path / 'slow.py').write_text(SLOW_CONFIG)
    command = [sys.executable, '-m', 'panoptic_jax.main', '--config', str(tmp_path / 'slow.py')]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout.readline() == 'loading\n'
        run.send_signal(number)
        _, errors = run.communicate(timeout=40)
    assert run.returncode == code
    assert 'Traceback' not in errors
    assert said in errors
