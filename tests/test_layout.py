"""The rules of the layout: one-way imports, docstrings, short files, bounded requirements."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(ROOT.glob('panoptic_jax/**/*.py'))

# The rooms, from below: a module imports from its own room and from those above it in this list.
# A room is a folder, or a file at the top of the package.
ROOMS = (
    'machine', 'diffusion', 'logs', 'models', 'metrics', 'planning', 'data', 'config', 'recipes',
    'encoders', 'programs', 'export', 'weights', 'preparation', 'scoring', 'prepare', 'train',
    'sample', 'evaluate', 'export_weights', 'import_weights', 'plan', 'benchmark', 'pipeline',
    'main',
)  # fmt: skip
# Rooms that know less than their place would allow, and all that they may import of ours.
KNOW_ONLY = {
    'machine': set(),
    'diffusion': set(),
    'logs': {'machine'},
    'models': {'diffusion.bits'},
    'metrics': {'machine'},
    'planning': {'machine'},
    'data': {'machine', 'logs', 'diffusion.bits'},
    'encoders': {'data'},
    'export': {'data', 'machine', 'logs'},
    'train': set(ROOMS) - {'encoders'},
}
# Commands are not libraries: no mode imports another, but evaluation samples first.
MODES = (
    'prepare', 'train', 'sample', 'evaluate', 'export_weights', 'import_weights', 'plan',
    'benchmark',
)  # fmt: skip
# What a room must not see of other people's packages.
NEVER = {
    'diffusion': {'flax', 'optax', 'etils', 'absl'},
    'models': {'optax', 'etils', 'absl'},
    'data': {'flax', 'optax', 'orbax'},
    'metrics': {'flax'},
}
# Packages that one module hides from the rest.
ONLY_IN = {
    'orbax': 'weights.checkpoint',
    'clu': 'logs.dashboards',
    'tensorboardX': 'logs.dashboards',
    'torch': 'import_weights',
    'transformers': 'encoders.clip_tokens',
    'huggingface_hub': 'encoders.weights_files',
}
LINES = 250
LONGER = {'train.py': 300}  # the loop is one function, to be read from top to bottom


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


def test_everything_public_has_a_docstring():
    lacking = []
    for path in MODULES:
        tree = tree_of(path)
        if tree.body and not ast.get_docstring(tree):
            lacking.append(name_of(path))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != '_'
            if public and not ast.get_docstring(node):
                lacking.append(f'{name_of(path)}.{node.name}')
    assert not lacking


def test_modules_are_short_and_finished():
    long, unfinished = {}, []
    for path in [*MODULES, *ROOT.glob('configs/*.py')]:
        text = path.read_text()
        lines = text.count('\n')
        if lines > LONGER.get(path.name, LINES):
            long[path.name] = lines
        if re.search(r'\b(TODO|FIXME|XXX|HACK)\b|\bjax\._src\b|filterwarnings', text):
            unfinished.append(path.name)
    assert not long
    assert not unfinished


def test_imports_go_one_way():
    wrong = []
    for path in MODULES:
        name = name_of(path)
        room = name.split('.')[0]
        if not room:
            continue  # the package's own empty __init__.py
        for imported in imports_of(path):
            package, _, ours = imported.partition('.')
            if package != 'panoptic_jax':
                hidden = ONLY_IN.get(package, name) != name
                if package in NEVER.get(room, ()) or hidden:
                    wrong.append(f'{name} imports {imported}')
                continue
            other = ours.split('.')[0]
            assert {room, other} <= set(ROOMS), f'{room} or {other} needs a place in ROOMS'
            known = any(
                ours == allowed or ours.startswith(allowed + '.')
                for allowed in KNOW_ONLY.get(room, ROOMS)
            )
            below = ROOMS.index(other) < ROOMS.index(room)
            if other != room and not (known and below):
                wrong.append(f'{name} imports {imported}')
            if {room, other} <= set(MODES) and (room, other) != ('evaluate', 'sample'):
                wrong.append(f'{name} imports {imported}')
    assert not wrong


def test_nothing_needs_torch_or_tensorflow():
    """Where they are installed, tensorboardX looks for torch; all works as well without."""
    names = [f'panoptic_jax.{name_of(path)}'.rstrip('.') for path in MODULES]
    code = (
        'import importlib, sys\n'
        "for name in ('torch', 'transformers', 'diffusers'): sys.modules[name] = None\n"
        f'for name in {names}: importlib.import_module(name)\n'
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == 'False', done.stdout + done.stderr


def requirements(name):
    """{distribution: version bounds} of a requirements file, without what it includes."""
    lines = [re.split('[#;]', line)[0].strip() for line in (ROOT / name).read_text().splitlines()]
    matches = [
        re.fullmatch(r'([\w-]+)(?:\[\w+\])?(.*)', line) for line in lines if line[:1].isalnum()
    ]
    return {match[1].lower().replace('_', '-'): match[2] for match in matches}


@pytest.mark.parametrize(
    'name',
    [
        'requirements.txt',
        'tests/requirements.txt',
        'launch/requirements-tpu.txt',
        'launch/requirements-gpu.txt',
    ],
)
def test_requirements_are_bounded(name):
    for distribution, bounds in requirements(name).items():
        exact = re.fullmatch(r'==[\d.]+', bounds)
        assert exact or re.fullmatch(r'>=[\d.]+,<[\d.]+', bounds), distribution


def test_requirements_are_what_is_imported():
    roots = {name.split('.')[0] for path in MODULES for name in imports_of(path)}
    # Who imports PyTorch's files has it already; nobody else should install it.
    outside = roots - set(sys.stdlib_module_names) - {'panoptic_jax', 'torch'}
    providers = importlib.metadata.packages_distributions()
    required = set(requirements('requirements.txt'))
    provided = {
        root: {name.lower().replace('_', '-') for name in providers[root]} for root in outside
    }
    assert not [root for root, names in provided.items() if not names & required]
    assert required <= set().union(*provided.values())
