"""docs/DATA_SETS.md: its links give what converters write COCO's layout, which then opens.

The trees are made up in the form that each converter writes; the converters themselves do not run.
"""

import json
import re
import subprocess

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


def write_photo(path, generator):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (*SIZE, 3), np.uint8)).save(path)


def write_maps(json_path, folder, *, stems, image_name, map_name, categories, generator):
    """Panoptic files with a stuff, two things, a crowd and void in each map."""
    folder.mkdir(parents=True, exist_ok=True)
    thing = next(entry['id'] for entry in categories if entry['isthing'])
    stuff = next(entry['id'] for entry in categories if not entry['isthing'])
    images, annotations = [], []
    for stem in stems:
        numbers = generator.choice(np.arange(1, 2**24), 4, replace=False).tolist()
        ids = np.zeros(SIZE, np.int32)
        ids[:15] = numbers[0]
        ids[15:30, :20] = numbers[1]
        ids[15:25, 20:30] = numbers[2]
        ids[15:25, 30:40] = numbers[3]
        owners = [stuff, thing, thing, thing]
        segments = [
            {'id': number, 'category_id': owner, 'iscrowd': int(place == 3), 'bbox': [0, 0, 1, 1]}
            for place, (number, owner) in enumerate(zip(numbers, owners, strict=True))
        ]
        for segment in segments:
            segment['area'] = int((ids == segment['id']).sum())
        Image.fromarray(panoptic_png.segment_colours(ids)).save(folder / map_name(stem))
        images.append({'id': stem, 'file_name': image_name(stem), 'height': 40, 'width': 60})
        annotations.append(
            {'image_id': stem, 'file_name': map_name(stem), 'segments_info': segments}
        )
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    json_path.write_text(json.dumps(content))


def listed(*entries):
    return [{'id': i, 'name': name, 'isthing': thing} for i, name, thing in entries]


def make_ade20k(data, generator):
    root = data / 'ADEChallengeData2016'
    for split, folder in (('train', 'training'), ('val', 'validation')):
        stems = [f'ADE_{split}_{i:08d}' for i in (1, 2)]
        for stem in stems:
            write_photo(root / 'images' / folder / f'{stem}.jpg', generator)
        write_maps(
            root / f'ade20k_panoptic_{split}.json',
            root / f'ade20k_panoptic_{split}',
            stems=stems,
            image_name=lambda stem: f'{stem}.jpg',
            map_name=lambda stem: f'{stem}.png',
            # SceneParse's numbers begin with 0, and walls come before beds.
            categories=listed((0, 'wall', 0), (7, 'bed', 1), (149, 'flag', 1)),
            generator=generator,
        )


def make_cityscapes(data, generator):
    for split, city in (('train', 'aachen'), ('val', 'lindau')):
        stems = [f'{city}_{i:06d}_000019' for i in (1, 2)]
        for stem in stems:
            folder = data / 'cityscapes' / 'leftImg8bit' / split / city
            write_photo(folder / f'{stem}_leftImg8bit.png', generator)
        fine = data / 'cityscapes' / 'gtFine'
        fine.mkdir(parents=True, exist_ok=True)
        write_maps(
            fine / f'cityscapes_panoptic_{split}.json',
            fine / f'cityscapes_panoptic_{split}',
            stems=stems,
            image_name=lambda stem: f'{stem}_gtFine_leftImg8bit.png',
            map_name=lambda stem: f'{stem}_gtFine_panoptic.png',
            categories=listed((7, 'road', 0), (24, 'person', 1), (33, 'bicycle', 1)),
            generator=generator,
        )


def make_vistas(data, generator):
    for split in ('training', 'validation'):
        stems = [f'{split[0]}_{i}-Ab' for i in (1, 2)]
        for stem in stems:
            write_photo(data / 'mapillary' / split / 'images' / f'{stem}.jpg', generator)
        folder = data / 'mapillary' / split / 'panoptic'
        folder.mkdir(parents=True)
        write_maps(
            folder / 'panoptic_2018.json',
            folder,
            stems=stems,
            image_name=lambda stem: f'{stem}.jpg',
            map_name=lambda stem: f'{stem}.png',
            categories=listed((1, 'Bird', 1), (28, 'Sky', 0)),
            generator=generator,
        )


@pytest.mark.parametrize(
    ('name', 'make', 'root', 'splits', 'ids', 'caption'),
    [
        ('ADE20K', make_ade20k, 'ade20k', ('train', 'val'), {0: 3, 7: 1, 149: 2}, 'wall and bed'),
        (
            'Cityscapes', make_cityscapes, 'cityscapes_coco', ('train', 'val'),
            {7: 7, 24: 24, 33: 33}, 'road and person',
        ),
        (
            'Vistas', make_vistas, 'vistas', ('training', 'validation'),
            {1: 1, 28: 28}, 'Sky and Bird',
        ),
    ],
    ids=['ADE20K', 'Cityscapes', 'Vistas'],
)  # fmt: skip
def test_linked_data_set_opens(tmp_path, name, make, root, splits, ids, caption):
    make(tmp_path / 'data', np.random.default_rng(7))
    subprocess.run(['bash', '-euo', 'pipefail', '-c', links(name)], cwd=tmp_path, check=True)
    for split in splits:
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
