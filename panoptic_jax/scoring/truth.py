"""Which image of a prepared split a pair belongs to, and which captions it has.

`scoring/maps.py` and `scoring/images.py` compare pairs with these images and captions, and
`scoring/belonging.py` compares categories.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from panoptic_jax.data import loader


class Owners(NamedTuple):
    """The images that pairs belong to.

    Attributes:
      indices: For each pair the index of its image in the split; None where not all pairs have one.
      captions: {index: the captions of that image}.
      lacking: Why there are no indices, in words; '' where there are.
    """

    indices: list[int] | None
    captions: Mapping[int, Sequence[str]]
    lacking: str


def check_entries(entries: Sequence[Mapping[str, Any]], path: Any) -> None:
    """Refuses entries that would be misread.

    Args:
      entries: The content of captions.json, see `export/pairs.py`.
      path: That file, for the messages.

    Raises:
      ValueError: naming the entry, the field and what it must be.
    """
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):

        def refuse(field, expected, number=number, entry=entry):
            value = repr(entry[field])
            value = value if len(value) <= 50 else value[:47] + '...'
            raise ValueError(f'{path}: {field!r} of entry {number} is {value}; it must {expected}.')

        # A list in the place of a text has letters for captions, and a text in the place of a list.
        if 'caption' in entry and not _is_text(entry['caption']):
            refuse('caption', 'be a text that is not empty')
        captions = entry.get('captions', ['a caption'])
        is_list = isinstance(captions, list) and captions
        if not is_list or not all(map(_is_text, captions)):
            refuse('captions', 'be a list of texts, also where it is a single one')
        image_id = entry.get('image_id', 0)
        if not isinstance(image_id, int) or isinstance(image_id, bool):
            refuse('image_id', "be the number of the picture in the data's source")
        name = entry['file_name']
        if seen.setdefault(name, number) != number:
            refuse('file_name', f"differ from entry {seen[name]}'s: give 'captions' as a list")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def owners_of(entries: Sequence[Mapping[str, Any]], split: loader.Split, where: str) -> Owners:
    """For each pair the image of the split that its caption belongs to.

    Our own samples name the record and the source's image, others the image alone. Numbers alone
    say little, since every data set has an image 7: the pair's caption must be one of the image's.

    Args:
      entries: The pairs' entries, checked by `check_entries`.
      split: A prepared split.
      where: The split and its folder in words, for messages.

    Raises:
      ValueError: a pair's record or caption is not of this split.
    """
    image_ids = split.image_ids()
    if all('record' in entry for entry in entries):
        indices = [_record(entry, image_ids, where) for entry in entries]
    else:
        without = [entry for entry in entries if 'image_id' not in entry]
        index_of = {image_id: index for index, image_id in enumerate(image_ids)}
        foreign = [e for e in entries if 'image_id' in e and e['image_id'] not in index_of]
        if without or foreign:
            lacking = (
                f'{len(without)} of {len(entries)} pairs have no image_id, which names their '
                f'picture of {where}'
            )
            if foreign:
                lacking = (
                    f'{len(foreign)} of {len(entries)} pairs have an image_id that {where} lacks, '
                    f'the first {foreign[0]["image_id"]} of {foreign[0]["file_name"]}'
                )
            return Owners(indices=None, captions={}, lacking=lacking)
        indices = [index_of[entry['image_id']] for entry in entries]
    # Read once: images repeat, and reading a record with its text features costs far more.
    captions = {index: split[index]['captions'] for index in dict.fromkeys(indices)}
    for entry, index in zip(entries, indices, strict=True):
        _check_caption(entry, captions[index], where)
    return Owners(indices, captions, lacking='')


def _record(entry: Mapping[str, Any], image_ids: Sequence[int], where: str) -> int:
    """The record that one of our own samples names, which must be that of its image."""
    record = entry['record']
    there = image_ids[record] if record in range(len(image_ids)) else None
    if there is None or entry.get('image_id', there) != there:
        raise ValueError(
            f'{entry["file_name"]} was drawn for record {record}, image {entry.get("image_id")}; '
            f'{where} has {"no such record" if there is None else f"image {there} there"}: '
            'evaluate with the data and the split that it was drawn from.'
        )
    return record


def _check_caption(entry: Mapping[str, Any], captions: Sequence[str], where: str) -> None:
    """Refuses a pair whose caption is none of its image's; pairs without captions are fine."""
    own = [*entry.get('captions', []), *([entry['caption']] if 'caption' in entry else [])]
    known = set(map(_plain, captions))
    if own and not any(_plain(caption) in known for caption in own):
        raise ValueError(
            f'{entry["file_name"]} has the caption {own[0][:60]!r}, which is none of image '
            f'{entry.get("image_id")} in {where} ({captions[0][:60]!r}): evaluate with the data '
            'and the split that it is of, or leave out captions or image_id.'
        )


def _plain(caption: str) -> str:
    """A caption as it is compared: other spaces and capitals make no other caption."""
    return ' '.join(caption.split()).casefold()


def captions_of(
    entries: Sequence[Mapping[str, Any]], owners: Owners
) -> Callable[[int], Sequence[str]] | None:
    """A function from a pair's number to its captions.

    Args:
      entries: The pairs' entries, checked by `check_entries`.
      owners: From `owners_of`; with an image of the split a pair has all captions of its image.

    Returns:
      The function; None where a pair has neither an image of the split nor a caption of its own.
    """
    indices = owners.indices
    if indices:
        return lambda i: owners.captions[indices[i]]
    if all('captions' in entry or 'caption' in entry for entry in entries):
        return lambda i: entries[i].get('captions') or [entries[i]['caption']]
    return None
