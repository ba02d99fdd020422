"""The package's source as the tests of layout, style and documents read it."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = sorted(ROOT.glob('panoptic_jax/**/*.py'))


def name_of(path):
    """'data.loader' for panoptic_jax/data/loader.py."""
    relative = path.relative_to(ROOT / 'panoptic_jax').with_suffix('')
    return '.'.join(part for part in relative.parts if part != '__init__')


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


def imports_of(path):
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: imports are absolute'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)
