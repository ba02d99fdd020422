"""Weights that come with the package, by name: 'scenes/joint', say.

They lie in `panoptic_jax/shipped/`, each with a card that says how it was trained and what it
scores. `encoders/weights_files.py` and `weights/file.py` take such a name wherever they take the
path of a file.
"""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / 'shipped'
_SUFFIX = '.safetensors'


def path_of(name: str) -> str:
    """The local path of the weights of a name, or '' where none has it.

    Args:
      name: Any text. A file or folder of that path is meant before weights of that name are.
    """
    if not re.fullmatch(r'\w+/\w+', name) or Path(name).exists():
        return ''
    file = FOLDER / f'{name}{_SUFFIX}'
    return str(file) if file.is_file() else ''


def names() -> list[str]:
    """The names of all weights in the package, in order."""
    files = FOLDER.glob(f'*/*{_SUFFIX}')
    return sorted(str(file.relative_to(FOLDER).with_suffix('')) for file in files)
