"""Whether the entries of COCO's annotation files belong together: images, maps, captions, segments.

What a single entry must be is in `data/coco_entries.py`.
"""

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence

from etils import epath

from panoptic_jax.data.checked_json import shown
from panoptic_jax.data.coco_entries import Annotation, Panoptic


def check_kinds(ids: Iterable[int | str], path: epath.Path) -> None:
    """Refuses a file in which some image ids are numbers and some are texts.

    Args:
      ids: The file's image ids.
      path: The file, for the message.

    Raises:
      ValueError: there are ids of both kinds.
    """
    # The last id of each kind is as good an example as any.
    examples = {type(each): each for each in ids}
    if len(examples) > 1:
        number, text = shown(examples[int]), shown(examples[str])
        raise ValueError(
            f'{path} has image ids that are numbers, such as {number}, and others that are texts, '
            f'such as {text}; write all in one way, or images and annotations do not meet.'
        )


def check_images(panoptic: Panoptic, path: epath.Path) -> None:
    """Checks that a panoptic JSON describes each image once and has an image for each map.

    Args:
      panoptic: The file's content.
      path: The file, for the messages.

    Raises:
      ValueError: an id stands for two images, an image has two maps, or a map has no image.
    """
    files: dict[int | str, str] = {}
    for image in panoptic.images:
        other = files.setdefault(image.id, image.file_name)
        # An entry that is there twice says the same twice.
        if other != image.file_name:
            raise ValueError(
                f'{path}: image id {shown(image.id)} stands for both {shown(other)} and '
                f'{shown(image.file_name)}; each image needs an id of its own.'
            )
    used = collections.Counter(entry.image_id for entry in panoptic.annotations)
    check_kinds([*files, *used], path)
    unknown = [image_id for image_id in used if image_id not in files]
    if unknown:
        raise ValueError(
            f'{path}: {len(unknown)} annotations, the first of image {shown(unknown[0])}, have no '
            "entry in 'images'; restore the original file."
        )
    twice = [image_id for image_id, count in used.items() if count > 1]
    if twice:
        raise ValueError(
            f'{path}: {len(twice)} images, the first of id {shown(twice[0])}, have several entries '
            "in 'annotations'; each image has one map: remove the others."
        )


def check_captioned(
    image_ids: Collection[int | str], captioned: Collection[int | str], paths: Sequence[epath.Path]
) -> None:
    """Refuses captions whose image ids are the map's ids written as another kind of value.

    Args:
      image_ids: The image ids of the panoptic JSON.
      captioned: The image ids of the captions file.
      paths: The panoptic JSON and the captions file, for the message.

    Raises:
      ValueError: one file has the number 7 where the other has the text "7".
    """
    as_texts = {str(each) for each in image_ids}
    for each in captioned:
        if each not in image_ids and str(each) in as_texts:
            kinds = ('numbers', 'texts') if isinstance(each, str) else ('texts', 'numbers')
            raise ValueError(
                f'The image ids of {paths[0]} are {kinds[0]} and those of {paths[1]} are '
                f'{kinds[1]}, such as {shown(each)}; write them in one way in both files.'
            )


def check_segments(
    annotations: Sequence[Annotation], category_ids: Mapping[int, int], path: epath.Path
) -> None:
    """Checks the segments of all maps, which would otherwise end a preparation after hours.

    Args:
      annotations: The annotations that are used.
      category_ids: {the source's category id: our id}.
      path: The panoptic JSON, for the messages.

    Raises:
      ValueError: a segment is described twice, or its category is not in the list.
    """
    for entry in annotations:
        ids = {segment.id for segment in entry.segments_info}
        if len(ids) < len(entry.segments_info):
            count = collections.Counter(segment.id for segment in entry.segments_info)
            segment_id, _ = count.most_common(1)[0]
            raise ValueError(
                f'{path}: image {shown(entry.image_id)} has segment {segment_id} twice in its '
                "'segments_info'; each id may occur once: restore the original annotation."
            )
        for segment in entry.segments_info:
            if segment.category_id not in category_ids:
                raise ValueError(
                    f'{path}: segment {segment.id} of image {shown(entry.image_id)} has category '
                    f'{segment.category_id}, which the category list lacks; complete the '
                    "JSON's 'categories'."
                )
