"""Finds the file of `--config`, by its name or its path, and looks whether it is one.

Nothing of the file is run here; `command/arguments.py` loads it.
"""

import ast
import itertools
import os
import re
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def with_config_file(argv: list[str]) -> list[str]:
    """Returns the command line with the config's path in the place of its name.

    Raises:
      OSError, ValueError: there is no config of that name, or the file is none.
    """
    rewritten = list(argv)
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition('=')
        # Overrides such as --config.steps=5 are other flags.
        if flag not in ('-config', '--config'):
            continue
        if equals:
            rewritten[index] = f'{flag}={_checked(find_config(value))}'
        elif index + 1 < len(argv):
            rewritten[index + 1] = _checked(find_config(argv[index + 1]))
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
    paths = names_and_paths()
    if name not in paths:
        raise ValueError(
            f'There is no config named {name!r}; the names are {", ".join(paths)}, '
            'and a path ends in .py.'
        )
    return f'{paths[name]}{colon}{arguments}'


def names_and_paths() -> dict[str, Path]:
    """{name: path} of the configs that come with the package."""
    folder = _PACKAGE / 'configs'  # `pip install` puts the configs there (pyproject.toml)
    if not folder.is_dir():
        folder = _PACKAGE.parent / 'configs'  # in a checkout
    return {path.stem: path for path in sorted(folder.glob('*.py'))}


def config_of(argv: list[str]) -> str | None:
    """The last value of --config; None without one."""
    found = None
    for argument, following in itertools.pairwise([*argv, None]):
        flag, equals, value = argument.partition('=')
        if flag in ('-config', '--config'):
            found = value if equals else following
    return found


def _checked(value: str) -> str:
    """Refuses the value of --config whose file is no config, before anything of it is run."""
    path, colon, arguments = os.path.expanduser(value).partition(':')
    if not path.endswith('.py') or not os.path.lexists(path):
        raise ValueError(
            f'There is no config file {path!r}; --config is a .py file or one of the names '
            f'{", ".join(names_and_paths())}.'
        )
    with open(path, 'rb') as file:
        content = file.read()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        line = f', line {error.lineno}' if isinstance(error, SyntaxError) else ''
        raise ValueError(f'{path}{line} is not Python: {error.args[0]}.') from error
    takes = [
        bool(node.args.args or node.args.vararg)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == 'get_config'
    ]
    # It may also come from elsewhere, as in `from shared import get_config`.
    if not takes and b'get_config' not in content:
        raise ValueError(f'{path} is no config: it has no function get_config().')
    if takes and not takes[-1] and colon:
        raise ValueError(
            f'The config {path} takes no arguments, but {arguments!r} is given; leave it out, and '
            'change settings by --config.NAME=VALUE.'
        )
    return f'{path}{colon}{arguments}'
