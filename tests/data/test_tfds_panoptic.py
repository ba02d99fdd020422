"""A data set that TFDS wrote with the features of its coco/2017_panoptic, and COCO's own folder."""

import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import once
from PIL import Image

from panoptic_jax import config as settings
from panoptic_jax.data import categories, panoptic_png
from panoptic_jax.data.coco import CocoPanoptic
from panoptic_jax.data.tfds_folders import DataSet
from panoptic_jax.data.tfds_panoptic import TfdsPanoptic
from panoptic_jax.preparation import sources

NAME = 'coco/2017_panoptic'
SPLITS = {'train': ('train2017', 9), 'validation': ('val2017', 4)}


def write_coco(root, split, count):
    """A COCO folder with random images, maps of random categories, crowds, and 1 to 3 captions.

    The first image is stored lying, and the last one has no caption.
    """
    rng = np.random.default_rng(count)
    (root / 'annotations' / f'panoptic_{split}').mkdir(parents=True)
    (root / split).mkdir()
    listed = [
        {'id': each.id, 'name': each.name, 'isthing': int(each.is_thing)}
        for each in categories.COCO
    ]
    panoptic = {'categories': listed, 'images': [], 'annotations': []}
    captions = []
    for number in range(count):
        stem, image_id = f'{number:012d}', int(rng.integers(1, 10**6))
        height, width = rng.integers(40, 80, 2).tolist()
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        exif = Image.Exif()
        if not number:
            pixels = np.rot90(pixels)
            exif[0x0112] = 6
        Image.fromarray(pixels).save(root / split / f'{stem}.jpg', exif=exif)
        ids = np.unique(rng.integers(1, 2**24, 5))
        segments = np.repeat(np.append(ids, 0), 40)[
            rng.integers(0, 200, (height, 1)).repeat(width, 1)
        ]
        infos = []
        for segment in np.unique(segments[segments > 0]).tolist():
            category = categories.COCO[rng.integers(len(categories.COCO))]
            infos.append(
                {
                    'id': segment,
                    'category_id': category.id,
                    'iscrowd': int(category.is_thing and rng.random() < 0.3),
                    'area': int((segments == segment).sum()),
                    'bbox': [0, 0, width, height],
                }
            )
        colours = panoptic_png.segment_colours(segments)
        Image.fromarray(colours).save(root / 'annotations' / f'panoptic_{split}' / f'{stem}.png')
        image = {'id': image_id, 'file_name': f'{stem}.jpg', 'height': height, 'width': width}
        panoptic['images'].append(image)
        panoptic['annotations'].append(
            {'image_id': image_id, 'file_name': f'{stem}.png', 'segments_info': infos}
        )
        for k in range(rng.integers(1, 4) if number < count - 1 else 0):
            captions.append({'image_id': image_id, 'caption': f' Picture {image_id} once  {k}.\n'})
    for name, content in (('panoptic', panoptic), ('captions', {'annotations': captions})):
        (root / 'annotations' / f'{name}_{split}.json').write_text(json.dumps(content))


class Coco(tfds.core.GeneratorBasedBuilder):
    """TFDS's builder of coco/2017_panoptic, without TensorFlow and without downloads."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='2017_panoptic', version='1.1.0')]  # noqa: RUF012
    root = None

    def _info(self):
        objects = {
            'id': np.int64,
            'area': np.int64,
            'bbox': tfds.features.BBoxFeature(),
            'label': tfds.features.ClassLabel(num_classes=len(categories.COCO)),
            'is_crowd': np.bool_,
        }
        features = {
            'image': tfds.features.Image(encoding_format='jpeg'),
            'image/filename': tfds.features.Text(),
            'image/id': np.int64,
            'panoptic_image': tfds.features.Image(encoding_format='png'),
            'panoptic_image/filename': tfds.features.Text(),
            'panoptic_objects': tfds.features.Sequence(objects),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(split) for name, (split, _) in SPLITS.items()}

    def _generate_examples(self, split):
        annotations = self.root / 'annotations'
        content = json.loads((annotations / f'panoptic_{split}.json').read_text())
        names = {each['id']: each['name'] for each in content['categories']}
        self.info.features['panoptic_objects']['label'].names = [*names.values()]
        by_id = {entry['image_id']: entry for entry in content['annotations']}
        for image in content['images']:
            entry = by_id[image['id']]
            objects = [
                {
                    'id': segment['id'],
                    'area': segment['area'],
                    'bbox': tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
                    'label': names[segment['category_id']],
                    'is_crowd': bool(segment['iscrowd']),
                }
                for segment in entry['segments_info']
            ]
            yield (
                image['file_name'],
                {
                    'image': str(self.root / split / image['file_name']),
                    'image/filename': image['file_name'],
                    'image/id': image['id'],
                    'panoptic_image': str(annotations / f'panoptic_{split}' / entry['file_name']),
                    'panoptic_image/filename': entry['file_name'],
                    'panoptic_objects': objects,
                },
            )


def write_both(root):
    """COCO's folder and, in the same place, the data set of TFDS."""
    for split, count in SPLITS.values():
        write_coco(root, split, count)
    builder = Coco(data_dir=str(root), config='2017_panoptic', file_format='array_record')
    builder.root = root
    builder.download_and_prepare()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A folder with both."""
    return once(tmp_path_factory, 'tfds_coco', write_both)


@pytest.fixture
def copy(root, tmp_path):
    """(a copy of the folder that a test may damage, the data set's folder in it)."""
    shutil.copytree(root, tmp_path / 'data')
    return tmp_path / 'data', tmp_path / 'data' / NAME / '1.1.0'


def open_tfds(root, split='train', name=NAME, **options):
    return TfdsPanoptic(DataSet(str(root), name), split, **options)


def same(one, other):
    """Asserts that two sources hold the same examples, in whatever order."""
    assert one.categories == other.categories
    assert one.source_ids == other.source_ids
    others = {example.image_id: example for example in map(other.__getitem__, range(len(other)))}
    assert len(one) == len(other) == len(others)
    for index in range(len(one)):
        example = one[index]
        expected = others[example.image_id]
        for name in ('image', 'category', 'instance'):
            np.testing.assert_array_equal(getattr(example, name), getattr(expected, name))
        assert example.captions == expected.captions
        assert one.num_captions[index] == len(example.captions)


@pytest.mark.parametrize('captions', ['file', 'categories'])
@pytest.mark.parametrize('split', SPLITS)
def test_examples_equal_those_of_the_coco_folder(root, split, captions):
    coco_split, count = SPLITS[split]
    folder = CocoPanoptic(str(root), coco_split, captions=captions)
    source = open_tfds(root, split, captions=captions)
    same(source, folder)
    assert len(source) == source.available == count - (captions == 'file')
    assert source.description['count'] == len(source)
    json.dumps(source.description)
    assert 'tensorflow' not in sys.modules


def test_things_crowds_and_lying_images_are_among_them(root):
    """What the comparison above would not show if it were missing."""
    content = json.loads((root / 'annotations' / 'panoptic_train2017.json').read_text())
    infos = [info for entry in content['annotations'] for info in entry['segments_info']]
    assert {info['iscrowd'] for info in infos} == {0, 1}
    source = open_tfds(root)
    assert max(example.instance.max() for example in source) > 0
    with Image.open(root / 'train2017' / '000000000000.jpg') as picture:
        assert picture.getexif()[0x0112] == 6


def test_limits_take_the_first_captioned_images(root):
    whole = open_tfds(root)
    three = open_tfds(root, limit=3)
    assert [example.image_id for example in three] == [whole[i].image_id for i in range(3)]
    assert (len(three), three.available) == (3, 8)
    assert len(open_tfds(root, limit=0.5)) == 4
    assert len(open_tfds(root, 'train[:5]', captions='categories')) == 5


def test_other_lists_of_categories_match_by_name(root, tmp_path):
    entries = [
        {'id': 1000 + each.id, 'name': each.name, 'isthing': int(each.is_thing)}
        for each in reversed(categories.COCO)
    ]
    path = tmp_path / 'list.json'
    path.write_text(json.dumps(entries))
    mine, theirs = open_tfds(root, categories=str(path)), open_tfds(root)
    names = {each.id: each.name for each in mine.categories}
    assert min(mine.source_ids.values()) > 1000
    assert mine.description != theirs.description
    for one, other in zip(mine, theirs, strict=True):
        coco = {each.id: each.name for each in categories.COCO}
        for number in np.unique(other.category[other.category > 0]).tolist():
            (own,) = np.unique(one.category[other.category == number])
            assert names[own] == coco[number]
    path.write_text(json.dumps(entries[1:]))
    with pytest.raises(ValueError, match=r"1 of 133 categories that the list .* the first '"):
        open_tfds(root, categories=str(path))
    path.write_text(json.dumps([*entries, entries[0] | {'id': 7}]))
    with pytest.raises(ValueError, match=r'name'):
        open_tfds(root, categories=str(path))


def test_the_newest_version_counts_unless_one_is_named(copy):
    root, folder = copy
    # TFDS's metadata name no version of their own folder.
    for version in ('1.0.9', '1.10.0'):
        shutil.copytree(folder, folder.with_name(version))
    assert open_tfds(root)._builder.data_path.name == '1.10.0'
    assert open_tfds(root, name=f'{NAME}:1.1.0')._builder.data_path.name == '1.1.0'
    with pytest.raises(FileNotFoundError, match=r'no data set coco/2017_panoptic of version 3\.0'):
        open_tfds(root, name=f'{NAME}:3.0.0')


def test_what_is_not_there_is_named_with_a_way_to_get_it(root, tmp_path):
    message = r'has no data set coco/2017_panoptic, .* tfds build coco/2017_panoptic --file_format'
    for place in (tmp_path, tmp_path / 'none', ''):
        with pytest.raises(FileNotFoundError, match=message):
            open_tfds(place)
    with pytest.raises(FileNotFoundError, match=r'no data set mnist'):
        open_tfds(root, name='mnist')
    for name in ('../coco', 'coco//a', '', '/coco'):
        with pytest.raises(ValueError, match=r"data\.tfds_name is '.*'; it must be"):
            open_tfds(root, name=name)
    with pytest.raises(ValueError, match=r'must be on a local disk'):
        open_tfds('gs://bucket/data')
    with pytest.raises(ValueError, match=r"has no split 'train2017' but train, validation; set"):
        open_tfds(root, 'train2017')


def test_captions_are_looked_for_by_both_names_of_a_split(copy):
    root, _ = copy
    annotations = root / 'annotations'
    (annotations / 'captions_train2017.json').rename(annotations / 'captions_train.json')
    assert len(open_tfds(root)) == 8
    assert len(open_tfds(root, 'train[:5]')) >= 4
    (annotations / 'captions_train.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'captions_train2017\.json is missing'):
        open_tfds(root)
    shutil.copy(annotations / 'captions_val2017.json', annotations / 'captions_train.json')
    with pytest.raises(ValueError, match=r"None of the 9 images of the split 'train' of .* has a"):
        open_tfds(root)
    assert len(open_tfds(root, captions='categories')) == 9


@pytest.mark.parametrize(
    ('damage', 'said'),
    [
        ('features', r'lacks the features panoptic_image, panoptic_objects/is_crowd; data\.tfds_'),
        ('labels', r'133 of 133 categories that COCO.s list lacks, the first .0.; set data\.cat'),
        ('form', r'is in the form tfrecord, which needs TensorFlow; rewrite it: tfds convert'),
        ('metadata', r'cannot be opened as a data set of TFDS .* again with tfds build'),
        ('no metadata', r'cannot be opened as a data set of TFDS'),
        ('record', r"split 'train', record \d cannot be read .*; restore the file"),
    ],
)
def test_other_features_forms_and_damage_are_one_sentence(copy, damage, said):
    root, folder = copy
    features, info = folder / 'features.json', folder / 'dataset_info.json'
    if damage == 'features':
        content = json.loads(features.read_text())
        fields = content['featuresDict']['features']
        del fields['panoptic_image']
        inner = fields['panoptic_objects']['sequence']['feature']['featuresDict']['features']
        del inner['is_crowd']
        features.write_text(json.dumps(content))
    elif damage == 'labels':
        (folder / 'panoptic_objects-label.labels.txt').unlink()
    elif damage == 'form':
        info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    elif damage == 'metadata':
        info.write_text(info.read_text()[:100])
    elif damage == 'no metadata':
        features.unlink()
    else:
        (shard,) = folder.glob('coco-train*')
        content = bytearray(shard.read_bytes())
        content[2000:6000] = bytes(4000)
        shard.write_bytes(content)
    with pytest.raises(ValueError, match=said) as raised:
        list(open_tfds(root))
    assert '\n' not in str(raised.value)


def test_missing_shards_are_named_before_any_work(copy):
    root, folder = copy
    (shard,) = folder.glob('coco-train*')
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks 1 of 1 files .*'train', .*{shard.name}"):
        open_tfds(root, captions='categories')
    assert len(open_tfds(root, 'validation')) == 3


def test_preparation_opens_both_splits(root):
    config = settings.default()
    config.data.update(source='tfds', root=str(root), train_images=4)
    config.data.update(train_split='train', validation_split='validation')
    settings.check(config)
    opened = sources.open_sources(sources.SourceSettings(**settings.source(config)))
    # Half of the training images, and so half of those for validation.
    assert {name: len(source) for name, source in opened.items()} == {'train': 4, 'validation': 2}
