"""What is wrong with a name that a docstring or a document puts in backquotes.

    `data/loader.py`, `configs/*.py`    must be a file of the repository: from its root, from
                                        `panoptic_jax`, or beside the file that names it
    `metrics.json`, `samples/`          must be a file or folder of the repository, or be written in
                                        a string of the package
    `sharding.make_mesh`, `data.dir`    must be an attribute of a module, class or function of ours,
                                        or a setting
    `jax.jit`, `path.stem`              must begin with the name of an imported package, or with a
                                        name of the same file; what follows is not looked at
    `make_mesh`, `make_mesh(1, 2)`      must be a name that the code uses

Anything else in backquotes, a command for example, is not looked at. `NAMES_OF_OTHERS` are right.
"""

import ast
import functools
import re
from pathlib import Path

from panoptic_jax import config as settings
from panoptic_jax.logs import environment

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'panoptic_jax'
MODULES = sorted(PACKAGE.glob('**/*.py'))
CONFIGS = sorted(ROOT.glob('configs/*.py'))
TESTS = sorted(ROOT.glob('tests/**/*.py'))

# Classes, functions and files that are not ours and that the code does not name.
NAMES_OF_OTHERS = {
    'CLIPTextModel',  # of transformers
    'Sequential',  # of torch
    'int2bits',  # of Chen et al. 2022
    'dataset_info.json',  # written by TFDS
    'commit_success.txt',  # written by Orbax
    'NAME.txt',  # written by users, beside NAME.jpg
}

_SOURCE_FILE = re.compile(r'[\w./*-]*[\w*]\.(py|md|sh|css|toml|yaml|yml|cff)')
_OTHER_PATH = re.compile(r'[\w./{}-]*[\w}](\.(json|jsonl|npz|html|safetensors|txt)|/)')
_NAME = re.compile(r'([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(.*\))?')
_HAS_BODY = ast.FunctionDef | ast.ClassDef


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


@functools.cache
def docstrings(path: Path) -> tuple[str, ...]:
    """Every docstring of a file."""
    documented = (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Module | _HAS_BODY))
    texts = (ast.get_docstring(node, clean=False) for node in documented)
    return tuple(text for text in texts if text)


@functools.cache
def string_templates() -> frozenset[str]:
    """Every string of the package but docstrings, with … for what is filled in."""
    texts = set()
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, 'value', '…') for part in node.values]
                texts.add(''.join(part if isinstance(part, str) else '…' for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
        texts -= set(docstrings(path))
    return frozenset(texts)


def problem(name: str, file: Path, foreign_names: bool = False) -> str | None:
    """Says what is wrong with a name in backquotes; None if nothing is.

    Args:
      name: What stands between the backquotes.
      file: The file in which it stands.
      foreign_names: Whether a name may be one that the code does not use.
    """
    if name in NAMES_OF_OTHERS:
        return None
    if _SOURCE_FILE.fullmatch(name):
        return None if _in_repository(name, file) else 'no such file'
    if _OTHER_PATH.fullmatch(name):
        is_known = _in_repository(name, file) or _is_written(name)
        return None if is_known else 'no such file, and no string of the package names it'
    match = _NAME.fullmatch(name)
    if not match:
        return None
    first, *rest = parts = match[1].removeprefix('panoptic_jax.').split('.')
    if rest and first in _our_names():
        is_setting = '.'.join(parts).removeprefix('config.') in _setting_names()
        return None if is_setting or _resolves(parts) else 'no module, class or function has it'
    if foreign_names:
        return None
    known = _imported_names() | _names_of(file) if rest else _known_names()
    return None if first in known else f'the code has no name {first}'


def _in_repository(name, file):
    return any(any(folder.glob(name)) for folder in (ROOT, PACKAGE, file.parent))


def _is_written(name):
    """Whether a string of the package may be a path with the same last part."""
    last = re.sub(r'{\w+}', '…', name.rstrip('/').split('/')[-1])
    return any(pattern.fullmatch(last) for pattern in _last_parts())


@functools.cache
def _last_parts():
    lasts = {text.rstrip('/').split('/')[-1] for text in string_templates()}
    # A name that is filled in as a whole, such as ….json, says nothing.
    telling = [last for last in lasts if re.match(r'…*\w', last)]
    return [re.compile(re.escape(last).replace('…', '.+')) for last in telling]


@functools.cache
def _setting_names():
    fields = set(environment.flat(settings.default().to_dict()))
    return fields | {field.split('.')[0] for field in fields}


@functools.cache
def _known_names():
    """Names and words that the code contains, docstrings and comments left out."""
    known = set(re.findall(r'\w+', ' '.join(string_templates())))
    for path in [*MODULES, *CONFIGS, *TESTS]:
        known |= {path.stem, path.parent.name} | _names_of(path)
    return known


@functools.cache
def _names_of(path):
    """Every name that a file defines or uses."""
    names = set()
    for node in ast.walk(tree_of(path)):
        for field in ('id', 'attr', 'arg', 'name', 'asname', 'module'):
            text = getattr(node, field, None)
            if isinstance(text, str):
                names |= set(text.split('.'))
    return names


@functools.cache
def _imported_names():
    """First parts of the names under which the code imports other packages."""
    names = set()
    for path in [*MODULES, *TESTS]:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                names |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split('.')[0])
    return names


@functools.cache
def _our_names():
    """What a dotted name of ours begins with: a folder, module, class or group of settings."""
    names = {name.split('.')[0] for name in _setting_names()}
    for path in MODULES:
        definitions = tree_of(path).body
        names |= {path.stem, path.parent.name}
        names |= {node.name for node in definitions if isinstance(node, ast.ClassDef)}
    return names


def _resolves(parts):
    """Whether a dotted name of ours leads to something, from any module that it may begin with."""
    for path in MODULES:
        module = [*path.relative_to(PACKAGE).parent.parts, path.stem]
        tree = tree_of(path)
        if parts[: len(module)] == module and _has(tree, parts[len(module) :]):
            return True
        if parts[0] == path.stem and _has(tree, parts[1:]):
            return True
        is_class = any(isinstance(n, ast.ClassDef) and n.name == parts[0] for n in tree.body)
        if is_class and _has(tree, parts):
            return True
    return False


def _has(node, parts):
    """Whether what a module, class or function defines includes a dotted name."""
    if not parts:
        return True
    members = _members(node)
    if parts[0] not in members:
        return False
    definition = members[parts[0]]
    return len(parts) == 1 or (definition is not None and _has(definition, parts[1:]))


def _members(node):
    """{name: its definition, or None} of what may follow the dot after a definition."""
    members = {}
    for part in ast.walk(node):
        if isinstance(part, ast.arg):
            members[part.arg] = None
        elif isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Store):
            members[getattr(part, 'id', None) or part.attr] = None
    for part in node.body:
        if isinstance(part, _HAS_BODY):
            members[part.name] = part
        elif isinstance(part, ast.Import | ast.ImportFrom):
            members |= {alias.asname or alias.name: None for alias in part.names}
    return members
