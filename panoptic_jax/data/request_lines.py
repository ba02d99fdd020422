"""One line of a file of requests: its fields, which names it may give, and what contradicts itself.

`data/requests.py` makes lists of pairs of the lines. Which of them a model can serve, and whether
the pictures that they name are there, is asked in `programs/requested.py`.
"""

import re
import unicodedata
from typing import Annotated, Any

import msgspec

from panoptic_jax.data.picture_files import compose

SEEDS = 2**32  # JAX takes the lowest 32 bits of a seed, so larger ones would be others in disguise
NEEDS = (
    'caption, and if you like id, seed, copies, map, json (the annotations of the map), image, '
    'known, strength, negative and guidance'
)
ALL = 'all'  # in the place of a mask: all of what is given is known
_COPIES = 10_000
_ID_LENGTH = 100  # characters
_ID_BYTES = 200  # of a name 255 are allowed, and copies, endings and temporary names need some
_STREAMS = ('image', 'map')
# What Windows keeps for devices, whatever the ending.
_DEVICES = re.compile(r'(con|prn|aux|nul|com[0-9]|lpt[0-9])', re.IGNORECASE)
_WINDOWS = '<>:"|?*'
_OF_COPY = re.compile(r'(.+)_\d{4,}')

Parts = str | dict[str, str]
Strength = Annotated[float, msgspec.Meta(gt=0.001, le=1)]


class Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a line asks for.

    Attributes:
      caption: The prompt.
      id: Names the pair's files and decides its noise, wherever the line stands.
      seed: The pair's own seed, which makes it independent of the line's number.
      copies: How many pairs, each with noise of its own.
      map: A map's picture; paths start from the folder of the file.
      json: The COCO-panoptic JSON of a coloured map.
      image: A picture.
      known: The mask of what is known of image and map, white where it is, or 'all'; or such a
        mask for each of them, {"image": ..., "map": ...}.
      strength: How much of what is given is drawn anew, or how much of each.
      negative: A text in the place of the empty caption, which guidance leads away from.
      guidance: The pair's own guidance.
    """

    caption: str
    id: str | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, lt=SEEDS)] | None = None
    copies: Annotated[int, msgspec.Meta(ge=1, le=_COPIES)] | None = None
    map: str | None = None
    json: str | None = None
    image: str | None = None
    known: Parts | None = None
    strength: Strength | dict[str, Strength] | None = None
    negative: str | None = None
    guidance: Annotated[float, msgspec.Meta(ge=-100, le=100)] | None = None


def checked(line: Line) -> Line:
    """The line with blanks stripped from its texts; raises ValueError where it makes no sense."""
    if not line.caption.strip():
        raise ValueError('the caption is empty; write one, or leave the line out.')
    for name in ('map', 'json', 'image'):
        path = getattr(line, name)
        if path is not None and not path.strip():
            raise ValueError(f'{name!r} is empty; give the path of a file, or leave it out.')
        if path is not None and '\0' in path:
            raise ValueError(f'{name!r} holds a NUL character, which no path can.')
    if line.json and not line.map:
        raise ValueError("'json' belongs to a map, and the line names none.")
    if line.negative is not None and not line.negative.strip():
        raise ValueError("'negative' is empty, which is the rule; leave it out, or write a text.")
    if line.negative is not None and line.guidance == 0:
        raise ValueError("'negative' has no effect with a guidance of 0; leave one of them out.")
    for name in ('known', 'strength'):
        _check_parts(line, name)
    if line.id is not None:
        check_id(line.id)
    return msgspec.structs.replace(line, caption=line.caption.strip())


def _check_parts(line: Line, name: str) -> None:
    """Refuses a part of a stream that is not given."""
    value = getattr(line, name)
    if value is None:
        return
    given = [stream for stream in _STREAMS if getattr(line, stream)]
    if not given:
        raise ValueError(f'{name!r} is set, and the line names neither image nor map.')
    named = value if isinstance(value, dict) else dict.fromkeys(given, value)
    if not named:
        raise ValueError(f'{name!r} is empty; name a part, or leave it out.')
    for stream, part in named.items():
        if stream not in _STREAMS:
            raise ValueError(f"{name!r} has an entry {stream!r}; it may have 'image' and 'map'.")
        if stream not in given:
            raise ValueError(f'{name!r} is set for the {stream}, and the line names no {stream}.')
        if isinstance(part, str) and not part.strip():
            raise ValueError(f'{name!r} is empty; give the path of a mask, or {ALL!r}.')


def check_id(name: str) -> None:
    """Refuses an id that cannot name a file on every system; raises ValueError."""
    shown = f'the id {name[:_ID_LENGTH]!a}'
    if not name:
        raise ValueError('the id is empty; leave it out, or write one.')
    if set(name) & set('/\\'):
        raise ValueError(f'{shown} holds a path, and it names a file; leave / and \\ out.')
    if '.' in name:
        raise ValueError(f'{shown} holds a dot, where the ending of a file begins; leave it out.')
    # Cc: control characters, Cf: those that are not seen, Cs: halves of a character.
    if any(unicodedata.category(letter) in ('Cc', 'Cf', 'Cs') for letter in name):
        raise ValueError(f'{shown} holds characters that cannot be seen; leave them out.')
    if name != name.strip():
        raise ValueError(f'{shown} begins or ends with a blank; leave it out.')
    if set(name) & set(_WINDOWS):
        raise ValueError(f'{shown} holds one of {_WINDOWS}, which no file on Windows may.')
    if _DEVICES.fullmatch(name):
        raise ValueError(f'{shown} is the name of a device on Windows; choose another one.')
    if len(name) > _ID_LENGTH or len(name.encode()) > _ID_BYTES:
        raise ValueError(
            f'the id has {len(name)} characters ({len(name.encode())} bytes); at most '
            f'{_ID_LENGTH} ({_ID_BYTES} bytes) name a file.'
        )


def parts_of(request: dict[str, Any], name: str) -> dict[str, Any]:
    """{stream: value} of a request's 'known' or 'strength'; {} where it has none."""
    value = request.get(name)
    if value is None or isinstance(value, dict):
        return value or {}
    return {stream: value for stream in _STREAMS if stream in request}


class Names:
    """The names that lines have taken: whether another line may have an id."""

    def __init__(self) -> None:
        """Starts with none."""
        # {id as it is compared: the number of its line}; also of what ids may be copies of
        self._lines: dict[str, int] = {}
        self._originals: dict[str, int] = {}

    def take(self, name: str, line: int) -> None:
        """Takes an id; raises ValueError where its files would be those of another line."""
        # File systems of Windows and macOS see neither case nor how accents are written.
        own = compose(name).casefold()
        if own in self._lines:
            raise ValueError(
                f'the id {name!a} is that of line {self._lines[own]}, or differs from it in upper '
                'and lower case alone; choose another one.'
            )
        as_copy = _OF_COPY.fullmatch(own)
        original = as_copy[1] if as_copy else ''
        other = self._lines.get(original) or self._originals.get(own)
        if other:
            raise ValueError(
                f'the id {name!a} and that of line {other} could name the same copy; choose '
                'another one.'
            )
        self._lines[own] = line
        if original:
            self._originals[original] = line
