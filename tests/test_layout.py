"""The rules of the layout: rooms, one-way imports, bounded requirements."""

import functools
import importlib.metadata
import re
import subprocess
import sys

import pytest
from source_code import MODULES, ROOT, imports_of, name_of

# The rooms, from below: a module imports from its own room and from those above it in this list.
# A room is a folder, or a file at the top of the package.
ROOMS = (
    'machine', 'diffusion', 'logs', 'models', 'metrics', 'planning', 'command', 'data', 'config',
    'recipes', 'encoders', 'programs', 'quality', 'export', 'weights', 'preparation', 'scoring',
    'prepare', 'train', 'sample', 'evaluate', 'export_weights', 'import_weights', 'plan',
    'benchmark', 'pipeline', 'main',
)  # fmt: skip
# Rooms that know less than their place would allow, and all that they may import of ours.
KNOW_ONLY = {
    'machine': set(),
    'diffusion': set(),
    'logs': {'machine'},
    # Which form of a part is the fastest depends on the chip.
    'models': {'diffusion.bits', 'machine.chips'},
    'metrics': {'machine'},
    'planning': {'machine'},
    # It knows the names of networks and predictions, and explains what disks refuse.
    'command': {'machine', 'models.names', 'diffusion.names', 'logs.environment'},
    'data': {'machine', 'logs', 'diffusion.bits'},
    'encoders': {'data', 'machine.shipped'},
    'export': {'data', 'machine', 'logs', 'quality'},
    # Pairs are scored by what they are, whoever draws them and with whatever network.
    'quality': {'metrics', 'data', 'machine', 'logs'},
    # The loop sees encoded records only.
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
    'orbax': 'weights.orbax_files',
    'clu': 'logs.dashboards',
    'tensorboardX': 'logs.dashboards',
    'torch': 'weights.torch_file',
    'transformers': 'encoders.clip_tokens',
    'huggingface_hub': 'encoders.weights_files',
}


def arrows():
    """(importing module, imported name of ours) of the whole package."""
    for path in MODULES:
        for imported in imports_of(path):
            package, _, ours = imported.partition('.')
            if package == 'panoptic_jax':
                yield name_of(path), ours


def test_imports_go_one_way():
    wrong = []
    for name, imported in arrows():
        room, other = name.split('.')[0], imported.split('.')[0]
        assert {room, other} <= set(ROOMS), f'{room} or {other} needs a place in ROOMS'
        if other == room:
            continue
        known = any(
            imported == allowed or imported.startswith(allowed + '.')
            for allowed in KNOW_ONLY.get(room, ROOMS)
        )
        below = ROOMS.index(other) < ROOMS.index(room)
        if not (known and below):
            wrong.append(f'{name} imports {imported}')
        if {room, other} <= set(MODES) and (room, other) != ('evaluate', 'sample'):
            wrong.append(f'{name} imports {imported}, but commands are not libraries')
    assert not wrong


def test_other_peoples_packages_stay_in_their_rooms():
    wrong = []
    for path in MODULES:
        name = name_of(path)
        room, _, inside = name.partition('.')
        for imported in imports_of(path):
            package = imported.split('.')[0]
            if package in NEVER.get(room, ()) or ONLY_IN.get(package, name) != name:
                wrong.append(f'{name} imports {imported}')
            if package == 'ml_collections' and inside:
                wrong.append(f'{name} imports {imported}, but configuration stops at the door')
    assert not wrong


def test_the_house_has_few_rooms_at_the_top_and_no_circle(capsys):
    """Prints the figures: rooms, arrows between them, and the longest way from top to bottom."""
    pairs = {(name.split('.')[0], other.split('.')[0]) for name, other in arrows()}
    pairs = {(room, other) for room, other in pairs if room != other}

    @functools.cache
    def floor(room):
        return 1 + max((floor(other) for one, other in pairs if one == room), default=0)

    rooms = {name_of(path).split('.')[0] for path in MODULES} - {''}
    with capsys.disabled():
        print(f'\n{len(rooms)} rooms, {len(pairs)} arrows, {max(map(floor, rooms))} floors')
    assert rooms == set(ROOMS)
    assert len(rooms) <= 27
    folders = {path.parent.name for path in MODULES if path.name == '__init__.py'}
    files = rooms - folders
    assert files == {*MODES, 'main', 'config', 'recipes', 'pipeline'}


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
