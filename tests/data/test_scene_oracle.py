"""The oracle: it reads scenes back, and each score falls for its own mistake."""

import collections

import numpy as np
import pytest
from PIL import Image

from panoptic_jax.data import scene_oracle, scene_words, scenes
from panoptic_jax.scoring import scene_scores

COUNT = 48
MAP_CODES = np.array([0, *scene_words.THINGS, *scene_words.STUFF_COLOURS], np.uint8)
CAPTION = 'a red circle and a blue star over grass against a night sky'
RED, BLUE, PINK = (scene_oracle.COLOUR_CODES[name] for name in ('red', 'blue', 'pink'))
CIRCLE, STAR, NIGHT, GRASS, SNOW = 1, 4, 93, 96, 100


@pytest.fixture(scope='module')
def examples():
    source = scenes.Scenes(3, COUNT, 'validation')
    return [source[index] for index in range(COUNT)]


@pytest.fixture(scope='module')
def pairs(examples):
    """Images through an 8x area mean and bicubic x8, maps min-pooled to 64x64, one caption each."""
    images = [_decoded(example.image) for example in examples]
    maps = [e.category.reshape(64, 4, 64, 4).min(axis=(1, 3)) for e in examples]
    return images, maps, [e.captions[i % 5] for i, e in enumerate(examples)]


def _decoded(image):
    means = image.reshape(32, 8, 32, 8, 3).mean(axis=(1, 3), dtype=np.float32)
    planes = [Image.fromarray(means[..., channel]) for channel in range(3)]
    size, bicubic = (256, 256), Image.Resampling.BICUBIC
    grown = np.stack([np.asarray(plane.resize(size, bicubic)) for plane in planes], axis=-1)
    return np.rint(np.clip(grown, 0, 255)).astype(np.uint8)


def _enlarged(cells, factor):
    """Each of the (32, 32, ...) cells becomes factor x factor pixels."""
    return cells.repeat(factor, axis=0).repeat(factor, axis=1)


def test_image_cells_are_read_right(examples, pairs):
    """99 % of the cells whose truth is one colour all around read right, through the codec."""
    right = []
    for example, image in zip(examples, pairs[0], strict=True):
        truth = example.category.copy()
        for number, colour in scene_words.parse(example.captions[0])[0]:
            truth[example.category == number] = scene_oracle.COLOUR_CODES[colour]
        cells = truth.reshape(32, 8, 32, 8)
        pure = cells.min(axis=(1, 3)) == cells.max(axis=(1, 3))
        inner = np.zeros_like(pure)
        inner[1:-1, 1:-1] = np.lib.stride_tricks.sliding_window_view(pure, (3, 3)).all(axis=(2, 3))
        right.append((scene_oracle.read_image(image) == cells[:, 0, :, 0])[inner])
    assert np.concatenate(right).mean() >= 0.99


def test_brightness_does_not_change_a_reading():
    for colours, codes in (
        (scene_words.THING_COLOURS, scene_oracle.COLOUR_CODES),
        (scene_words.STUFF_COLOURS, {kind: kind for kind in scene_words.STUFF_COLOURS}),
    ):
        for name, colour in colours.items():
            for light in (0.88, 1.0, 1.12):
                lit = np.clip(np.array(colour) * light, 0, 255).astype(np.uint8)
                image = np.broadcast_to(lit, (256, 256, 3))
                assert np.all(scene_oracle.read_image(image) == codes[name]), (name, light)


@pytest.mark.parametrize('side', [32, 64, 128, 256])
def test_map_cells_read_as_their_majority(side):
    generator = np.random.default_rng(side)
    truth = MAP_CODES[generator.integers(len(MAP_CODES), size=(32, 32))]
    factor = side // 32
    category = _enlarged(truth, factor)
    if factor > 1:
        # One pixel of each cell has another id.
        others = MAP_CODES[generator.integers(len(MAP_CODES), size=(32, 32))]
        category[::factor, ::factor] = others
    assert np.array_equal(scene_oracle.read_map(category), truth)
    assert not scene_oracle.read_map(np.full((side, side), 50, np.uint8)).any()


def test_interior_cells_have_equal_neighbours():
    reading = np.full((32, 32), 92, np.uint8)
    reading[10, 20] = 1
    expected = np.ones((32, 32), bool)
    expected[9:12, 19:22] = False
    assert np.array_equal(scene_oracle.interior(reading), expected)


def test_truth_scores_at_the_ceiling_and_chance_far_below(pairs):
    result = scene_scores.yardsticks_of(*pairs)
    assert result['ceiling'] == scene_oracle.score(*pairs)
    # Of a thing that is half behind others the outline is not to be seen.
    assert result['ceiling'].pop('shape_recall_image') > 0.95
    assert min(result['ceiling'].values()) >= 0.97, result['ceiling']
    assert max(result['floor'].values()) <= 0.6, result['floor']


def test_noise_scores_nothing(pairs):
    _, maps, captions = pairs
    generator = np.random.default_rng(1)
    cells = [generator.integers(0, 256, (32, 32, 3), np.uint8) for _ in maps]
    images = [_enlarged(colours, 8) for colours in cells]
    noise_maps = [MAP_CODES[generator.integers(len(MAP_CODES), size=(64, 64))] for _ in maps]
    noise = scene_oracle.score(images, noise_maps, captions)
    assert max(noise.values()) < 0.05, noise
    blank = scene_oracle.score(images, [np.zeros_like(m) for m in maps], captions)
    assert blank['thing_recall_map'] == blank['stuff_recall_map'] == 0
    assert blank['image_map_agreement'] == 0


def right_cells():
    """Readings of an image and of a map that show exactly what CAPTION says."""
    image = np.full((32, 32), NIGHT, np.uint8)
    image[16:] = GRASS
    category = image.copy()
    image[4:10, 4:10] = RED
    image[20:26, 20:26] = BLUE
    category[4:10, 4:10] = CIRCLE
    category[20:26, 20:26] = STAR
    return image, category


def score(image_cells, map_cells):
    """The scores of an image and a map that read as these cells; their things are no shapes."""
    codes = {scene_oracle.COLOUR_CODES[n]: rgb for n, rgb in scene_words.THING_COLOURS.items()}
    codes |= scene_words.STUFF_COLOURS
    colours = np.zeros((256, 3), np.uint8)
    colours[list(codes)] = list(codes.values())
    image = _enlarged(colours[image_cells], 8)
    scores = scene_oracle.score_pair(image, _enlarged(map_cells, 2), CAPTION)
    del scores['shape_recall_image']
    return scores


def replaced(cells, old, new):
    return np.where(cells == old, new, cells).astype(np.uint8)


def test_what_the_caption_says_scores_one():
    assert set(score(*right_cells()).values()) == {1.0}


def test_a_thing_missing_in_the_map_costs_its_recall():
    image, category = right_cells()
    result = score(image, replaced(category, STAR, GRASS))
    assert result.pop('thing_recall_map') == 0.5
    assert 0.9 < result.pop('image_map_agreement') < 1
    assert set(result.values()) == {1.0}


def test_a_thing_of_another_colour_costs_the_colours_recall():
    image, category = right_cells()
    result = score(replaced(image, BLUE, PINK), category)
    assert result.pop('colour_recall_image') == 0.5
    assert 0.9 < result.pop('image_map_agreement') < 1
    assert set(result.values()) == {1.0}


def test_a_line_of_a_colour_is_no_thing():
    image, category = right_cells()
    image[20:26, 20:26] = GRASS
    image[20, :] = BLUE
    assert score(image, category)['colour_recall_image'] == 0.5


def test_wrong_stuff_in_the_image_costs_its_recall():
    image, category = right_cells()
    result = score(replaced(image, GRASS, SNOW), category)
    assert result.pop('stuff_recall_image') == 0.5
    assert 0.4 < result.pop('image_map_agreement') < 0.7
    assert set(result.values()) == {1.0}


def test_wrong_stuff_in_the_map_costs_its_recall():
    image, category = right_cells()
    assert score(image, replaced(category, GRASS, SNOW))['stuff_recall_map'] == 0.5


def test_blobs_in_the_right_colours_have_colours_and_no_shapes(examples):
    found = collections.defaultdict(list)
    for example in examples:
        things, *_ = scene_words.parse(example.captions[0])
        image = example.image.copy()
        for category, colour in things:
            rows, columns = np.nonzero(example.category == category)
            y, x = np.mgrid[:256, :256]
            squared = (y - rows.mean()) ** 2 + (x - columns.mean()) ** 2
            image[example.category == category] = scene_words.STUFF_COLOURS[GRASS]
            image[squared < len(rows) / np.pi] = scene_words.THING_COLOURS[colour]
        # Scenes of one thing, so that no disc covers another one.
        if len(things) == 1:
            result = scene_oracle.score_pair(image, example.category, example.captions[0])
            assert result['colour_recall_image'] == 1
            found[things[0][0] == CIRCLE].append(result['shape_recall_image'])
    assert set(found[True]) <= {1.0}
    assert set(found[False]) == {0.0}
    assert len(found[False]) > 3


def test_bad_input_to_the_oracle_is_refused(pairs):
    images, maps, captions = pairs
    with pytest.raises(ValueError, match='float64'):
        scene_oracle.read_image(np.zeros((256, 256, 3)))
    with pytest.raises(ValueError, match=r'\(48, 48\)'):
        scene_oracle.read_map(np.zeros((48, 48), np.uint8))
    with pytest.raises(ValueError, match='2 images, 1 maps'):
        scene_oracle.score(images[:2], maps[:1], captions[:2])
    with pytest.raises(ValueError, match='at least 3'):
        scene_scores.yardsticks_of(images[:2], maps[:2], captions[:2])
