"""Small COCO folders of random pictures, for tests."""

import copy
import json
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_jax.data import panoptic_png

SIZE = (12, 20)  # rows and columns of the pictures
CATEGORIES = (
    {'id': 1, 'name': 'cat', 'isthing': 1},
    {'id': 77, 'name': 'dog', 'isthing': 1},
    {'id': 1001, 'name': 'grass', 'isthing': 0},
)


def write(root: Path, split: str = 'tiny', count: int = 3) -> tuple[dict, dict]:
    """Writes pictures and JSON files of a split; gives the content of both JSON files.

    Image n has n + 1 captions. Its map shows a cat (segment 5), a crowd of dogs (300) and grass.
    """
    rng = np.random.default_rng(count)
    (root / f'annotations/panoptic_{split}').mkdir(parents=True)
    (root / split).mkdir()
    images, annotations, captions = [], [], []
    for number in range(count):
        segments = rng.choice([0, 5, 300, 70_000], SIZE)
        colours = panoptic_png.segment_colours(segments)
        Image.fromarray(colours).save(root / f'annotations/panoptic_{split}/{number}.png')
        pixels = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(root / f'{split}/{number}.jpg')
        infos = [
            {'id': 5, 'category_id': 1, 'iscrowd': 0},
            {'id': 300, 'category_id': 77, 'iscrowd': 1},
            {'id': 70_000, 'category_id': 1001, 'iscrowd': 0},
        ]
        images.append({'id': number, 'file_name': f'{number}.jpg'})
        annotations.append(
            {'image_id': number, 'file_name': f'{number}.png', 'segments_info': infos}
        )
        captions += [
            {'image_id': number, 'caption': f'Cat {number}, {k}.'} for k in range(number + 1)
        ]
    panoptic = {
        'images': images,
        'annotations': annotations,
        'categories': copy.deepcopy([*CATEGORIES]),
    }
    contents = panoptic, {'annotations': captions}
    save(root, contents, split)
    return contents


def save(root: Path, contents: tuple[dict, dict], split: str = 'tiny') -> None:
    """Writes the panoptic JSON and the captions file of a split."""
    for name, content in zip(('panoptic', 'captions'), contents, strict=True):
        (root / f'annotations/{name}_{split}.json').write_text(json.dumps(content))
