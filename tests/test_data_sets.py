"""docs/DATA_SETS.md: its links give what converters write COCO's layout, which then opens.

The trees are made up in the form that each converter writes; the converters themselves do not run.
"""

import json
import re
import subprocess
from typing import NamedTuple

import numpy as np
import pytest
from code_names import ROOT
from PIL import Image

from panoptic_jax.data import panoptic_png
from panoptic_jax.data.coco import CocoPanoptic

DOCUMENT = (ROOT / 'docs' / 'DATA_SETS.md').read_text()
SIZE = (40, 60)  # pixels, height and width


def links(name):
    """The commands of the document that link a data set into COCO's layout."""
    (block,) = re.findall(rf'```bash\n# links: {name}\n(.*?)```', DOCUMENT, re.DOTALL)
    return block


class Form(NamedTuple):
    """What a converter leaves; {split} and {stem} stand for those of an image.

    Attributes:
      stems: {split: names of its images without ending}.
      photo: The file of an image.
      json: The panoptic JSON of a split.
      maps: The folder of its PNGs.
      image_name: An image's name in the JSON.
      map_name: A PNG's name.
      categories: (id, name, isthing) of each.
    """

    stems: dict[str, list[str]]
    photo: str
    json: str
    maps: str
    image_name: str
    map_name: str
    categories: list[tuple[int, str, int]]


ADE20K = Form(
    stems={
        'train': ['ADE_train_00000001', 'ADE_train_00000002'],
        'val': ['ADE_val_00000001', 'ADE_val_00000002'],
    },
    photo='ADEChallengeData2016/images/{folder}/{stem}.jpg',
    json='ADEChallengeData2016/ade20k_panoptic_{split}.json',
    maps='ADEChallengeData2016/ade20k_panoptic_{split}',
    image_name='{stem}.jpg',
    map_name='{stem}.png',
    # SceneParse's numbers begin with 0, and walls come before beds.
    categories=[(0, 'wall', 0), (7, 'bed', 1), (149, 'flag', 1)],
)
CITYSCAPES = Form(
    stems={
        'train': ['aachen_000001_000019', 'aachen_000002_000019'],
        'val': ['lindau_000001_000019', 'lindau_000002_000019'],
    },
    photo='cityscapes/leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png',
    json='cityscapes/gtFine/cityscapes_panoptic_{split}.json',
    maps='cityscapes/gtFine/cityscapes_panoptic_{split}',
    image_name='{stem}_gtFine_leftImg8bit.png',
    map_name='{stem}_gtFine_panoptic.png',
    categories=[(7, 'road', 0), (24, 'person', 1), (33, 'bicycle', 1)],
)
VISTAS = Form(
    stems={'training': ['t_1-Ab', 't_2-Ab'], 'validation': ['v_1-Ab', 'v_2-Ab']},
    photo='mapillary/{split}/images/{stem}.jpg',
    json='mapillary/{split}/panoptic/panoptic_2018.json',
    maps='mapillary/{split}/panoptic',
    image_name='{stem}.jpg',
    map_name='{stem}.png',
    categories=[(1, 'Bird', 1), (28, 'Sky', 0)],
)


def make(data, form, generator):
    """Writes the tree of a form: in each map a stuff, two things, a crowd and void."""
    thing = next(number for number, _, is_thing in form.categories if is_thing)
    stuff = next(number for number, _, is_thing in form.categories if not is_thing)
    for split, stems in form.stems.items():
        folder = {'train': 'training', 'val': 'validation'}.get(split, split)  # ADE20K's names
        maps = data / form.maps.format(split=split)
        maps.mkdir(parents=True)
        images, annotations = [], []
        for stem in stems:
            words = {'split': split, 'stem': stem, 'folder': folder, 'city': stem.split('_')[0]}
            photo = data / form.photo.format(**words)
            photo.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (*SIZE, 3), np.uint8)).save(photo)
            numbers = generator.choice(np.arange(1, 2**24), 4, replace=False).tolist()
            ids = np.zeros(SIZE, np.int32)
            ids[:15] = numbers[0]
            ids[15:30, :20] = numbers[1]
            ids[15:25, 20:30] = numbers[2]
            ids[15:25, 30:40] = numbers[3]
            segments = [
                {
                    'id': number,
                    'category_id': stuff if place == 0 else thing,
                    'iscrowd': int(place == 3),
                    'area': int((ids == number).sum()),
                    'bbox': [0, 0, 1, 1],
                }
                for place, number in enumerate(numbers)
            ]
            map_name = form.map_name.format(**words)
            Image.fromarray(panoptic_png.segment_colours(ids)).save(maps / map_name)
            image_name = form.image_name.format(**words)
            images.append({'id': stem, 'file_name': image_name, 'height': 40, 'width': 60})
            annotations.append({'image_id': stem, 'file_name': map_name, 'segments_info': segments})
        categories = [{'id': i, 'name': name, 'isthing': t} for i, name, t in form.categories]
        content = {'images': images, 'annotations': annotations, 'categories': categories}
        (data / form.json.format(split=split)).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ('name', 'form', 'root', 'ids', 'caption'),
    [
        ('ADE20K', ADE20K, 'ade20k', {0: 3, 7: 1, 149: 2}, 'wall and bed'),
        ('Cityscapes', CITYSCAPES, 'cityscapes_coco', {7: 7, 24: 24, 33: 33}, 'road and person'),
        ('Vistas', VISTAS, 'vistas', {1: 1, 28: 28}, 'Sky and Bird'),
    ],
    ids=['ADE20K', 'Cityscapes', 'Vistas'],
)
def test_linked_data_set_opens(tmp_path, name, form, root, ids, caption):
    make(tmp_path / 'data', form, np.random.default_rng(7))
    subprocess.run(['bash', '-euo', 'pipefail', '-c', links(name)], cwd=tmp_path, check=True)
    for split in form.stems:
        command = f'--config.data.root=data/{root}'
        assert command in DOCUMENT
        assert f'_split={split}' in DOCUMENT
        source = CocoPanoptic(str(tmp_path / 'data' / root), split, captions='categories')
        assert len(source) == 2
        assert source.source_ids == {ours: theirs for theirs, ours in ids.items()}
        example = source[1]
        assert example.captions == [f'a picture of {caption}']
        # Two things have numbers; the crowd keeps its category alone, and the rest is void.
        assert np.unique(example.instance).tolist() == [0, 1, 2]
        assert (example.category == 0).sum() == 40 * 60 - 15 * 60 - 15 * 20 - 2 * 10 * 10
        assert example.image.shape == (*SIZE, 3)
