"""docs/IDENTITY.md: the functions that compare artefacts exist, and somebody calls them."""

import ast
import re

import pytest
from code_names import MODULES, ROOT, tree_of

ROWS = re.findall(r'^\|(.+)\|$', (ROOT / 'docs' / 'IDENTITY.md').read_text(), re.MULTILINE)[2:]
NAMES = sorted(set(re.findall(r'`(\w+\.\w+)`', ' '.join(row.split('|')[3] for row in ROWS))))


def calls():
    """(last part of the called name, file) of every call in the package."""
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                yield getattr(node.func, 'attr', getattr(node.func, 'id', '')), path


CALLED = {name for name, _ in calls()}


def test_every_row_names_a_function():
    assert len(ROWS) > 25
    assert all(re.search(r'`\w+\.\w+`', row.split('|')[3]) for row in ROWS)


@pytest.mark.parametrize('name', NAMES)
def test_what_compares_exists_and_is_called(name):
    module, function = name.split('.')
    # Rooms may have modules of one name.
    paths = [path for path in MODULES if path.stem == module]
    defined = [{getattr(node, 'name', '') for node in tree_of(path).body} for path in paths]
    assert sum(function in names for names in defined) == 1
    assert function in CALLED
