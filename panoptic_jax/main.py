"""The command line: `panoptic-jax`, or in a checkout `python -m panoptic_jax.main`.

    panoptic-jax --config=NAME_OR_FILE --workdir=DIR --mode=MODE

This module finds the config, starts the mode and turns an expected error into one sentence. What a
mode does is in the module of its name; `config.py` explains the settings.
"""

import re
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

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
_MODE = flags.DEFINE_enum(
    'mode',
    'train',
    ['train', 'prepare', 'sample', 'evaluate', 'export', 'import', 'plan', 'benchmark'],
    'What to do. Each mode goes on where it was interrupted.',
)

# The exit code after SIGTERM: everything is saved, and the same command goes on.
RUN_AGAIN = 75


def main(argv: list[str]) -> int:
    """Runs the mode that the flags name; returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f'There is no argument {argv[1]!r}; settings are --config.NAME=VALUE.')
    return run_mode(_MODE.value, _CONFIG.value, _WORKDIR.value)


def run_mode(mode: str, config: Any, workdir: str | None, **options: Any) -> int:
    """Runs a mode and reports expected errors.

    Args:
      mode: One of the values of `--mode`.
      config: The settings, not yet checked.
      workdir: The folder of the run; may be None for 'prepare'.
      **options: Further arguments of the mode's function, such as `devices`.

    Returns:
      The exit code: 0, 1 after an expected error, or `RUN_AGAIN`.
    """
    # Imported after the flags are parsed, since --help and a misspelt field need no JAX.
    from panoptic_jax import config as settings
    from panoptic_jax.machine import files, hosts

    logging.set_verbosity(logging.INFO)
    # Orbax logs dozens of lines a checkpoint at INFO.
    logging.get_absl_handler().addFilter(
        lambda record: 'orbax' not in record.pathname or record.levelno > 20
    )
    try:
        settings.check(config)
        # A plan is made on one machine, also inside a job of several.
        if mode != 'plan':
            hosts.start()
        files.connect(workdir or '', *settings.paths(config))
        return _run(mode, config, workdir, **options)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        logging.debug('Where it happened:', exc_info=True)
        print(f'error: {error}', file=sys.stderr)
        hosts.leave_failed_job()
        return 1
    except BaseException:
        hosts.leave_failed_job(traceback.format_exc())
        raise


def _run(mode, config, workdir, **options):
    if mode == 'prepare':
        from panoptic_jax import prepare

        prepare.prepare(config, **options)
        return 0
    if not workdir:
        raise ValueError(f'--mode={mode} needs --workdir=DIR, the folder of the run.')
    from panoptic_jax import (
        benchmark,
        evaluate,
        export_weights,
        import_weights,
        plan,
        sample,
        train,
    )
    from panoptic_jax.logs import environment

    environment.keep_compiled(workdir)

    if mode == 'train':
        return 0 if train.train(config, workdir, **options) else RUN_AGAIN
    modes = {
        'sample': sample.sample,
        'evaluate': evaluate.evaluate,
        'export': export_weights.export_weights,
        'import': import_weights.import_weights,
        'plan': plan.plan,
        'benchmark': benchmark.benchmark,
    }
    modes[mode](config, workdir, **options)
    return 0


def parse_flags(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """absl's parsing, with one sentence for a misspelt field, a wrong type or a missing config."""
    try:
        rest = values(with_config_file(argv))
        config = values['config'].value
        if config is not None:
            # A config file that failed to load says so at its first use only.
            config.keys()
        return rest
    except AttributeError as error:
        # A ConfigDict raises it while it handles its own KeyError. Any other AttributeError is a
        # mistake in the code of a config file, whose author needs the traceback.
        if not isinstance(error.__context__, KeyError):
            raise
        _refuse(error.__context__)
    except (flags.Error, KeyError, TypeError, ValueError, OSError) as error:
        _refuse(error)


def _refuse(error):
    """Ends the process with one sentence about an error in the flags."""
    is_field = isinstance(error, KeyError)
    text = str(error.args[0]) if is_field else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if is_field:
        # "'modle'", and what ml_collections guesses that it should be.
        sentence = f'The config has no field {"; ".join(lines)}'
    else:
        # The last line is the cause; the lines above it say what was tried.
        sentence = re.sub(r'^\w+Error: ', '', lines[-1])
    print(f'error: {sentence}', file=sys.stderr)
    sys.exit(1)


def with_config_file(argv: list[str]) -> list[str]:
    """Returns the command line with the config's path in the place of its name.

    Raises:
      ValueError: there is no config of that name.
    """
    rewritten = list(argv)
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition('=')
        # Overrides such as --config.steps=5 are other flags.
        if flag not in ('-config', '--config'):
            continue
        if equals:
            rewritten[index] = f'{flag}={find_config(value)}'
        elif index + 1 < len(argv):
            rewritten[index + 1] = find_config(argv[index + 1])
    return rewritten


def find_config(value: str) -> str:
    """Turns the value of `--config` into one that names a file.

    Args:
      value: A path or a name, with or without arguments: 'configs/two_stream.py', 'two_stream',
        'two_stream:patch_factor=4'.

    Returns:
      The value with a path in the place of the name. A path stays as it is, and so does a name
      where a file of this name exists.

    Raises:
      ValueError: there is no config of that name; the message lists the names that exist.
    """
    name, colon, arguments = value.partition(':')
    is_name = re.fullmatch(r'[\w-]+', name) is not None
    # Only a file: a run's folder may have the name of its config.
    if not is_name or Path(name).is_file():
        return value
    package = Path(__file__).parent
    folder = package / 'configs'  # `pip install` puts the configs there (pyproject.toml)
    if not folder.is_dir():
        folder = package.parent / 'configs'  # in a checkout
    paths = {path.stem: path for path in sorted(folder.glob('*.py'))}
    if name not in paths:
        raise ValueError(
            f'There is no config named {name!r}; the names are {", ".join(paths)}, '
            'and a path ends in .py.'
        )
    return f'{paths[name]}{colon}{arguments}'


def run() -> None:
    """Runs the command line and exits; `pyproject.toml` makes it the command `panoptic-jax`."""
    flags.mark_flags_as_required(['config'])
    # --help shows the flags of the script that was started. pip's script defines none itself.
    for name in ('config', 'workdir', 'mode'):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(main, flags_parser=parse_flags)


if __name__ == '__main__':
    run()
