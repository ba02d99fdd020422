"""The command line: `panoptic-jax`, or in a checkout `python -m panoptic_jax.main`.

    panoptic-jax --config=NAME_OR_FILE --workdir=DIR --mode=MODE

This module starts the mode, and turns expected errors and interruptions into one sentence and an
exit code. What a mode does is in the module of its name; `config.py` explains the settings, and
`command/arguments.py` reads the command line.
"""

import contextlib
import functools
import importlib
import os
import signal
import sys
import threading
import traceback
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from panoptic_jax.command import arguments
from panoptic_jax.command import help as help_texts
from panoptic_jax.machine.interruption import (
    RUN_AGAIN,
    UNINTERRUPTED,
    Interrupted,
    Interruption,
)

_CONFIG = config_flags.DEFINE_config_file(
    'config',
    default=None,
    help_string='Experiment: a file such as configs/one_stream.py, or a name such as one_stream.',
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    'workdir',
    default=None,
    help='Folder of the run: checkpoints, metrics, samples. Made if missing.',
)
_MODE = flags.DEFINE_enum('mode', 'train', list(help_texts.MODES), 'What to do.')

# Modes that go on where they stopped. After SIGTERM they end with RUN_AGAIN, the others with 143.
_GO_ON = ('prepare', 'train', 'sample', 'evaluate', 'export')
_CTRL_C = 130  # exit code after Ctrl-C, as shells have it


def main(argv: list[str], interruption: Interruption = UNINTERRUPTED) -> int:
    """Runs the mode that the flags name; returns the exit code."""
    del argv  # all of it is in the flags
    return run_mode(_MODE.value, _CONFIG.value, _WORKDIR.value, interruption=interruption)


def run_mode(
    mode: str,
    config: Any,
    workdir: str | None,
    *,
    interruption: Interruption | None = None,
    **options: Any,
) -> int:
    """Runs a mode and reports expected errors.

    Args:
      mode: One of the values of `--mode`.
      config: The settings, not yet checked.
      workdir: The folder of the run; None or '' for the config's own.
      interruption: What listens to SIGTERM; None to open one for this call.
      **options: Further arguments of the mode's function, such as `devices`.

    Returns:
      The exit code: 0, 1 after an expected error, 130 after Ctrl-C, or `RUN_AGAIN`.
    """
    with contextlib.ExitStack() as stack:
        if interruption is None:
            interruption = stack.enter_context(Interruption())
        _set_up_logs()
        try:
            interruption.leave_if_asked()
            return _run(mode, config, workdir, interruption=interruption, **options)
        except Interrupted as reason:
            return _stopped(reason)
        except KeyboardInterrupt:
            goes_on = '; the same command goes on' if mode in _GO_ON else ''
            return _failed(f'interrupted{goes_on}', code=_CTRL_C)
        except BaseException as error:
            if sentence := _sentence(error):
                return _failed(f'error: {sentence}')
            _leave_failed_job(message=traceback.format_exc())
            raise


def _stopped(reason):
    """Says that SIGTERM ended the mode, and leaves the job with it; returns the exit code."""
    from panoptic_jax.logs import progress
    from panoptic_jax.machine import hosts

    progress.say(str(reason))
    hosts.leave_together()
    return RUN_AGAIN


def _failed(sentence, code=1):
    """Says why the mode ends, and ends it; returns the exit code."""
    from panoptic_jax.logs import progress

    logging.debug('Where it happened:', exc_info=True)
    progress.say(sentence)
    _leave_failed_job(code=code)
    return code


def _leave_failed_job(**arguments):
    # Without JAX this process has not joined any job, and a refusal need not load it.
    if 'jax' in sys.modules:
        from panoptic_jax.machine import hosts

        hosts.leave_failed_job(**arguments)


def _sentence(error):
    """What is said of an error that users can cause; '' for a mistake in the code."""
    from panoptic_jax.machine import disk

    # Without a number it is a sentence of ours.
    if isinstance(error, OSError) and error.errno:
        return str(disk.explained(error))
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return str(error)
    # XLA's errors have no type of their own.
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
        reason = str(error).partition('\n')[0]
        return (
            f'The memory does not suffice ({reason}); a smaller batch_size or sample.batch_size, '
            'more microbatches or fewer data.workers need less.'
        )
    return ''


def _set_up_logs():
    from panoptic_jax.logs import progress

    logging.set_verbosity(logging.INFO)
    progress.share_terminal()
    logging.get_absl_handler().addFilter(_is_news)


def _is_news(record):
    """Whether a line of the log is for the user."""
    # Orbax logs dozens of lines a checkpoint at INFO. The errors that it logs with tracebacks it
    # raises as well, and its event loop tells of them once more.
    of_orbax = 'orbax' in record.pathname
    told_again = 'Task exception was never retrieved' in record.getMessage()
    return not (told_again or (of_orbax and (record.levelno <= 20 or record.exc_info)))


def _run(mode, config, workdir, *, interruption, **options):
    """Checks what can be checked at once, joins the job and calls the mode."""
    from panoptic_jax import config as settings
    from panoptic_jax.command import paths

    settings.check(config)
    config = settings.with_home(config)
    workdir = _workdir(mode, config, workdir)
    if mode == 'prepare':
        paths.require_folder(config.data.dir, 'data.dir', writes=False)
    else:
        paths.require_folder(workdir, 'The workdir', writes=True)
    if mode in _GO_ON:
        options['interruption'] = interruption
    # Only here: JAX takes a second of processor time, which no refusal above has to wait for.
    from panoptic_jax.machine import files, hosts

    _hear_sigterm(mode, interruption)
    # A plan is made on one machine, also inside a job of several.
    if mode != 'plan':
        hosts.start()
        # A job of several processes takes SIGTERM over when it starts.
        _hear_sigterm(mode, interruption)
    files.connect(workdir, *settings.paths(config))
    if mode == 'prepare':
        _function_of(mode)(config, **options)
        return 0
    if mode == 'train':
        paths.require_start(config.init_weights, workdir, network=config.model.name)
    return _run_in(workdir, mode, config, options)


def _hear_sigterm(mode, interruption):
    """Makes SIGTERM a question to modes that go on, and the end of the others."""
    if mode in _GO_ON:
        interruption.listen()
    elif threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _workdir(mode, config, workdir):
    """The workdir of the command line, else the config's; '' for a preparation without one."""
    from panoptic_jax.command import fields, paths

    workdir = os.fspath(workdir or config.workdir)
    if not workdir and mode != 'prepare':
        raise ValueError(
            f'--mode={mode} needs --workdir=DIR, the folder of the run; for example: '
            f'{arguments.with_workdir(mode)}'
        )
    kind = fields.FIELDS['workdir']
    if not kind.holds(workdir):
        raise ValueError(f'--workdir is {fields.shown(workdir)}; it must be {kind.expected}.')
    return paths.expanded(workdir, '--workdir')


def _run_in(workdir, mode, config, options):
    """Calls a mode that works in the workdir."""
    import jax

    from panoptic_jax.logs import environment
    from panoptic_jax.machine import memory

    environment.keep_compiled(workdir)
    # A plan is of other devices. It starts those that it wants itself.
    if mode != 'plan' and jax.default_backend() == 'cpu':
        memory.keep_freed()
    is_complete = _function_of(mode)(config, workdir, **options)
    return RUN_AGAIN if mode == 'train' and not is_complete else 0


def _function_of(mode):
    """The function that is a mode. Module and function have one name; no other mode is loaded."""
    name = {'export': 'export_weights', 'import': 'import_weights'}.get(mode, mode)
    return getattr(importlib.import_module(f'panoptic_jax.{name}'), name)


def run() -> None:
    """Runs the command line and exits; `pyproject.toml` makes it the command `panoptic-jax`."""
    # Opened before anything is loaded, which takes seconds.
    with Interruption() as interruption:
        try:
            command = functools.partial(main, interruption=interruption)
            app.run(command, flags_parser=arguments.parse_flags)
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            sys.exit(_CTRL_C)


if __name__ == '__main__':
    run()
