"""Image-caption folders without maps: reading, refusals, and a U-ViT trained on one."""

import json

import numpy as np
import one_device
import pytest
from conftest import tiny_config
from PIL import Image

from panoptic_jax.data import loader, manifest
from panoptic_jax.data.folder import CaptionedFolder

RNG = np.random.default_rng(0)


def fill(root, split, count, kind):
    """`count` random images, every second one with two captions, and one image without any."""
    folder = root / split
    folder.mkdir(parents=True)
    lines = []
    for i in range(count + 1):
        image = Image.fromarray(RNG.integers(0, 256, (280 + i, 260, 3), np.uint8))
        image.save(folder / f'picture{i:02d}.png')
        if i == count:
            break
        captions = [f'picture number {i}', 'another  caption\n'][: 1 + i % 2]
        if kind == 'txt':
            (folder / f'picture{i:02d}.txt').write_text('\n'.join(captions))
        else:
            lines.append(json.dumps({'file_name': f'picture{i:02d}.png', 'captions': captions}))
    if kind == 'jsonl':
        (folder / 'captions.jsonl').write_text('\n'.join(lines))
    return folder


@pytest.mark.parametrize('kind', ['txt', 'jsonl'])
def test_captions_beside_the_images_or_in_one_file(tmp_path, kind):
    fill(tmp_path, 'train', 4, kind)
    source = CaptionedFolder(str(tmp_path), 'train')
    assert source.num_captions.tolist() == [1, 2, 1, 2]
    example = source[3]
    assert example.captions == ['picture number 3', 'another caption']
    assert example.image.shape == (283, 260, 3)
    assert example.category is example.instance is None
    assert len(CaptionedFolder(str(tmp_path), 'train', limit=2)) == 2
    assert source.description['count'] == 4


def test_images_stand_upright(tmp_path):
    folder = fill(tmp_path, 'train', 1, 'txt')
    pixels = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: show it turned to the right
    Image.fromarray(pixels).save(folder / 'picture00.png', exif=exif)
    (example,) = CaptionedFolder(str(tmp_path), 'train')
    np.testing.assert_array_equal(example.image, np.rot90(pixels, -1))


def test_captions_that_are_no_text_are_refused(tmp_path):
    folder = fill(tmp_path, 'train', 1, 'txt')
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


def test_uvit_trains_and_samples_on_images_alone(tmp_path):
    fill(tmp_path / 'pictures', 'a', 9, 'txt')
    fill(tmp_path / 'pictures', 'b', 3, 'jsonl')
    config = tiny_config(tmp_path / 'data')
    config.data.update(source='folder', root=str(tmp_path / 'pictures'))
    config.data.update(train_split='a', validation_split='b', train_images=0, validation_images=0)
    one_device.prepare(config)
    assert manifest.open_manifest(config.data.dir).stored_map_side is None
    record = loader.Split(config.data.dir, 'train')[1]
    assert record.keys() == {'latents', 'image_id', 'captions', 'texts'}
    assert record['captions'] == ['picture number 1', 'another caption']
    config.model.name = 'one_stream'
    with pytest.raises(ValueError, match=r"have no maps, which model\.name='one_stream' learns"):
        one_device.train(config, tmp_path / 'run')
    config.model.name = 'uvit'
    config.validate_every = config.preview_every = 4
    config.steps = 4
    assert one_device.train(config, tmp_path / 'run')
    one_device.sample(config, tmp_path / 'run')
    assert len(list((tmp_path / 'run' / 'samples' / 'images').iterdir())) == 6
    with pytest.raises(ValueError, match=r'Nothing in .* can be scored: it has no maps'):
        one_device.evaluate(config, tmp_path / 'run')
