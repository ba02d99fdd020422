"""Image-caption folders without maps: reading, refusals, and a U-ViT trained on one."""

import json

import numpy as np
import pytest
from conftest import tiny_config
from PIL import Image

from panoptic_jax import evaluate, prepare, sample, train
from panoptic_jax.data import loader, manifest
from panoptic_jax.data.folder import CaptionedFolder
from panoptic_jax.scoring import preview

RNG = np.random.default_rng(0)


def fill(root, split, count, kind):
    """`count` random pictures; every other with two captions, and one without any."""
    folder = root / split
    folder.mkdir(parents=True)
    lines = []
    for i in range(count + 1):
        picture = Image.fromarray(RNG.integers(0, 256, (280 + i, 260, 3), np.uint8))
        picture.save(folder / f'picture{i:02d}.png')
        captions = [f'picture number {i}', 'another  caption\n'][: 1 + i % 2] if i < count else []
        if kind == 'txt' and captions:
            (folder / f'picture{i:02d}.txt').write_text('\n'.join(captions))
        if captions:
            lines.append(json.dumps({'file_name': f'picture{i:02d}.png', 'captions': captions}))
    if kind == 'jsonl':
        (folder / 'captions.jsonl').write_text('\n'.join(lines))
    return folder


def test_captions_beside_the_images_or_in_one_file(tmp_path):
    for kind in ('txt', 'jsonl'):
        fill(tmp_path, kind, 4, kind)
        source = CaptionedFolder(str(tmp_path), kind)
        assert source.num_captions.tolist() == [1, 2, 1, 2]
        example = source[3]
        assert example.captions == ['picture number 3', 'another caption']
        assert example.image.shape == (283, 260, 3)
        assert example.category is example.instance is None
        assert len(CaptionedFolder(str(tmp_path), kind, limit=2)) == 2
    assert source.description['count'] == 4


def test_pictures_stand_upright_and_captions_are_text(tmp_path):
    folder = fill(tmp_path, 'train', 1, 'txt')
    pixels = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: show it turned to the right
    Image.fromarray(pixels).save(folder / 'picture00.png', exif=exif)
    (found,) = CaptionedFolder(str(tmp_path), 'train')
    np.testing.assert_array_equal(found.image, np.rot90(pixels, -1))
    (folder / 'picture00.txt').write_bytes(b'caf\xe9')
    with pytest.raises(ValueError, match=r'picture00\.txt is no text in UTF-8'):
        CaptionedFolder(str(tmp_path), 'train')


def test_folders_without_captions_or_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'has no folder train/'):
        CaptionedFolder(str(tmp_path), 'train')
    folder = fill(tmp_path, 'train', 0, 'txt')
    with pytest.raises(ValueError, match=r'No image of .* has a caption'):
        CaptionedFolder(str(tmp_path), 'train')
    (folder / 'captions.jsonl').write_text('{"file_name": "missing.png", "caption": "x"}')
    with pytest.raises(FileNotFoundError, match=r'lacks 1 of the 1 images .* missing\.png'):
        CaptionedFolder(str(tmp_path), 'train')
    (folder / 'captions.jsonl').write_text('\n{"file_name": "missing.png"}')
    with pytest.raises(ValueError, match=r'captions\.jsonl, line 2: .*must be a JSON object'):
        CaptionedFolder(str(tmp_path), 'train')


def test_uvit_trains_and_samples_on_images_alone(tmp_path, one_device):
    fill(tmp_path / 'pictures', 'a', 9, 'txt')
    fill(tmp_path / 'pictures', 'b', 3, 'jsonl')
    config = tiny_config(tmp_path / 'data')
    config.data.update(source='folder', root=str(tmp_path / 'pictures'))
    config.data.update(train_split='a', validation_split='b', train_images=0, validation_images=0)
    prepare.prepare(config)
    assert manifest.open_manifest(config.data.dir)['map_size'] is None
    record = loader.Split(config.data.dir, 'train')[1]
    assert record.keys() == {'latents', 'image_id', 'captions', 'texts'}
    assert record['captions'] == ['picture number 1', 'another caption']
    config.model.name = 'one_stream'
    with pytest.raises(ValueError, match=r"have no maps, which model\.name='one_stream' learns"):
        train.train(config, str(tmp_path / 'run'))
    config.model.name = 'uvit'
    config.validate_every = config.preview_every = 4
    config.steps = 4
    assert train.train(config, str(tmp_path / 'run'), preview.make_preview(config))
    sample.sample(config, str(tmp_path / 'run'))
    assert len(list((tmp_path / 'run' / 'samples' / 'images').iterdir())) == 6
    with pytest.raises(ValueError, match=r'Nothing in .* can be scored: it has no maps'):
        evaluate.evaluate(config, str(tmp_path / 'run'))
