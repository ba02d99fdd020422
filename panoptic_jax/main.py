"""Command line: `python -m panoptic_jax.main --config=FILE --workdir=DIR --mode=MODE`.

Starts up, hands over to the mode, and turns an expected error into one sentence. No logic here.
"""

import re
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from panoptic_jax import export_weights

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Experiment, such as configs/one_stream.py.', lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run: checkpoints, metrics, samples. Made if missing.'
)
_MODE = flags.DEFINE_enum(
    'mode',
    'train',
    ['train', 'prepare', 'sample', 'evaluate', 'export', 'import', 'plan', 'benchmark'],
    'What to do. Each mode goes on where it was interrupted.',
)

RUN_AGAIN = 75  # exit code after SIGTERM: everything is saved, the same command goes on


def main(argv: list[str]) -> int:
    """Dispatches; returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f'There is no argument {argv[1]!r}; settings are --config.NAME=VALUE.')
    # After the flags are parsed: --help and a misspelt field need no JAX.
    from panoptic_jax import config as settings
    from panoptic_jax.machine import files, hosts

    logging.set_verbosity(logging.INFO)
    # Orbax logs dozens of lines a checkpoint at INFO.
    logging.get_absl_handler().addFilter(
        lambda record: 'orbax' not in record.pathname or record.levelno > 20
    )
    try:
        settings.check(_CONFIG.value)
        if _MODE.value != 'plan':  # which needs one machine, of whatever job it is part
            hosts.start()
        files.connect(_WORKDIR.value or '', *settings.paths(_CONFIG.value))
        return _run(_MODE.value, _CONFIG.value, _WORKDIR.value)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        logging.debug('Where it happened:', exc_info=True)
        print(f'error: {error}', file=sys.stderr)
        hosts.leave_failed_job()
        return 1
    except BaseException:
        hosts.leave_failed_job(traceback.format_exc())
        raise


def _run(mode, config, workdir):
    if mode == 'prepare':
        from panoptic_jax import prepare

        prepare.prepare(config)
        return 0
    if not workdir:
        raise ValueError(f'--mode={mode} needs --workdir=DIR, the folder of the run.')
    from panoptic_jax import benchmark, evaluate, import_weights, plan, sample, train
    from panoptic_jax.logs import environment
    from panoptic_jax.scoring import preview

    environment.keep_compiled(workdir)

    if mode == 'train':
        show = preview.make_preview(config) if config.preview_every else None
        return 0 if train.train(config, workdir, show) else RUN_AGAIN
    modes = {
        'sample': sample.sample,
        'evaluate': evaluate.evaluate,
        'export': export_weights.export_weights,
        'import': import_weights.import_weights,
        'plan': plan.plan,
        'benchmark': benchmark.benchmark,
    }
    modes[mode](config, workdir)
    return 0


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parsing, with one sentence for a misspelt field, a wrong type or a missing config."""
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.keys()  # a config file that failed to load says so on first use only
        return rest
    except (flags.Error, KeyError, TypeError, ValueError, OSError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if isinstance(error, KeyError):  # "'modle'" and ml_collections' guess at what was meant
            sentence = f'The config has no field {"; ".join(lines)}'
        else:  # the cause comes last, below what was tried
            sentence = re.sub(r'^\w+Error: ', '', lines[-1])
        print(f'error: {sentence}', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    flags.mark_flags_as_required(['config'])
    app.run(main, flags_parser=parse_flags)
