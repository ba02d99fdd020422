"""Where the pictures are that an annotation file names: a listing of each folder, no patterns.

`data/pictures.py` reads the pictures.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from etils import epath

# 'C:\\', '\\\\server', '/home', 'gs://'.
_ABSOLUTE = re.compile(r'[/\\]|[A-Za-z]:[/\\]|\w+://')


def find_files(
    folder: epath.Path, names: Sequence[str], *, named_in: epath.Path, fix: str
) -> list[str]:
    """The paths, within a folder, of files that an annotation file names.

    A name may lead into folders below, and it may begin with the folder's own name, as in
    'train2017/0001.jpg' of the folder train2017. Where there is no such file, a backslash counts as
    a slash, and letters with accents count as equal however Unicode composes them.

    Args:
      folder: The folder of the files.
      names: The names, each for another file.
      named_in: The annotation file, for the messages.
      fix: What the user can do about missing files, for the message.

    Raises:
      FileNotFoundError: files are missing; the message names the first one.
      ValueError: a name leads out of the folder, or two names lead to one file.
    """
    tree = _Tree(folder)
    found: dict[str, None] = {}  # with the order of the names, and quick to ask
    missing = []
    for name in names:
        if _ABSOLUTE.match(name) or '..' in re.split(r'[/\\]', name):
            raise ValueError(
                f'{named_in}: file_name {_printable(name)} leads out of {folder}; it must name a '
                'file there, by a path relative to that folder.'
            )
        place = tree.find(name)
        if place is None:
            missing.append(name)
            continue
        if place in found:
            raise ValueError(
                f'{named_in}: file_name {_printable(name)} occurs twice: two entries share '
                f'the file {_printable(place)} of {folder}; each needs a file of its own.'
            )
        found[place] = None
    if missing:
        raise FileNotFoundError(
            f'{folder} lacks {len(missing)} of {len(names)} files, the first '
            f'{_printable(min(missing))}; {fix}.'
        )
    return list(found)


class _Tree:
    """The names of the files below a folder; each folder that a name leads into is listed once.

    A question per file would take long: 118,287 of them on a network disk or in a bucket.
    """

    def __init__(self, folder: epath.Path) -> None:
        self._folder = folder
        self._names: dict[str, set[str]] = {}  # {place of a folder: the names in it}
        self._composed: dict[str, dict[str, str]] = {}  # the same, {composed name: name}

    def find(self, name: str) -> str | None:
        """The place of the file that `name` means, such as "aachen/x.png"; or None."""
        if name in self._list(''):
            return name
        spellings = [name, name.replace('\\', '/')] if '\\' in name else [name]
        for spelling in spellings:
            for parts in self._readings(spelling):
                place = self._descend(parts)
                if place:
                    return place
        return None

    def _readings(self, name: str) -> Iterator[list[str]]:
        """The parts of a name, also without the folders at its start that are this folder's own."""
        parts = [part for part in name.split('/') if part not in ('', '.')]
        yield parts
        own = self._folder.parts
        for count in range(1, len(parts)):
            if list(own[-count:]) == parts[:count]:
                yield parts[count:]

    def _descend(self, parts: Sequence[str]) -> str | None:
        """The place that the parts lead to, one folder after the other, or None."""
        place = ''
        for part in parts:
            name = part if part in self._list(place) else self._alike(place, part)
            if name is None:
                return None
            place = f'{place}/{name}' if place else name
        return place or None

    def _list(self, place: str) -> set[str]:
        """The names in a folder; none if it is no folder."""
        if place not in self._names:
            folder = self._folder / place if place else self._folder
            names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            self._names[place] = names
        return self._names[place]

    def _alike(self, place: str, name: str) -> str | None:
        """The name in a folder that reads like `name`: macOS decomposes letters with accents."""
        if name.isascii():
            return None
        if place not in self._composed:
            composed = {compose(each): each for each in sorted(self._list(place))}
            self._composed[place] = composed
        return self._composed[place].get(compose(name))


def compose(name: str) -> str:
    """A name with letters and accents in one, as names are compared: macOS writes them apart."""
    return unicodedata.normalize('NFC', name)


def _printable(name: str) -> str:
    """The name for a sentence, in quotes and with escapes where it could not be seen otherwise."""
    return name if name and name.isprintable() else ascii(name)
