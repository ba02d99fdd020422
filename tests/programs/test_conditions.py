"""Given maps and images: what weights can serve, where drawing starts, what a user gives."""

import jax
import numpy as np
import pytest
from conftest import random_parameters, tiny_config
from PIL import Image

from panoptic_jax import config as settings
from panoptic_jax import pipeline
from panoptic_jax.data import given_images
from panoptic_jax.data.facts import TextFacts
from panoptic_jax.diffusion import schedule
from panoptic_jax.diffusion.streams import Stream
from panoptic_jax.encoders import words
from panoptic_jax.encoders.load import load_autoencoder
from panoptic_jax.programs.conditions import start
from panoptic_jax.programs.description import assume
from panoptic_jax.programs.tasks import Role, Task, check_task
from panoptic_jax.weights import file as weights_file

SIDE = 64


def model(**fields):
    config = tiny_config('none')
    config.model.update(fields)
    config.image.update(noise_std=2.0, prediction='data')
    facts = load_autoencoder('pixels').facts
    text = TextFacts('words', 24, 16, words.fingerprint(24, 16))
    return assume(config.model.to_dict(), settings.streams(config), facts, text)


WHOLE, PART, ROUGH = Role(given=True), Role(given=True, known=True), Role(given=True, strength=0.5)


@pytest.mark.parametrize(
    ('fields', 'fitting', 'refused'),
    [
        (
            {'separate_times': True},
            [Task(), Task(WHOLE), Task(map=WHOLE), Task(PART), Task(ROUGH, WHOLE), Task(map=ROUGH)],
            [(Task(WHOLE, WHOLE), 'nothing is left to draw')],
        ),
        (
            {},
            [Task(), Task(PART), Task(map=PART), Task(PART, PART), Task(ROUGH, ROUGH)],
            [
                (Task(map=WHOLE), 'separate_times=True or model.given_map=True'),
                (Task(image=WHOLE), 'separate_times=True'),
                (Task(image=ROUGH), 'the same for both; other starts need weights'),
                (Task(ROUGH, Role(given=True, strength=0.6)), 'the same for both'),
            ],
        ),
        (
            {'given_map': True},
            [Task(map=WHOLE), Task(PART, WHOLE), Task(ROUGH, WHOLE)],
            [
                (Task(), 'need a whole map'),
                (Task(map=PART), 'need a whole map'),
                (Task(WHOLE, PART), 'draw images only'),
            ],
        ),
        (
            {'name': 'uvit'},
            [Task(), Task(PART), Task(ROUGH)],
            [
                (Task(map=WHOLE), "weights of 'one_stream' or 'two_stream'"),
                (Task(WHOLE), 'nothing is left to draw'),
            ],
        ),
        ({'zero_map_input': True}, [Task(PART)], [(Task(map=PART), 'never see the noisy map')]),
    ],
)
def test_a_task_needs_weights_that_can(fields, fitting, refused):
    description = model(**fields)
    for task in fitting:
        check_task(description, task)
    for task, message in refused:
        with pytest.raises(ValueError, match=message):
            check_task(description, task)
    for strength in (0.0, 1.5, float('nan')):
        with pytest.raises(ValueError, match=r'must be above 0\.001 and at most 1'):
            check_task(model(separate_times=True), Task(Role(given=True, strength=strength)))
    if not fields:
        with pytest.raises(ValueError, match='another order needs weights'):
            check_task(description, Task(), offset=0.2)


def test_a_strength_starts_from_the_noised_truth():
    noise, clean = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    stream = Stream(2.0, 'data')
    for strength in (0.3, 1.0):
        role = Role(given=True, strength=strength)
        found = start(role, stream, noise, clean=clean, known=None, std=5.0)
        alpha, sigma = schedule.alpha_sigma(strength)
        np.testing.assert_allclose(found, alpha * clean + 2 * sigma * noise, rtol=1e-5)
    alone = start(Role(), stream, noise, clean=None, known=None, std=5.0)
    np.testing.assert_array_equal(alone, 5 * noise)


def test_a_pixel_is_known_where_all_of_it_is(tmp_path):
    mask = np.random.default_rng(1).random((16, 16)).repeat(16, 0).repeat(16, 1) < 0.6
    mask[0, :100] = False
    Image.fromarray(np.uint8(mask) * 255).save(tmp_path / 'mask.png')
    want = mask.reshape(32, 8, 32, 8).all(axis=(1, 3))
    for given in (mask, str(tmp_path / 'mask.png'), np.pad(mask, ((0, 0), (64, 64)))):
        np.testing.assert_array_equal(given_images.read_known(given, 32), want)
    with pytest.raises(ValueError, match='array of uint8'):
        given_images.read_known(np.uint8(mask), 32)
    with pytest.raises(ValueError, match='array of float64'):
        given_images.read_image(np.zeros((8, 8, 3)))


@pytest.fixture(scope='module')
def own_times(tmp_path_factory):
    """Weights of a random network with own times: the file and its description."""
    description = model(separate_times=True, depth=0)
    path = tmp_path_factory.mktemp('weights') / 'weights.safetensors'
    empty = words.encode([''], tokens=24, features=16)[0]
    # Large enough for each input to matter.
    params = jax.tree.map(lambda a: 5 * a, random_parameters(description))
    weights_file.save(str(path), weights_file.Weights(params, empty, description))
    return str(path), description


def test_what_is_given_comes_out_of_the_function(own_times):
    path, _ = own_times
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 2, (2, SIDE, SIDE)).repeat(4, 1).repeat(4, 2)
    image = rng.integers(0, 256, (2, 32, 32, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    half = np.zeros((256, 256), bool)
    half[:, :128] = True
    masks = [half, half]
    draw = pipeline.load(path, evaluations=2, solver='1', guidance=0.0)
    captions = ['a red ball', 'a blue star']
    plain, plain_ids = draw(captions)

    images, maps = draw(captions, maps=list(ids))
    np.testing.assert_array_equal(maps, ids[:, ::4, ::4])
    assert np.abs(images.astype(int) - plain).max() > 10
    kept, maps = draw(captions, images=list(image))
    again, _ = draw(captions, images=list(image), seed=3)
    np.testing.assert_array_equal(kept, again)
    assert (maps != plain_ids).any()

    known = {'map': masks, 'image': masks}
    images, maps = draw(
        captions, maps=list(ids), images=list(image), known=known, order='map first'
    )
    np.testing.assert_array_equal(maps[:, :, :32], ids[:, ::4, :128:4])
    assert (maps[:, :, 32:] != ids[:, ::4, 128::4]).any()
    # Bicubic enlargement looks two latent pixels far.
    np.testing.assert_array_equal(images[:, :, :100], kept[:, :, :100])
    assert np.abs(images[:, :, 156:].astype(int) - kept[:, :, 156:]).max() > 10

    for arguments, message in (
        ({'known': masks}, 'neither maps nor images are given'),
        ({'images': list(image), 'known': {'map': masks}}, 'no maps are given'),
        ({'images': list(image), 'known': {'picture': masks}}, "an entry 'picture'"),
        ({'images': list(image), 'known': [half]}, r'known \(of the image\) needs one'),
        ({'images': list(image), 'strength': 'much'}, "is 'much'; it must be a number"),
        ({'images': list(image), 'strength': 2}, 'at most 1'),
        ({'order': 'image'}, "'together', 'map first', 'image first'"),
        ({'maps': list(ids), 'images': list(image)}, 'nothing is left to draw'),
    ):
        with pytest.raises(ValueError, match=message):
            draw(captions, **arguments)
