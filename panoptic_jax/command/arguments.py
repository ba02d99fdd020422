"""Reads the command line: its flags, --help, and one sentence for each mistake.

`command/config_files.py` finds the config, `command/fields.py` knows the settings, and
`command/help.py` what --help prints.
"""

import ast
import os
import re
import shlex
import sys
from pathlib import Path

from absl import flags

from panoptic_jax.command import config_files
from panoptic_jax.command import help as help_texts
from panoptic_jax.machine import disk

_PACKAGE = Path(__file__).parents[1]


def parse_flags(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """absl's parsing, with --help and one sentence for every mistake; both end the process.

    Args:
      argv: The command line, the program's name first.
      values: The flags, of which `config` has to be one.

    Returns:
      The program's name.
    """
    rest = [argument for argument in argv if argument not in help_texts.WORDS]
    asks_for_help = rest != argv
    try:
        rest = config_files.with_config_file(rest)
        if asks_for_help and config_files.config_of(rest) is None:
            print(help_texts.overview(program(), ', '.join(config_files.names_and_paths())))
            sys.exit()
        left = values(rest)
        config = _loaded(values, rest)
        if len(left) > 1:
            raise ValueError(f'There is no argument {left[1]!r}; settings are --config.NAME=VALUE.')
    except AttributeError as error:
        # A ConfigDict raises it while it handles its own KeyError. Any other AttributeError is a
        # mistake in the code of a config file, whose author needs the traceback.
        if not isinstance(error.__context__, KeyError):
            raise
        _refuse(_about_field(rest, error.__context__))
    except flags.IllegalFlagValueError as error:
        _refuse(_about_value(error))
    except (KeyError, IndexError) as error:
        _refuse(_about_field(rest, error))
    except OSError as error:
        _refuse(str(disk.explained(error)) if error.errno else _cause(error))
    except (flags.Error, TypeError, ValueError) as error:
        _refuse(_cause(error))
    if asks_for_help:
        _print_settings(config, rest)
        sys.exit()
    return left


def program() -> str:
    """How the command is called on this machine, for examples in messages."""
    called = os.path.basename(sys.argv[0])
    return 'python -m panoptic_jax.main' if called.endswith('.py') else called


def with_workdir(mode: str) -> str:
    """The command line of this process, completed by a workdir, for a message."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith('--workdir')]
    config = config_files.config_of(given) or mode
    return f'{program()} {shlex.join(given)} --workdir=runs/{Path(config.partition(":")[0]).stem}'


def _loaded(values, argv):
    """The config that the flags have loaded."""
    config, file = values['config'].value, config_files.config_of(argv)
    if file is None:
        raise ValueError(
            '--config is missing, the experiment by its name or file; for example: '
            f'{program()} --config=quickstart --mode=prepare'
        )
    # A config file that failed to load says so at this first use only.
    if not hasattr(config, 'to_dict'):
        raise ValueError(
            f'{file} is no config: its get_config() returns {type(config).__name__}; it must '
            'return what config.default() gives, as the files in configs/ do.'
        )
    return config


def _print_settings(config, argv):
    from panoptic_jax.logs import environment

    path = config_files.config_of(argv).partition(':')[0]
    head = ast.get_docstring(ast.parse(Path(path).read_bytes())) or path
    meanings = help_texts.meanings_in((_PACKAGE / 'config.py').read_text())
    flat = environment.flat(config.to_dict())
    # In the order of the source, which keeps together what belongs together.
    values = {name: flat[name] for name in [*meanings, *(set(flat) - set(meanings))]}
    print(help_texts.of_config(head, values, meanings, program()))


def _about_value(error):
    """The sentence about a value that cannot be read, such as --config.steps=many."""
    from panoptic_jax.command import fields

    flag, _, rest = str(error).removeprefix('flag --').partition('=')
    # The config itself, whose code has failed.
    if flag == 'config':
        return _cause(error)
    reason = str(error.__context__)
    value, name = rest.removesuffix(f': {reason}'), flag.removeprefix('config.')
    if name in fields.FIELDS:
        return f'{name} is {fields.shown(value)}; it must be {fields.FIELDS[name].expected}.'
    if any(field.startswith(f'{name}.') for field in fields.FIELDS):
        return f'{name} is a group of settings; set one of them, as in --config.{name}.NAME=VALUE.'
    reason = reason.replace('value should', 'it must').replace('|', ', ')
    return f'--{flag} is {value!r}; {reason}.'


def _about_field(argv, error):
    """The sentence about a setting that does not exist."""
    from panoptic_jax.command import fields

    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([\w.\[\]'\"]+)", argument)
        name = re.sub(r'\[[\'"](\w+)[\'"]\]', r'.\1', match[1]) if match else ''
        is_group = any(field.startswith(f'{name}.') for field in fields.FIELDS)
        if name and name not in fields.FIELDS and not is_group:
            return fields.unknown(name)
    # In the code of a config file: "'modle'", and what ml_collections guesses that it should be.
    lines = [line.strip() for line in str(error.args[0]).splitlines() if line.strip()]
    return f'The config has no field {"; ".join(lines)}'


def _cause(error):
    """The last line of an error is the cause; the lines above it say what was tried."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = re.sub(r'^\w+Error: ', '', lines[-1])
    places = re.findall(r'^\s*File "(.+)", line (\d+)', str(error), re.MULTILINE)
    # A mistake in the code of a config file, rather than a value that our code refuses.
    if places and not Path(places[-1][0]).is_relative_to(_PACKAGE):
        own = [place for place in places if '/site-packages/' not in place[0]]
        file, line = own[-1] if own else places[-1]
        return f'{file}, line {line}: {_about_type(cause)}'
    return cause


def _about_type(cause):
    """ml_collections' words for a value of another type than the setting's, made plain."""
    from panoptic_jax.command import fields

    match = re.match(r"Could not override field '(\w+)'.*?\. (.*) is of original type", cause)
    if not match:
        return cause
    name, value = match.groups()
    # The words name no group. Fields of one name are of one kind, or else they stay as they are.
    leaves = {field: field.rpartition('.')[2] for field in fields.FIELDS}
    found = {fields.FIELDS[field].expected for field, leaf in leaves.items() if leaf == name}
    return f'{name} is {value!r}; it must be {found.pop()}.' if len(found) == 1 else cause


def _refuse(sentence):
    """Ends the process with one sentence about the command line."""
    print(f'error: {sentence}', file=sys.stderr)
    sys.exit(1)
