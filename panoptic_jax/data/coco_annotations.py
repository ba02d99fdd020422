"""The annotation files of a COCO folder: reading them, and checking that they fit together.

`data/coco.py` makes examples of what they hold.
"""

import collections
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from panoptic_jax.data.categories import remap
from panoptic_jax.data.example import Category


def read_json(path: epath.Path, keys: Sequence[str], fix: str) -> tuple[Any, str]:
    """Reads a JSON file that must have certain keys.

    Args:
      path: The JSON file.
      keys: Keys that the content must have.
      fix: What the user can do about a missing or damaged file, for the message.

    Returns:
      The content and the file's SHA-256.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is not valid JSON, or lacks a key.
    """
    if not path.exists():
        raise FileNotFoundError(f'{path} is missing; {fix}.')
    # The hash is of the bytes as they are: another release, though equal in content, shows.
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON ({error}); {fix} again.') from error
    for key in keys:
        if key not in content:
            raise ValueError(f'{path} lacks {key!r}; it must be an annotation file of COCO.')
    return content, hashlib.sha256(text).hexdigest()


def to_categories(
    entries: Sequence[Mapping[str, Any]], path: epath.Path
) -> tuple[tuple[Category, ...], dict[int, int]]:
    """The categories of a JSON list, renumbered where their ids do not fit into 1..254.

    Args:
      entries: The list's entries: 'id', 'name' and 'isthing'.
      path: The file that holds the list, for the messages.

    Returns:
      The categories with our ids, and {the list's id: our id}.

    Raises:
      ValueError: the entries are no categories, or `remap` refuses the list.
    """
    try:
        categories = []
        for entry in entries:
            category = Category(id=entry['id'], name=entry['name'], is_thing=bool(entry['isthing']))
            categories.append(category)
        return remap(categories)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: not a list of categories ({error!r}); each needs id, name and isthing.'
        ) from error
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def find_captions(annotations: epath.Path, split: str) -> epath.Path:
    """The path of a split's captions file.

    The file's name may go on after the split's name, as in `captions_train2017_part.json`.

    Raises:
      ValueError: several files could be the split's captions.
    """
    path = annotations / f'captions_{split}.json'
    if path.exists():
        return path
    longer = sorted(annotations.glob(f'captions_{split}*.json'))
    if len(longer) > 1:
        names = ', '.join(other.name for other in longer)
        raise ValueError(f'{annotations} holds {names}; rename the one to use to {path.name}.')
    # Reading the plain name fails, and the message then names the file that everybody has.
    return longer[0] if longer else path


def read_captions(path: epath.Path, root: epath.Path) -> tuple[dict[int, list[str]], str]:
    """Reads a captions file.

    Args:
      path: The captions file.
      root: The COCO folder, for the message.

    Returns:
      {image id: captions} and the file's SHA-256.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is not valid JSON, or holds no captions.
    """
    fix = f'unzip annotations_trainval2017.zip inside {root}'
    content, sha256 = read_json(path, ('annotations',), fix)
    # One image has about five captions, which need not lie together in the file.
    captions = collections.defaultdict(list)
    for annotation in content['annotations']:
        # COCO's captions hold line breaks and double spaces.
        caption = ' '.join(annotation['caption'].split())
        # An empty caption would mean the dropped text.
        if caption:
            captions[annotation['image_id']].append(caption)
    if not captions:
        raise ValueError(
            f'{path} holds no captions; training needs at least one per image: use '
            "COCO's captions file of the same split."
        )
    return captions, sha256


def check_images(
    annotations: Sequence[Mapping[str, Any]], files: Mapping[int, str], path: epath.Path
) -> None:
    """Checks that every panoptic annotation has an image.

    Args:
      annotations: The panoptic JSON's annotations.
      files: {image id: file name} of the panoptic JSON's images.
      path: The panoptic JSON, for the message.

    Raises:
      ValueError: an annotation's image is not in `files`.
    """
    unknown = [entry['image_id'] for entry in annotations if entry['image_id'] not in files]
    if unknown:
        raise ValueError(
            f'{path}: {len(unknown)} annotations, the first of image {unknown[0]}, have no entry '
            "in 'images'; restore the original file."
        )


def check_files(folder: epath.Path, names: Sequence[str], fix: str) -> None:
    """Checks that a folder holds all files of these names.

    Args:
      folder: The folder of the files.
      names: File names.
      fix: What the user can do about missing files, for the message.

    Raises:
      FileNotFoundError: files are missing; the message names the first one.
    """
    # One listing rather than a question per file: 118,287 of them on a network disk take long.
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    missing = sorted(set(names) - present)
    if missing:
        raise FileNotFoundError(
            f'{folder} lacks {len(missing)} of {len(names)} files, the first {missing[0]}; {fix}.'
        )
