"""The annotation files of a COCO folder: finding and reading them.

`data/coco_entries.py` says what stands in them, `data/checked_json.py` reads and validates, and
`data/annotation_checks.py` checks that they fit together. `data/coco.py` makes examples of it all.
"""

import collections
from collections.abc import Sequence

from etils import epath

from panoptic_jax.data import annotation_checks, checked_json, coco_entries
from panoptic_jax.data.categories import remap
from panoptic_jax.data.example import Category


def read_panoptic(
    path: epath.Path, has_categories: bool, fix: str
) -> tuple[coco_entries.Panoptic, str]:
    """Reads a panoptic JSON and checks that its images and annotations belong together.

    Args:
      path: The panoptic JSON.
      has_categories: Whether the file must have categories; they are skipped otherwise.
      fix: What the user can do about a missing or damaged file, for the message.

    Returns:
      The content and the file's SHA-256.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file is no panoptic JSON, or names an image or its map twice or not at all.
    """
    form = coco_entries.CategorisedPanoptic if has_categories else coco_entries.Panoptic
    content, sha256 = checked_json.read(path, form, words=coco_entries.PANOPTIC_WORDS, fix=fix)
    annotation_checks.check_images(content, path)
    return content, sha256


def read_categories(path: epath.Path) -> tuple[list[coco_entries.CategoryEntry], str]:
    """Reads a file that holds nothing but a list of categories; gives its SHA-256 as well.

    Raises:
      FileNotFoundError, ValueError: the file is missing, or no list of categories.
    """
    fix = 'give the path of a list of categories'
    return checked_json.read(
        path, list[coco_entries.CategoryEntry], words=coco_entries.CATEGORY_WORDS, fix=fix
    )


def to_categories(
    entries: Sequence[coco_entries.CategoryEntry], path: epath.Path
) -> tuple[tuple[Category, ...], dict[int, int]]:
    """The categories of a list, renumbered where their ids do not fit into 1..254.

    Args:
      entries: The list's entries.
      path: The file that holds the list, for the messages.

    Returns:
      The categories with our ids, and {the list's id: our id}.

    Raises:
      ValueError: `remap` refuses the list.
    """
    try:
        return remap([Category(each.id, each.name, bool(each.isthing)) for each in entries])
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def find_captions(annotations: epath.Path, split: str) -> epath.Path:
    """The path of a split's captions file.

    The file's name may go on after the split's name, as in `captions_train2017_part.json`.

    Raises:
      ValueError: several files could be the split's captions.
    """
    path = annotations / f'captions_{split}.json'
    if path.exists() or not path.parent.is_dir():
        return path
    # A pattern would take brackets of the folder's name for a choice of letters.
    names = {other.name for other in path.parent.iterdir()}
    stem = path.name.removesuffix('.json')
    longer = []
    for name in sorted(names):
        # What has a panoptic JSON of its own is another split.
        is_other = name.replace('captions_', 'panoptic_', 1) in names
        if name.startswith(stem) and name.endswith('.json') and not is_other:
            longer.append(name)
    if len(longer) > 1:
        raise ValueError(
            f'{path.parent} holds {", ".join(longer)}; rename the one to use to {path.name}.'
        )
    # Reading the plain name fails, and the message then names the file that everybody has.
    return path.with_name(longer[0]) if longer else path


def read_captions(path: epath.Path, root: epath.PathLike) -> tuple[dict[int | str, list[str]], str]:
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
    content, sha256 = checked_json.read(
        path, coco_entries.Captions, words=coco_entries.CAPTIONS_WORDS, fix=fix
    )
    annotation_checks.check_kinds((each.image_id for each in content.annotations), path)
    # One image has about five captions, which need not lie together in the file.
    captions = collections.defaultdict(list)
    for annotation in content.annotations:
        # COCO's captions hold line breaks and double spaces.
        caption = ' '.join(annotation.caption.split())
        # An empty caption would mean the dropped text.
        if caption:
            captions[annotation.image_id].append(caption)
    if not captions:
        raise ValueError(
            f'{path} holds no captions; training needs at least one per image: use '
            "COCO's captions file of the same split."
        )
    return dict(captions), sha256
