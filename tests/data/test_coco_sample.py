"""A hundred real images of COCO, read and pooled."""

import json

import numpy as np
import pytest

from panoptic_jax.data import categories, geometry
from panoptic_jax.data.coco import CocoPanoptic


@pytest.fixture(scope='module')
def sample(shared):
    """The source of the real sample, and the annotations of its panoptic JSON."""
    root = shared / 'data' / 'coco_sample'
    content = json.loads((root / 'annotations' / 'panoptic_val2017.json').read_text())
    return CocoPanoptic(str(root), 'val2017'), content['annotations']


def crowds_of(annotation):
    """The categories of an annotation's crowds."""
    return {s['category_id'] for s in annotation['segments_info'] if s['iscrowd']}


@pytest.fixture(scope='module')
def some(sample):
    """(example, its annotation) of six images, three of which hold crowds."""
    source, annotations = sample
    crowded = [i for i, annotation in enumerate(annotations) if crowds_of(annotation)]
    assert len(crowded) >= 5
    return [(source[i], annotations[i]) for i in (0, 50, 102, *crowded[:3])]


def test_real_sample_is_complete(sample):
    source, _ = sample
    assert len(source) == 103
    assert source.num_captions.sum() == 516
    assert source.categories == categories.COCO


def test_real_categories_have_the_areas_of_the_annotation(some):
    for example, annotation in some:
        assert example.image_id == annotation['image_id']
        segments = annotation['segments_info']
        for number in {s['category_id'] for s in segments}:
            area = sum(s['area'] for s in segments if s['category_id'] == number)
            assert (example.category == number).sum() == area


def test_real_things_are_numbered_by_size_and_crowds_are_not(some):
    for example, annotation in some:
        areas = np.bincount(example.instance.ravel(), minlength=256)[1:]
        assert (np.diff(areas) <= 0).all()
        for number in crowds_of(annotation):
            assert ((example.category == number) & (example.instance == 0)).any()


def test_real_maps_are_pooled_faithfully(some, sample):
    source, _ = sample
    things = {entry.id for entry in source.categories if entry.is_thing}
    for example, annotation in some:
        image, category, instance = geometry.fit(example)
        assert (image.shape, image.dtype) == ((256, 256, 3), np.uint8)
        assert category.shape == instance.shape == (128, 128)
        pairs = set(zip(category.ravel().tolist(), instance.ravel().tolist(), strict=True))
        annotated = {s['category_id'] for s in annotation['segments_info']}
        assert {number for number, _ in pairs} <= {0, *annotated}
        owners = [number for number, instance in pairs if instance]
        # No instance number stands for two categories.
        assert len(owners) == len({instance for _, instance in pairs if instance})
        assert set(owners) <= things
